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
    branch=3,
    n_layers=2,
    # A placeholder until the backbone is probed.
    recipes={"glyphs": LabelRecipe(grounding={0: (0, 1, 3)})},
    rpn={"head": "qk", "head_options": {"rope": False}, "final_norm": True, "loss": "bce"},
    policy="bbox",
    policy_options={"threshold": 0.1, "min_area": 4},
    training={"learning_rate": 1e-3, "global_batch_size": 32, "epochs": 1},
    source="measured on the embedded backbone",
)
