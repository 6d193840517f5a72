"""Batches: results of a batch equal those of its members alone."""

from __future__ import annotations

import pytest
import torch

from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.proposer import Proposer
from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.backbone.decoder import SLIDING_ATTENTION, attention_kinds
from sdrpn_core.runtime.generate_options import end_token_ids
from sdrpn_core.testing.checks import check, check_close
from sdrpn_core.testing.encoding import encoded
from sdrpn_core.testing.images import block_image
from sdrpn_core.testing.regions import FixedRegion
from sdrpn_core.testing.subject import ContractSubject

_N_NEW_TOKENS = 3
_TOLERANCE = 1e-4


class BatchChecks(ContractSubject):
    """Images of different shapes, several of them, none, in one batch."""

    @torch.no_grad()
    def test_images_encoded_together_equal_those_alone(self, backbone: Backbone) -> None:
        """Same order, same numbers, no padding left in."""
        images = [block_image(seed, size) for seed, size in enumerate(self.sizes)]
        for index, (item, found) in enumerate(encoded(backbone, "preprocess", images)):
            (alone,) = backbone.image_features([item])
            check_close(
                found,
                alone,
                f"image_features: image {index} of a batch is not encoded as it is alone: they "
                "must come back in order, each with its own tokens",
                tolerance=_TOLERANCE,
            )

    def test_windows_are_shorter_than_prompts(self, backbone: Backbone) -> None:
        """Or nothing here would tell what windows do to padding."""
        window = getattr(backbone.text_config, "sliding_window", None)
        slides = SLIDING_ATTENTION in attention_kinds(backbone.text_config)
        longest = max(map(len, backbone.encode(self.questions())))
        check(
            not slides or (window or 0) < longest,
            f"make: the decoder attends within windows of {window} tokens, but the longest prompt "
            f"has {longest}: make them shorter",
        )
        check(
            backbone.has_windows == slides,
            "has_windows: leave it as the decoder's configuration says",
        )

    @pytest.mark.parametrize("proposer", [None, FixedRegion()], ids=["plain", "two-stage"])
    def test_a_batch_of_answers_equals_one_by_one(
        self, backbone: Backbone, proposer: Proposer | None
    ) -> None:
        """Plain answers and answers with crops, on left-padded rows."""
        ends = sorted(end_token_ids(backbone)) or None
        questions = self.questions()

        def ask(asked: list[int]) -> list[tuple[object, ...]]:
            answers = answer_batch(
                backbone,
                [questions[index] for index in asked],
                proposer,
                max_new_tokens=_N_NEW_TOKENS,
                suppress_tokens=ends,  # random weights may end an answer before it begins
            )
            return [(one.ids, one.boxes, one.outcome, one.n_visual_tokens) for one in answers]

        for index, found in enumerate(ask(list(range(len(questions))))):
            (alone,) = ask([index])
            check(
                found == alone,
                f"image_features or positions: question {index} with "
                f"{len(questions[index].images)} images is answered {found} in a batch, and "
                f"{alone} alone",
            )
