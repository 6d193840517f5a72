"""Some rows of tapped features are what a pass over these rows alone would have tapped."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sdrpn_core.backbone.question import Question
from sdrpn_core.runtime.generation import prompt_block
from sdrpn_core.taps.feature_tap import Features, FeatureTap
from tests.tiny import tiny_image, tiny_llava
from tests.tiny_gemma3 import tiny_gemma3
from tests.tiny_qwen2_5_vl import tiny_qwen2_5_vl

BACKBONES = {"llava": tiny_llava, "qwen2_5_vl": tiny_qwen2_5_vl, "gemma3": tiny_gemma3}
QUESTIONS = [
    Question("what color is the square ?", (tiny_image(0),)),
    Question("how many ?", (tiny_image(1, (120, 60)),)),
    Question("which letter is on the left of the small circle ?", (tiny_image(2, (90, 90)),)),
]
ROWS = [2, 0]


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_rows_are_those_of_a_pass_over_them(name, attn_implementation):
    backbone = BACKBONES[name](attn_implementation=attn_implementation)
    block = prompt_block(backbone, backbone.encode(QUESTIONS))
    part = replace(
        block,
        embeds=block.embeds[ROWS],
        mask=block.mask[ROWS],
        positions=block.positions[..., ROWS, :],
        ids=None if block.ids is None else block.ids[ROWS],
    )
    with FeatureTap(backbone.decoder, 2) as tap:
        whole = tap.run(**block.model_inputs())
        expected = tap.run(**part.model_inputs())
    found = whole.rows(ROWS)
    torch.testing.assert_close(found.hidden, expected.hidden, rtol=0, atol=1e-5)
    assert_same(found.layer_kwargs, expected.layer_kwargs)
    assert len(found.following) == len(expected.following)
    for one, other in zip(found.following, expected.following, strict=True):
        assert_same(one, other)
    assert whole.rows([0, 1, 2]) is whole


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, tuple | torch.Tensor):
            torch.testing.assert_close(found[key], value, rtol=0, atol=1e-6)
        else:
            assert type(found[key]) is type(value)


def test_axes_may_stand_in_front_of_the_batch_in_positions():
    """As decoders with positions in time and space may hand them to their layers."""
    positions = torch.arange(3 * 4 * 5).view(3, 4, 5)
    shared = torch.arange(5)
    kwargs = {"position_ids": positions, "cache_position": shared, "use_cache": False}
    found = Features(torch.zeros(4, 5, 2), kwargs).rows([3, 1]).layer_kwargs
    assert torch.equal(found["position_ids"], positions[:, [3, 1]])
    assert found["cache_position"] is shared
    assert found["use_cache"] is False
