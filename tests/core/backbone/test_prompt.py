"""Prompts know where their images, their prefix and their query lie."""

from __future__ import annotations

import pytest
import torch

from sdrpn_core.backbone.prompt import ImageSegment, Prompt, TextSegment
from sdrpn_core.grid.geometry import PaddedSquare

GEOMETRY = PaddedSquare((10, 10), (2, 3), side=42)
IMAGE = ImageSegment(torch.ones(6, 4), (2, 3), GEOMETRY)
CROP = ImageSegment(torch.zeros(2, 4), (1, 2))


def text(n: int) -> TextSegment:
    return TextSegment(tuple(range(n)))


def test_spans_of_images():
    prompt = Prompt((text(3), IMAGE, text(2), IMAGE, text(4)))
    assert len(prompt) == 3 + 6 + 2 + 6 + 4
    assert prompt.image_spans == ((3, 9), (11, 17))
    assert prompt.images == (IMAGE, IMAGE)
    assert prompt.geometries == (GEOMETRY, GEOMETRY)
    assert prompt.n_visual_tokens == 12
    assert prompt.prefix_length == 17
    assert prompt.query_index == len(prompt) - 1


def test_the_query_is_the_token_before_the_response():
    prompt = Prompt((text(3), IMAGE, text(7)), response_length=4)
    assert prompt.query_index == 3 + 6 + 2


def test_without_an_image_the_prefix_is_one_token():
    prompt = Prompt((text(3),))
    assert (prompt.prefix_length, prompt.image_spans, prompt.n_visual_tokens) == (1, (), 0)


def test_crops_follow_their_image_and_are_no_images():
    prompt = Prompt((text(3), IMAGE, text(2), IMAGE, text(4)), response_length=1)
    longer = prompt.with_crops(((CROP, CROP), (CROP,)))
    assert [type(s).__name__[0] + str(len(s)) for s in longer.segments] == [
        *("T3", "I6", "I2", "I2", "T2", "I6", "I2", "T4")
    ]
    assert longer.image_spans == ((3, 9), (15, 21))
    assert longer.images == prompt.images
    assert longer.n_visual_tokens == 18
    assert longer.response_length == 1
    assert longer.query_index == prompt.query_index + 6


def test_no_crops_leave_the_prompt_as_it_is():
    prompt = Prompt((text(3), IMAGE, text(2)))
    assert prompt.with_crops(((),)) == prompt


@pytest.mark.parametrize("groups", [(), ((), ())])
def test_every_image_needs_its_group_of_crops(groups):
    with pytest.raises(ValueError, match=f"{len(groups)} groups of crops for 1 images"):
        Prompt((text(3), IMAGE)).with_crops(groups)
