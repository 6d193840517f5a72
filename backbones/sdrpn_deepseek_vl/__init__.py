"""DeepSeek-VL (1.3B: SigLIP; 7B: SigLIP and SAM) for sdrpn."""

from __future__ import annotations

from typing import Any

from sdrpn_core import hookimpl

SDRPN_API = 1


@hookimpl
def sdrpn_register_backbones(registry: Any) -> None:
    """Register DeepSeek-VL on stock transformers, with one vision encoder or two."""
    registry.add(
        "deepseek_vl",
        "sdrpn_deepseek_vl.backbone:DeepseekVLBackbone",
        model_types=("deepseek_vl", "deepseek_vl_hybrid"),
        help="DeepSeek-VL: padded squares, SigLIP with or without SAM",
    )


@hookimpl
def sdrpn_register_presets(registry: Any) -> None:
    """Register provisional presets; see their module."""
    for name, model_type in (("1_3B", "deepseek_vl"), ("7B", "deepseek_vl_hybrid")):
        registry.add(
            f"deepseek-vl-{name.lower().replace('_', '.')}",
            f"sdrpn_deepseek_vl.presets:DEEPSEEK_VL_{name}",
            model_types=(model_type,),
        )
