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
    # Heads (2, 1) and (0, 2), read at the answer's first word (the asked color), point at the asked
    # object in 0.96 of held-out pictures; the second word looks for its own color. No sink was found.
    recipes={"glyphs": LabelRecipe(grounding={0: (0, 1, 2, 3), 1: (3,), 2: (1,)}, response_rows=1)},
    rpn={"head": "qk", "head_options": {"rope": False}, "final_norm": True, "loss": "bce"},
    policy="bbox",
    # An object is one to four cells of the 10 x 10 grid: tight regions, not blurred, and half a cell
    # around, in case the region cuts through the object.
    policy_options={
        "threshold": 0.5,
        "min_area": 1,
        "blur": False,
        "keep_single": True,
        "margin": 0.5,
    },
    training={"learning_rate": 1e-3, "global_batch_size": 32, "epochs": 1},
    source="measured on the embedded backbone",
)
