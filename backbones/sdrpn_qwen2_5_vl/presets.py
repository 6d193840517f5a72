"""Published presets for Qwen2.5-VL (arXiv:2509.16944 and its code)."""

from __future__ import annotations

from typing import Any

from sdrpn_core.backbone.preset import Preset
from sdrpn_core.labels.recipe import LabelRecipe

_SOURCE = "arXiv:2509.16944 and its published code"

#: The published rules for images of many visual tokens, as options of a crop policy: above 768
#: tokens, attention sinks in the top left corner are ignored; above 1,024, the image's own tokens
#: are kept only where they matter to some token of the question. Published is that they are dropped
#: whatever that costs (``prune_rule="published"``); here, only where it makes the answer cheaper.
HIGH_RESOLUTION: dict[str, Any] = {
    "corner_sink_above": 768,
    "prune_above": 1024,
    "prune_threshold": 0.01,
}

#: q.k scores after the multimodal rotary embeddings, without a norm of their own.
_RPN = {
    "head": "qk",
    "head_options": {"rope": True, "multi_head": True, "source": "projections"},
    "final_norm": False,
    "loss": "bce",
}

#: One epoch over 152k question-answer pairs with images of 576 tokens, global batch 128. Only the
#: learning rate and the batch differ from the optimizer's defaults.
_TRAINING = {
    "learning_rate": 1e-4,
    "weight_decay": 0.0,
    "warmup_fraction": 0.03,
    "global_batch_size": 128,
    "epochs": 1,
}

#: The published evaluation masks a single crop around everything above the threshold. The published
#: thresholds differ by benchmark (3B: 0.03 to 0.175, 7B: 0.03 to 0.1); most of them are 0.1.
_POLICY_OPTIONS = {"threshold": 0.1, "min_regions": 1, **HIGH_RESOLUTION}

_LABELS: dict[str, Any] = {
    "sink_threshold": 1e-2,
    "min_peak": 5e-3,
    "box_blur": True,
    "padding_is_sink": True,
    "visual_tokens": 576,
}

#: With natural images, the prompt asks for the location, not for the answer: as published, but in
#: other words.
_GROUNDING: dict[str, Any] = {
    "drop_instruction": "Answer the question using a single word or phrase.",
    "question_template": (
        "{question}\nDo not answer in words: give the bounding box of every region that one has to"
        " look at, as plain text, one box per line: x_min y_min x_max y_max name"
    ),
}


def _preset(
    size: str,
    match: dict[str, Any],
    branch: int,
    natural: LabelRecipe,
    text: LabelRecipe,
) -> Preset:
    return Preset(
        name=f"qwen2.5-vl-{size}",
        match={
            "model_type": "qwen2_5_vl",
            "vision_config.patch_size": 14,
            "vision_config.spatial_merge_size": 2,
            **match,
        },
        branch=branch,
        n_layers=3,
        recipes={"natural": natural, "text": text},
        rpn=_RPN,
        policy="mask",
        policy_options=_POLICY_OPTIONS,
        training=_TRAINING,
        source=_SOURCE,
    )


QWEN2_5_VL_3B = _preset(
    "3b",
    {"text_config.num_hidden_layers": 36, "text_config.hidden_size": 2048},
    branch=21,
    natural=LabelRecipe(
        grounding={21: (9, 11), 22: (0, 7)}, sink={8: (1, 13)}, **_LABELS, **_GROUNDING
    ),
    text=LabelRecipe(grounding={20: (1, 4), 22: (14,)}, **_LABELS),
)

QWEN2_5_VL_7B = _preset(
    "7b",
    {"text_config.num_hidden_layers": 28, "text_config.hidden_size": 3584},
    branch=16,
    natural=LabelRecipe(
        grounding={16: (1, 7, 17), 19: (17, 20)}, sink={9: (4, 22)}, **_LABELS, **_GROUNDING
    ),
    text=LabelRecipe(grounding={22: (1, 4), 23: (6, 11)}, **_LABELS),
)
