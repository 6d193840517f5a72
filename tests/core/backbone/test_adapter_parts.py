"""Mistakes of adapters: one line that names the method, before the decoder has run on them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sdrpn_core import Outcome, Proposer, answer_batch
from sdrpn_core.answering.proposer import Proposal
from sdrpn_core.backbone.prompt import TextSegment
from sdrpn_core.backbone.question import Question
from sdrpn_core.crops.policy import Crop, CropPlan
from sdrpn_core.errors import ConfigError, InputError
from sdrpn_core.grid.geometry import PaddedSquare
from sdrpn_llava.backbone import LlavaBackbone
from tests.tiny import tiny_image, tiny_llava

QUESTION = Question("what color is the square ?", (tiny_image(),))


class OneCrop(Proposer):
    """Crops the same region of every image."""

    def propose(self, state):
        plan = CropPlan(Outcome.OK, (Crop((0, 0, 20, 20), (0, 0, 2, 2)),))
        return [[Proposal(plan) for _ in prompt.images] for prompt in state.prompts]


def broken(**methods):
    """A backbone with some methods replaced."""
    tiny = tiny_llava()
    adapter = type("Mistaken", (LlavaBackbone,), methods)
    return adapter(tiny.model, tiny.processor, name="mine")


def features(change):
    """``image_features``, its result changed."""
    return {
        "image_features": lambda self, inputs: change(LlavaBackbone.image_features(self, inputs))
    }


def other_grid(self, image):
    item = LlavaBackbone.preprocess(self, image)
    return replace(item, geometry=PaddedSquare(image.size, (6, 7), side=84))


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (
            {"preprocess": other_grid},
            "image_features gave 16 tokens for an image whose geometry has 6 x 7 cells: check pre",
        ),
        (features(lambda found: []), "image_features gave the features of 0 images for 1: return"),
        (features(lambda found: found * 2), "image_features gave the features of 2 images for 1"),
        (features(lambda found: None), "image_features returned a NoneType: return a list with"),
        (
            features(lambda found: [one[:, :-1] for one in found]),
            "image_features gave features of shape (16, 63): return (h * w, 64), as wide as",
        ),
        (
            {"preprocess": lambda self, image: None},
            "preprocess returned a NoneType: return an ImageInput(tensors, geometry)",
        ),
        (
            {"preprocess": lambda self, image: ({}, None)},
            "preprocess returned a tuple: return an ImageInput(tensors, geometry)",
        ),
        (
            {"preprocess_crop": lambda self, image: None},
            "preprocess_crop returned a NoneType: return an ImageInput(tensors, geometry)",
        ),
        (
            {"positions": lambda self, prompt: torch.arange(3)},
            "positions gave the shape (3,) for a prompt of",
        ),
        (
            {"frame_crop": lambda self, crop: crop},
            "frame_crop returned a ImageSegment: return a tuple of segments, such as (crop,)",
        ),
        (
            {"frame_crop": lambda self, crop: (5, crop)},
            "frame_crop returned a list of int, ImageSegment: return a tuple of segments",
        ),
        (
            {"chat_text": lambda self, question, n_images: f"USER: {question}"},
            "the prompt holds 0 image placeholders for 1 images: chat_text (or the processor's ",
        ),
    ],
)
def test_a_mistake_is_one_line_that_names_the_method(methods, message):
    with pytest.raises(ConfigError) as error:
        answer_batch(broken(**methods), [QUESTION], OneCrop(), max_new_tokens=2)
    assert str(error.value).startswith(f"mine: {message}")


def test_features_of_crops_go_with_their_geometry_too():
    backbone = broken(preprocess_crop=other_grid)
    with pytest.raises(ConfigError, match="16 tokens for an image whose geometry has 6 x 7 cells"):
        answer_batch(backbone, [QUESTION], OneCrop(), max_new_tokens=2)


def test_too_many_placeholders_may_be_the_questions():
    backbone = broken()
    question = replace(QUESTION, text="what is <image> ?", special_tokens=True)
    with pytest.raises(InputError, match="the question must not contain '<image>'"):
        backbone.encode([question])


def test_a_list_is_as_good_a_frame():
    framed = broken(frame_crop=lambda self, crop: [TextSegment((5,)), crop])
    (found,) = answer_batch(framed, [QUESTION], OneCrop(), max_new_tokens=2)
    assert found.n_visual_tokens == 32
