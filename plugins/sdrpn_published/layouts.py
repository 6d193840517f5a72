"""Layouts of published checkpoints, family by family.

A checkpoint contains a whole model, with the names of the code that trained it: the base model
(possibly truncated after the layers that training needs), and the branch: ``twig_layers``,
``twig_norm`` and ``twig_head``. The branch's language head does not contribute to any score and is
not read; nor are the parts of its last layer after the query and key projections.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from sdrpn_core.errors import CheckpointError

#: Parts of a published name that belong to the branch, or to the gate beside it.
_BRANCH_PARTS = ("twig_layers.", "twig_norm.", "twig_head.", "high_res_layers.", "high_res_head.")

#: Buffers that older versions of transformers saved; the stock models compute them.
_COMPUTED = (".rotary_emb.inv_freq", ".embeddings.position_ids")


@dataclass(frozen=True)
class Layout:
    """One family of published checkpoints.

    Attributes:
        model_type: the one in its ``config.json``.
        base_model_type: ``config.model_type`` of the stock model that it was trained on.
        rope: whether scores are computed after the rotary embeddings.
        norm_for: values of ``roi_super_type`` with a norm between the branch's layers and the
            scores.
        policy_options: fields of the mask policy that the published evaluation uses.
        base_names: published prefix -> candidate prefixes of the stock model, of which the first
            that exists is used; the first published prefix that matches a name counts.
        branch_prefix: what stands before the names of the branch's parts.
        head: the RPN head.
        gated: whether the gate of a checkpoint that has one is read. Otherwise it stays where it
            is: its answers follow rules for crops that this family's answers here do not.
    """

    model_type: str
    base_model_type: str
    rope: bool
    norm_for: frozenset[str]
    policy_options: Mapping[str, Any]
    base_names: Mapping[str, tuple[str, ...]]
    branch_prefix: str = "model."
    head: str = "qk"
    gated: bool = False

    def stock_name(self, published: str, known: Container[str]) -> str | None:
        """Translate a base tensor's name to the stock model's, one of ``known``; else ``None``."""
        for prefix, targets in self.base_names.items():
            if published.startswith(prefix):
                rest = published.removeprefix(prefix)
                return next((t + rest for t in targets if t + rest in known), None)
        return None


#: Scores on padded squares ignore positions and follow a norm. On resized images with multimodal
#: positions, they use positions, and the norm that those checkpoints also contain is not used.
LAYOUTS = (
    Layout(
        model_type="llava_llama",
        base_model_type="llava",
        rope=False,
        norm_for=frozenset({"v1"}),
        policy_options={"threshold": 0.15},
        base_names={
            "model.mm_projector.0.": ("model.multi_modal_projector.linear_1.",),
            "model.mm_projector.2.": ("model.multi_modal_projector.linear_2.",),
            "model.vision_tower.vision_tower.vision_model.": (
                "model.vision_tower.",
                "model.vision_tower.vision_model.",
            ),
            "model.": ("model.language_model.",),
            "lm_head.": ("lm_head.",),
        },
    ),
    Layout(
        model_type="qwen2_5_vl",
        base_model_type="qwen2_5_vl",
        rope=True,
        norm_for=frozenset(),
        policy_options={
            "threshold": 0.25,
            "min_regions": 1,
            "corner_sink_above": 768,
            "prune_above": 1024,
            "prune_threshold": 0.01,
            "prune_rule": "published",
        },
        base_names={
            "visual.": ("model.visual.",),
            "model.": ("model.language_model.",),
            "lm_head.": ("lm_head.",),
        },
    ),
    Layout(
        model_type="qwen3_vl",
        base_model_type="qwen3_vl",
        rope=True,
        norm_for=frozenset(),
        policy_options={"threshold": 0.15, "min_regions": 1, "keep_all": True, "min_side": 28},
        base_names={"model.": ("model.",), "lm_head.": ("lm_head.",)},
        branch_prefix="model.language_model.",
        head="qk_sinks",
        gated=True,
    ),
)


def find_layout(model_type: Any, where: str) -> Layout:
    """Find the layout of a published ``model_type``.

    Raises:
        CheckpointError: there is none.
    """
    for layout in LAYOUTS:
        if layout.model_type == model_type:
            return layout
    known = ", ".join(layout.model_type for layout in LAYOUTS)
    raise CheckpointError(
        f"{where}: no published checkpoint is known with model_type {model_type!r} (known: {known})"
    )


def published_name(rpn_name: str, n_layers: int, prefix: str = "model.") -> str:
    """Translate the name of an RPN's tensor to the published one.

    Args:
        rpn_name: as in ``RPN.state_dict()``.
        n_layers: R; the head is made from the branch's last layer.
        prefix: the layout's ``branch_prefix``.
    """
    last = f"{prefix}twig_layers.{n_layers - 1}."
    prefixes = {
        "head.norm.": f"{last}input_layernorm.",
        "head.attention.": f"{last}self_attn.",
        "layers.": f"{prefix}twig_layers.",
        "norm.": f"{prefix}twig_norm.",
        "gate.layers.": f"{prefix}high_res_layers.",
        "gate.head.": f"{prefix}high_res_head.",
    }
    for own, published in prefixes.items():
        if rpn_name.startswith(own):
            return published + rpn_name.removeprefix(own)
    raise CheckpointError(f"published checkpoints contain no counterpart of {rpn_name}")


def is_base(published: str) -> bool:
    """Whether a published tensor belongs to the base model and can be compared."""
    return not published.endswith(_COMPUTED) and not any(
        part in published for part in _BRANCH_PARTS
    )
