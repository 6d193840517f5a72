"""Qwen2.5-VL (3B, 7B) for sdrpn."""

from __future__ import annotations

from typing import Any

from sdrpn_core import hookimpl

SDRPN_API = 1


@hookimpl
def sdrpn_register_backbones(registry: Any) -> None:
    """Register Qwen2.5-VL on stock transformers."""
    registry.add(
        "qwen2_5_vl",
        "sdrpn_qwen2_5_vl.backbone:Qwen2_5VLBackbone",
        model_types=("qwen2_5_vl",),
        help="Qwen2.5-VL: dynamic resolution, multimodal rotary positions",
    )


@hookimpl
def sdrpn_register_presets(registry: Any) -> None:
    """Register the presets of the published models."""
    for size in ("3B", "7B"):
        registry.add(
            f"qwen2.5-vl-{size.lower()}",
            f"sdrpn_qwen2_5_vl.presets:QWEN2_5_VL_{size}",
            model_types=("qwen2_5_vl",),
        )
