"""The stock model on stock inputs: prompts, pixels, and answers with crops as further images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.crop_encoding import crop_input, encode_crops
from sdrpn_core.answering.prefill import prefill
from sdrpn_core.answering.proposer import Proposer
from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.backbone.prompt import ImageSegment, Prompt, TextSegment
from sdrpn_core.backbone.question import ImageInput, Question
from sdrpn_core.runtime.generate_options import end_token_ids
from sdrpn_core.runtime.generation import prompt_block
from sdrpn_core.runtime.logits import block_logits
from sdrpn_core.testing.checks import check, check_close
from sdrpn_core.testing.encoding import PREPROCESSING, encoded
from sdrpn_core.testing.images import block_image
from sdrpn_core.testing.regions import FixedRegion
from sdrpn_core.testing.subject import ContractSubject

_N_NEW_TOKENS = 3
_LOGITS = 1e-3
_PIXELS = 1e-5
#: Fields of a generation config that read the prompt's ids.
_READS_IDS: Mapping[str, Any] = {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2}


class StockChecks(ContractSubject):
    """Whatever the adapter does by itself leads where the stock classes lead."""

    @pytest.mark.parametrize("n_images", [0, 1, 2])
    def test_prompts_are_the_stock_processors(self, backbone: Backbone, n_images: int) -> None:
        """Token for token, what stands around images and how the response is announced included."""
        if n_images > 1 and not self.supports_several_images:
            return
        if not n_images and not self.supports_text_only:
            return
        images = tuple(block_image(seed, size) for seed, size in enumerate(self.sizes[:n_images]))
        question = Question("what color is the square ?", images)
        (prompt,) = backbone.encode([question])
        found = backbone.token_ids(prompt)
        expected = self.stock_ids(backbone, question)
        names = backbone.tokenizer.convert_ids_to_tokens
        check(
            found == expected,
            f"chat_text: a prompt with {n_images} images is not the stock processor's: "
            f"{names(found)}, expected {names(expected)}",
        )

    @pytest.mark.parametrize("method", PREPROCESSING)
    def test_pixels_are_the_stock_processors(self, backbone: Backbone, method: str) -> None:
        """Resampling, channel order and normalization, on the image that it is shown."""
        for seed, size in enumerate(self.sizes):
            image = block_image(seed, size)
            tensors = getattr(backbone, method)(image).tensors
            expected = backbone.processor.image_processor(
                images=[self.stock_image(backbone, image, method)],
                return_tensors="pt",
                **(self.stock_options or {}),
            )
            for name in tensors.keys() & expected.keys():
                check_close(
                    tensors[name],
                    torch.as_tensor(expected[name]).to(tensors[name]),
                    f"{method}: {name} of an image of {size} are not the stock processor's",
                    tolerance=_PIXELS,
                )

    def test_crops_are_framed_like_images(self, backbone: Backbone) -> None:
        """As the stock processor writes one more image, or as the subject declares."""
        for question in self.questions():
            if not question.images:
                continue
            prompt, _ = with_crops(backbone, question, FixedRegion())
            shown = [one for image in question.images for one in (image, _middle(image))]
            expected = self.stock_ids(backbone, replace(question, images=tuple(shown)))
            found = backbone.token_ids(prompt)
            declared = self.crop_frame(backbone)
            if declared is not None:
                before, after = declared
                found, expected = _frame(backbone, question), [*before, *after]
            check(
                found == expected,
                f"frame_crop: a prompt with {len(question.images)} images and a crop of each is "
                f"not that of twice as many images: {found}, expected {expected}",
            )

    @torch.no_grad()
    def test_logits_with_crops_equal_the_stock_forward(self, backbone: Backbone) -> None:
        """Crops are further images of the prompt, to the stock model as well."""
        for question in self.questions():
            prompt, images = with_crops(backbone, question, FixedRegion())
            inputs = self._inputs(backbone, prompt, images)
            expected = backbone.model(**inputs).logits
            check_close(
                block_logits(backbone, prompt_block(backbone, [prompt])),
                expected,
                f"frame_crop (or image_features, positions): the logits of a prompt with "
                f"{len(question.images)} images and a crop of each are not those of the stock "
                "forward on ids and pixels",
                tolerance=_LOGITS,
            )

    @pytest.mark.parametrize("proposer", [None, FixedRegion()], ids=["plain", "two-stage"])
    def test_answers_follow_the_generation_config(
        self, backbone: Backbone, proposer: Proposer | None
    ) -> None:
        """In a batch, with penalties that read the prompt, as stock ``generate()`` answers."""
        questions = self.questions()
        ends = sorted(end_token_ids(backbone)) or None
        with _generation_config(backbone, _READS_IDS):
            answers = answer_batch(
                backbone,
                questions,
                proposer,
                max_new_tokens=_N_NEW_TOKENS,
                suppress_tokens=ends,  # random weights may end an answer before it begins
            )
            for question, answer in zip(questions, answers, strict=True):
                prompt, images = with_crops(backbone, question, proposer)
                inputs = self._inputs(backbone, prompt, images)
                sequence = backbone.model.generate(
                    **inputs,
                    attention_mask=torch.ones_like(inputs["input_ids"]),
                    max_new_tokens=_N_NEW_TOKENS,
                    suppress_tokens=ends,
                    do_sample=False,
                )
                expected = tuple(sequence[0, len(prompt) :].tolist())
                check(
                    answer.ids == expected,
                    f"image_ids (or frame_crop, positions): with {dict(_READS_IDS)} in the "
                    f"generation config, a question with {len(question.images)} images is "
                    f"answered {answer.ids}, and {expected} by the stock model",
                )

    def _inputs(
        self, backbone: Backbone, prompt: Prompt, images: Sequence[ImageInput]
    ) -> dict[str, Any]:
        ids = torch.tensor([backbone.token_ids(prompt)])
        return self.stock_inputs(backbone, prompt, ids, images)


def _middle(image: Image.Image) -> Image.Image:
    """What :class:`FixedRegion` cuts out."""
    width, height = image.size
    return image.crop(FixedRegion().box_in(width, height))


def _frame(backbone: Backbone, question: Question) -> list[int]:
    """Ids of the text around a crop."""
    ((_, features),) = encoded(backbone, "preprocess_crop", [question.images[0]])
    grid = backbone.preprocess_crop(question.images[0]).geometry.grid
    parts = backbone.frame_crop(ImageSegment(features, grid))
    return [token for part in parts if isinstance(part, TextSegment) for token in part.ids]


@torch.no_grad()
def with_crops(
    backbone: Backbone, question: Question, proposer: Proposer | None
) -> tuple[Prompt, list[ImageInput]]:
    """A prompt with its crops, and what the encoder gets of images and crops, in their order."""
    (prompt,) = backbone.encode([question])
    if proposer is None:
        return prompt, backbone.image_inputs(question)
    (proposals,) = proposer.propose(prefill(backbone, [question], proposer.reader))
    jobs = [(image, one.plan) for image, one in zip(question.images, proposals, strict=True)]
    crops, inputs = [], []
    for (image, _), whole, (plan, segments) in zip(
        jobs, backbone.image_inputs(question), encode_crops(backbone, jobs), strict=True
    ):
        inputs.append(whole)
        inputs += [crop_input(backbone, image, crop) for crop in plan.crops]
        crops.append(tuple(part for one in segments for part in backbone.frame_crop(one)))
    cropped = prompt.with_crops(tuple(crops))
    shown = sum(isinstance(segment, ImageSegment) for segment in cropped.segments)
    text = [segment for segment in cropped.segments if isinstance(segment, TextSegment)]
    check(
        shown == len(inputs) and not any(backbone.image_token_id in part.ids for part in text),
        f"frame_crop: {len(inputs)} images and crops became {shown} runs of visual tokens, or text "
        "that holds the placeholder",
    )
    return cropped, inputs


@contextmanager
def _generation_config(backbone: Backbone, fields: Mapping[str, Any]) -> Iterator[None]:
    config = backbone.model.generation_config
    before = {name: getattr(config, name) for name in fields}
    config.update(**fields)
    try:
        yield
    finally:
        config.update(**before)
