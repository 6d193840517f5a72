"""Real models: random weights never follow the question, the models that ship always do.

``docs/heads.md`` has the figures for 20 seeds and 200 records.
"""

from __future__ import annotations

import pytest

from sdrpn_core import find_heads, load_backbone
from sdrpn_glyphs import backbone_dir
from tests.tiny import randomize, tiny_llava

DATA = "glyphs/small"
SIZES = {"n": 48, "max_new_tokens": 3, "progress": False}


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2, 3, 4))]
)
def test_random_weights_are_no_better_than_chance(seed):
    report = find_heads(tiny_llava(seed, grid=8), DATA, seed=seed, **SIZES)
    assert report.question_effect.n > 8
    assert not report.better_than_chance


FAMILIES = ("llava", "qwen2_5_vl", "deepseek_vl")


@pytest.mark.parametrize("family", FAMILIES)
def test_trained_heads_follow_the_question(family):
    trained = find_heads(load_backbone(backbone_dir(family)), DATA, **SIZES)
    assert trained.better_than_chance
    assert trained.warnings == ()


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_random_ones_of_the_same_shape_do_not(family):
    backbone = load_backbone(backbone_dir(family))
    randomize(backbone.model)
    assert not find_heads(backbone, DATA, **SIZES).better_than_chance
