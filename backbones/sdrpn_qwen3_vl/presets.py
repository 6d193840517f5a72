"""Published numbers for Qwen3-VL (arXiv:2604.06912 and its code)."""

from __future__ import annotations

from typing import Any

from sdrpn_core.backbone.preset import Preset
from sdrpn_core.labels.recipe import LabelRecipe

_SOURCE = (
    "arXiv:2604.06912 and its published code; no recipe for training the 8B was published, its "
    "branch layer is that of the 4B, which has as many layers"
)

#: q.k scores behind the multimodal rotary embeddings, without a norm of their own. Cells whose
#: keys a head of the very first token points at are attention sinks.
_RPN: dict[str, Any] = {
    "head": "qk_sinks",
    "head_options": {
        "rope": True,
        "multi_head": True,
        "source": "projections",
        "sink_threshold": 0.75,
    },
    "final_norm": False,
    "loss": "bce",
}

#: One epoch over 185k question-answer pairs with images of 451,584 pixels.
_TRAINING = {
    "learning_rate": 1e-4,
    "weight_decay": 0.0,
    "warmup_fraction": 0.03,
    "global_batch_size": 128,
    "epochs": 1,
}

#: One crop around everything above the threshold, of which no token is dropped; narrower ones are
#: widened.
POLICY_OPTIONS: dict[str, Any] = {
    "threshold": 0.15,
    "min_regions": 1,
    "keep_all": True,
    "min_side": 28,
}

#: Published with the heads: labels from padded squares of 576 visual tokens.
_LABELS: dict[str, Any] = {
    "sink_threshold": 1e-2,
    "foreground": 0.25,
    "background": 0.05,
    "min_peak": 5e-3,
    "box_blur": True,
    "padding_is_sink": True,
    "visual_tokens": 576,
}


def _preset(size: str, width: int, natural: LabelRecipe, text: LabelRecipe) -> Preset:
    return Preset(
        name=f"qwen3-vl-{size}",
        match={
            "model_type": "qwen3_vl",
            "text_config.num_hidden_layers": 36,
            "text_config.hidden_size": width,
        },
        branch=24,
        n_layers=3,
        recipes={"natural": natural, "text": text},
        rpn=_RPN,
        policy="mask",
        policy_options=POLICY_OPTIONS,
        training=_TRAINING,
        source=_SOURCE,
    )


QWEN3_VL_4B = _preset(
    "4b",
    2560,
    natural=LabelRecipe(
        grounding={20: (15, 21, 23), 21: (8, 10, 11)}, sink={20: (1, 24)}, **_LABELS
    ),
    text=LabelRecipe(grounding={19: (24, 27), 24: (21, 23)}, sink={24: (6, 10)}, **_LABELS),
)

QWEN3_VL_8B = _preset(
    "8b",
    4096,
    natural=LabelRecipe(grounding={20: (15, 21, 23), 21: (8, 10, 11)}, sink={21: (7,)}, **_LABELS),
    text=LabelRecipe(grounding={19: (24, 26, 27), 24: (21, 22, 23)}, sink={24: (1, 2)}, **_LABELS),
)
