"""LLaVA-1.5 (7B, 13B) for sdrpn."""

from __future__ import annotations

from typing import Any

from sdrpn_core import hookimpl

SDRPN_API = 1


@hookimpl
def sdrpn_register_backbones(registry: Any) -> None:
    """Register LLaVA on stock transformers."""
    registry.add(
        "llava",
        "sdrpn_llava.backbone:LlavaBackbone",
        model_types=("llava",),
        help="LLaVA-1.5: padded squares, Vicuna prompt",
    )


@hookimpl
def sdrpn_register_presets(registry: Any) -> None:
    """Register the presets of the published models."""
    for name in ("LLAVA_1_5_7B", "LLAVA_1_5_13B"):
        registry.add(
            name.lower().replace("_1_5_", "-1.5-"),
            f"sdrpn_llava.presets:{name}",
            model_types=("llava",),
        )
