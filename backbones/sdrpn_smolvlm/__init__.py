"""Idefics3 and SmolVLM for sdrpn."""

from __future__ import annotations

from typing import Any

from sdrpn_core import hookimpl

SDRPN_API = 1


@hookimpl
def sdrpn_register_backbones(registry: Any) -> None:
    """Idefics3 and SmolVLM on stock transformers."""
    registry.add(
        "smolvlm",
        "sdrpn_smolvlm.backbone:SmolVLMBackbone",
        model_types=(
            "idefics3",
            "smolvlm",
        ),
        help="Idefics3 and SmolVLM: one stretched tile per image",
    )
