"""Positions: equal to the stock model's, and consistent when tokens are inserted or dropped."""

from __future__ import annotations

import numpy as np
import torch

from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.backbone.prompt import ImageSegment, Prompt
from sdrpn_core.backbone.question import Question
from sdrpn_core.runtime.generation import prompt_block
from sdrpn_core.runtime.logits import block_logits
from sdrpn_core.testing.checks import check, check_close
from sdrpn_core.testing.encoding import encoded
from sdrpn_core.testing.images import block_image
from sdrpn_core.testing.subject import ContractSubject

_TOLERANCE = 1e-3


class PositionChecks(ContractSubject):
    """From text and images to logits, compared with the stock model."""

    @torch.no_grad()
    def test_logits_equal_the_stock_forward(self, backbone: Backbone) -> None:
        """Segments, embeddings and positions against the stock forward on ids and pixels."""
        questions = self.questions()
        for question, prompt in zip(questions, backbone.encode(questions), strict=True):
            ids = backbone.token_ids(prompt)
            image_inputs = [backbone.preprocess(image) for image in question.images]
            inputs = self.stock_inputs(backbone, prompt, torch.tensor([ids]), image_inputs)
            expected = backbone.model(**inputs).logits
            found = block_logits(backbone, prompt_block(backbone, [prompt]))
            check_close(
                found,
                expected,
                f"positions (or image_features): the logits of a prompt with "
                f"{len(question.images)} images are not those of the stock forward on ids and "
                "pixels",
                tolerance=_TOLERANCE,
            )

    def test_positions_advance(self, backbone: Backbone) -> None:
        """One position per token; every segment lies behind those before it, crops included."""
        for prompt in self._prompts_with_crops(backbone):
            positions = backbone.positions(prompt)
            check(
                positions.shape[-1] == len(prompt) and not positions.is_floating_point(),
                f"positions: {positions.dtype} of shape {tuple(positions.shape)} for a prompt of "
                f"{len(prompt)} tokens: expected whole numbers, (length,) or (axes, length)",
            )
            reached, start = -1, 0
            for segment in prompt.segments:
                part = positions[..., start : start + len(segment)]
                check(
                    int(part.min()) > reached,
                    f"positions: a segment of {len(segment)} tokens at token {start} begins at "
                    f"position {int(part.min())}, but those before it reach {reached}",
                )
                reached, start = int(part.max()), start + len(segment)

    def test_a_crop_leaves_the_positions_before_it(self, backbone: Backbone) -> None:
        """Otherwise the prefix, which is cached before the crop is known, would be wrong."""
        prompt, cropped, *_ = self._prompts_with_crops(backbone)
        stop = prompt.image_spans[0][1]
        check(
            torch.equal(
                backbone.positions(prompt)[..., :stop], backbone.positions(cropped)[..., :stop]
            ),
            "positions: those up to an image's end change when a crop follows it: they may depend "
            "on what comes before a token only",
        )

    def test_dropped_tokens_leave_the_others_in_place(self, backbone: Backbone) -> None:
        """Row and column of a visual token stay its own when its neighbors are dropped."""
        prompt = self._prompt(backbone)
        ((start, stop),) = prompt.image_spans
        keep = _checkerboard(prompt.images[0].grid)
        whole, pruned = (backbone.positions(one) for one in (prompt, prompt.pruned((keep,))))
        check(
            pruned.shape[-1] == whole.shape[-1] - int((~keep).sum()),
            f"positions: {pruned.shape[-1]} positions for a prompt of which {int((~keep).sum())} "
            f"of {whole.shape[-1]} tokens were dropped",
        )
        if whole.ndim == 1:
            return  # one axis counts tokens, whichever they are
        found = pruned[:, start : start + int(keep.sum())]
        expected = whole[:, start:stop][:, torch.from_numpy(keep.flatten())]
        check(
            torch.equal(found, expected),
            "positions: the kept tokens of an image moved when others were dropped "
            "(ImageSegment.keep): row and column count the cells of the whole grid",
        )
        check(
            torch.equal(pruned[:, start + int(keep.sum()) :], whole[:, stop:]),
            "positions: the text behind an image moved when some of the image's tokens were "
            "dropped (ImageSegment.keep): an image takes up the room of its whole grid",
        )

    def _prompt(self, backbone: Backbone) -> Prompt:
        image = block_image(0, self.sizes[0])
        encoded(backbone, "preprocess", [image])  # what follows needs a token per cell
        return backbone.encode([Question("what is it ?", (image,))])[0]

    def _prompts_with_crops(self, backbone: Backbone) -> list[Prompt]:
        """A prompt, the same with a framed crop, and with one of which tokens are dropped."""
        prompt = self._prompt(backbone)
        ((item, features),) = encoded(backbone, "preprocess_crop", [block_image(1, self.sizes[-1])])
        crop = ImageSegment(features, item.geometry.grid)
        part = crop.masked(_checkerboard(crop.grid))
        framed = [prompt.with_crops((backbone.frame_crop(one),)) for one in (crop, part)]
        return [prompt, *framed]


def _checkerboard(grid: tuple[int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    rows, columns = np.indices(grid)
    mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = (rows + columns) % 2 == 0
    return mask
