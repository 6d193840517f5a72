"""The reused prefix: a second pass on the cache equals one without it."""

from __future__ import annotations

import torch

from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.crop_encoding import encode_crops
from sdrpn_core.answering.prefill import prefill
from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.backbone.prompt import ImageSegment, TextSegment
from sdrpn_core.backbone.question import Question
from sdrpn_core.runtime.generate_options import end_token_ids
from sdrpn_core.runtime.generation import prompt_block
from sdrpn_core.runtime.logits import block_logits
from sdrpn_core.testing.checks import check, check_close
from sdrpn_core.testing.encoding import encoded
from sdrpn_core.testing.images import block_image
from sdrpn_core.testing.regions import FixedRegion
from sdrpn_core.testing.subject import ContractSubject

N_NEW_TOKENS = 3
_TOLERANCE = 1e-3


class PrefixChecks(ContractSubject):
    """Framing of crops, and answers on a cached prefix."""

    def test_a_framed_crop_holds_the_crop(self, backbone: Backbone) -> None:
        """The framing adds text around a crop's tokens, which stay unchanged."""
        ((item, features),) = encoded(backbone, "preprocess_crop", [block_image(0, self.sizes[0])])
        crop = ImageSegment(features, item.geometry.grid)
        framed = backbone.frame_crop(crop)
        check(
            [segment for segment in framed if isinstance(segment, ImageSegment)] == [crop],
            f"frame_crop: must return the crop's own segment once, with text around it; got "
            f"{[type(segment).__name__ for segment in framed]}",
        )
        ids = [token for part in framed if isinstance(part, TextSegment) for token in part.ids]
        n_ids = backbone.embedding.num_embeddings
        check(
            backbone.image_token_id not in ids and all(0 <= token < n_ids for token in ids),
            f"frame_crop: {ids} around a crop: these must be ids below {n_ids} other than the "
            f"placeholder {backbone.image_token_id}",
        )

    @torch.no_grad()
    def test_logits_on_a_reused_prefix_equal_those_without(self, backbone: Backbone) -> None:
        """Caching up to the last image, then running the rest, equals one pass."""
        for _, state in prefill(backbone, self.questions()).parts():
            rest = state.rest()
            found = block_logits(backbone, rest, state.prefix, state.cache())
            for row, prompt in enumerate(state.prompts):
                whole = block_logits(backbone, prompt_block(backbone, [prompt]))
                check_close(
                    found[row][rest.mask[row].bool()],
                    whole[0, prompt.prefix_length :],
                    "positions: logits behind a cached prefix differ from those of one pass over "
                    "the whole prompt",
                    tolerance=_TOLERANCE,
                )

    def test_an_answer_on_a_reused_prefix_equals_recomputation(self, backbone: Backbone) -> None:
        """Token for token, with a crop behind every image."""
        ends = sorted(end_token_ids(backbone)) or None
        for question in self.questions():
            (found,) = answer_batch(
                backbone,
                [question],
                FixedRegion(),
                max_new_tokens=N_NEW_TOKENS,
                suppress_tokens=ends,  # random weights may end an answer before it begins
            )
            expected = recomputed(backbone, question)
            check(
                found.ids == expected,
                f"frame_crop or positions: an answer about {len(question.images)} images with a "
                f"crop behind each is {found.ids} on the cached prefix, and {expected} when the "
                "whole sequence is computed anew for every token: neither may depend on what "
                "follows",
            )


@torch.no_grad()
def recomputed(backbone: Backbone, question: Question) -> tuple[int, ...]:
    """The greedy answer with cropped middles, from one uncached pass per token."""
    (prompt,) = backbone.encode([question])
    (proposals,) = FixedRegion().propose(prefill(backbone, [question]))
    jobs = [(image, one.plan) for image, one in zip(question.images, proposals, strict=True)]
    crops = tuple(
        tuple(part for segment in segments for part in backbone.frame_crop(segment))
        for _, segments in encode_crops(backbone, jobs)
    )
    prompt = prompt.with_crops(crops)
    ends = sorted(end_token_ids(backbone))
    ids: tuple[int, ...] = ()
    for _ in range(N_NEW_TOKENS):
        block = prompt_block(backbone, [prompt.with_response(ids)])
        logits = block_logits(backbone, block)[0, -1]
        logits[ends] = -torch.inf
        ids = (*ids, int(logits.argmax()))
    return ids
