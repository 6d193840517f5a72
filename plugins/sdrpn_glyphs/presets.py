"""Presets of the embedded backbones, measured on these models (see their model cards)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdrpn_core.backbone.preset import Preset
from sdrpn_core.labels.recipe import LabelRecipe
from sdrpn_glyphs.families.base import LAYERS, WIDTH

#: Two layers below the branch, and three to find the objects in question: with two, the RPN found
#: both objects of a pair in half of the questions (LLaVA, n = 45: 53% answered right, then 78%).
BRANCH = 2
RPN_LAYERS = 3

# On such a coarse grid, a distribution with a threshold at half its peak always gives a region.
# With bce and a fixed threshold, one question in twenty had none, or too many (accuracy on the dev
# set of the first family: 0.92 instead of 0.97).
_RPN = {
    "head": "qk",
    "head_options": {"rope": False},
    "final_norm": True,
    "loss": "mse",
}

# An object covers one to four cells of the 10 x 10 grid: regions are tight and not blurred, with a
# margin of half a cell, in case a region cuts through the object. The second object of a pair may
# have a tenth of the first one's probability: the threshold is low, and what it finds too much is
# left out (right answers on `glyphs/pairs`, seed 5, n = 200: LLaVA 71%, 54% with at most two crops
# above 0.35; DeepSeek-VL 55% and 45%).
_POLICY_OPTIONS = {
    "threshold": 0.1,
    "relative": True,
    "keep_strongest": True,
    "max_crops": 3,
    "min_area": 1,
    "blur": False,
    "keep_single": True,
    "margin": 0.5,
}


def _preset(name: str, config: Mapping[str, Any], recipe: LabelRecipe) -> Preset:
    return Preset(
        name=name,
        match={
            "text_config.num_hidden_layers": LAYERS,
            "text_config.hidden_size": WIDTH,
            **config,
        },
        branch=BRANCH,
        n_layers=RPN_LAYERS,
        recipes={"glyphs": recipe},
        rpn=_RPN,
        policy="bbox",
        policy_options=_POLICY_OPTIONS,
        training={"learning_rate": 1e-3, "global_batch_size": 32, "epochs": 4},
        source="measured on the embedded backbone",
    )


# Heads as ranked by `sdrpn heads` (see the model cards). Of a pair, the first and the third word of
# the answer point at an object each: the colors that the question names. No head has a sink.
GLYPHS_LLAVA = _preset(
    "glyphs-llava",
    {"model_type": "llava", "vision_config.image_size": 80},
    LabelRecipe(grounding={2: (0, 1), 3: (0, 2), 4: (0,)}, response_rows=3),
)
GLYPHS_QWEN2_5_VL = _preset(
    "glyphs-qwen2_5_vl",
    {"model_type": "qwen2_5_vl"},
    LabelRecipe(grounding={1: (3,), 2: (1,), 3: (1,)}, response_rows=3),
)
GLYPHS_DEEPSEEK_VL = _preset(
    "glyphs-deepseek_vl",
    {"model_type": "deepseek_vl", "vision_config.image_size": 80},
    LabelRecipe(grounding={2: (0, 1), 3: (0, 2), 4: (0,)}, response_rows=3),
)
