"""Published presets for LLaVA-1.5 (arXiv:2509.16944 and its code)."""

from __future__ import annotations

from sdrpn_core.backbone.preset import Preset
from sdrpn_core.labels.recipe import LabelRecipe

_SOURCE = "arXiv:2509.16944 and its published code"

#: q.k scores without rotary embeddings, after a copy of the decoder's final norm.
_RPN = {
    "head": "qk",
    "head_options": {"rope": False, "multi_head": True, "source": "projections"},
    "final_norm": True,
    "loss": "bce",
}

#: One epoch over 152k question-answer pairs, global batch 512.
_TRAINING = {
    "learning_rate": 5e-5,
    "betas": (0.9, 0.98),
    "weight_decay": 0.0,
    "warmup_fraction": 0.03,
    "global_batch_size": 512,
    "epochs": 1,
}

#: Threshold 0.15 is the published choice for TextVQA, InfoVQA, ChartQA and POPE; 0.1 was used for
#: DocVQA, V* and HR-Bench, 0.05 for OCRBench.
_POLICY_OPTIONS = {"threshold": 0.15}

LLAVA_1_5_7B = Preset(
    name="llava-1.5-7b",
    match={
        "model_type": "llava",
        "text_config.num_hidden_layers": 32,
        "text_config.hidden_size": 4096,
        "vision_config.image_size": 336,
    },
    branch=15,
    n_layers=3,
    recipes={"natural": LabelRecipe(grounding={14: (13, 24, 26)}, sink={2: "all"})},
    rpn=_RPN,
    policy="bbox",
    policy_options=_POLICY_OPTIONS,
    training=_TRAINING,
    source=_SOURCE,
)

LLAVA_1_5_13B = Preset(
    name="llava-1.5-13b",
    match={
        "model_type": "llava",
        "text_config.num_hidden_layers": 40,
        "text_config.hidden_size": 5120,
        "vision_config.image_size": 336,
    },
    branch=15,
    n_layers=3,
    recipes={
        "natural": LabelRecipe(
            grounding={16: (2, 21, 30), 15: (2,), 13: (21, 23, 26)}, sink={16: (17, 22)}
        )
    },
    rpn=_RPN,
    policy="bbox",
    policy_options=_POLICY_OPTIONS,
    training=_TRAINING,
    source=_SOURCE,
)
