"""Provisional presets for DeepSeek-VL.

The paper (arXiv:2509.16944) reports accuracies for both models, but neither the paper nor its code
says with which branch layer, grounding heads or settings. Until the heads have been measured on the
real weights, there is no label recipe; ``sdrpn heads`` finds one. All other numbers are those
published for LLaVA-1.5, the family with the most similar preprocessing and decoder.
"""

from __future__ import annotations

from sdrpn_core.backbone.preset import Preset

_SOURCE = (
    "provisional: nothing is published for DeepSeek-VL; the settings of LLaVA-1.5 "
    "(arXiv:2509.16944 and its code), B at the same share of the decoder's depth as in its 7B model"
)

#: B and L of LLaVA-1.5-7B.
_PUBLISHED_BRANCH, _PUBLISHED_LAYERS = 15, 32

#: R is 3 in every published model.
_RPN_LAYERS = 3

#: LLaVA-1.5's: q.k scores without rotary embeddings, after a copy of the decoder's final norm.
_RPN = {
    "head": "qk",
    "head_options": {"rope": False, "multi_head": True, "source": "projections"},
    "final_norm": True,
    "loss": "bce",
}

#: LLaVA-1.5's for TextVQA, InfoVQA, ChartQA and POPE; both families have 24 x 24 visual tokens.
_POLICY_OPTIONS = {"threshold": 0.15}

#: LLaVA-1.5's, for one epoch over 152k question-answer pairs.
_TRAINING = {
    "learning_rate": 5e-5,
    "betas": (0.9, 0.98),
    "weight_decay": 0.0,
    "warmup_fraction": 0.03,
    "global_batch_size": 512,
    "epochs": 1,
}


def _preset(name: str, model_type: str, layers: int, width: int) -> Preset:
    return Preset(
        name=name,
        match={
            "model_type": model_type,
            "text_config.num_hidden_layers": layers,
            "text_config.hidden_size": width,
            "vision_config.image_size": 384,
        },
        branch=round(layers * _PUBLISHED_BRANCH / _PUBLISHED_LAYERS),
        n_layers=_RPN_LAYERS,
        rpn=_RPN,
        policy="bbox",
        policy_options=_POLICY_OPTIONS,
        training=_TRAINING,
        source=_SOURCE,
    )


DEEPSEEK_VL_1_3B = _preset("deepseek-vl-1.3b", "deepseek_vl", layers=24, width=2048)
DEEPSEEK_VL_7B = _preset("deepseek-vl-7b", "deepseek_vl_hybrid", layers=30, width=4096)
