"""The embedded backbone's numbers, found by measuring on it (see its model card)."""

from __future__ import annotations

from sdrpn_core.labels.recipe import LabelRecipe
from sdrpn_core.preset import Preset

GLYPHS_LLAVA = Preset(
    name="glyphs-llava",
    match={
        "model_type": "llava",
        "text_config.num_hidden_layers": 6,
        "text_config.hidden_size": 128,
        "vision_config.image_size": 80,
    },
    branch=2,
    n_layers=2,
    # At the answer's first word (the asked color) these heads point at the asked object in 0.93 of
    # the pictures; the second word looks for its own color. No head has a sink.
    recipes={"glyphs": LabelRecipe(grounding={0: (0, 1, 2, 3), 1: (3,), 2: (1,)}, response_rows=1)},
    # On a grid this coarse a distribution, cut at half its peak, always leaves a region: with bce
    # and a fixed threshold one question in twenty had none, or too many (dev set: 0.92 for 0.97).
    rpn={
        "head": "qk",
        "head_options": {"rope": False},
        "final_norm": True,
        "loss": "mse",
    },
    policy="bbox",
    # An object is one to four cells of the 10 x 10 grid: tight regions, not blurred, and half a
    # cell around, in case the region cuts through the object.
    policy_options={
        "threshold": 0.5,
        "relative": True,
        "min_area": 1,
        "blur": False,
        "keep_single": True,
        "margin": 0.5,
    },
    training={"learning_rate": 1e-3, "global_batch_size": 32, "epochs": 2},
    source="measured on the embedded backbone",
)
