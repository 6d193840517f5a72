"""Qwen3-VL (4B, 8B) for sdrpn."""

from __future__ import annotations

from typing import Any

from sdrpn_core import hookimpl

SDRPN_API = 1


@hookimpl
def sdrpn_register_backbones(registry: Any) -> None:
    """Qwen3-VL on stock transformers."""
    registry.add(
        "qwen3_vl",
        "sdrpn_qwen3_vl.backbone:Qwen3VLBackbone",
        model_types=("qwen3_vl",),
        help="Qwen3-VL: dynamic resolution, visual features in several decoder layers",
    )


@hookimpl
def sdrpn_register_presets(registry: Any) -> None:
    """The published models."""
    for size in ("4B", "8B"):
        registry.add(
            f"qwen3-vl-{size.lower()}",
            f"sdrpn_qwen3_vl.presets:QWEN3_VL_{size}",
            model_types=("qwen3_vl",),
        )


@hookimpl
def sdrpn_register_rpn_heads(registry: Any) -> None:
    """The published head."""
    registry.add(
        "qk_sinks",
        "sdrpn_qwen3_vl.head:SinkQKHead",
        help="q.k as qk has it, without attention sinks (Qwen3-VL)",
    )
