"""Gemma 3 for sdrpn."""

from __future__ import annotations

from typing import Any

from sdrpn_core import hookimpl

SDRPN_API = 1


@hookimpl
def sdrpn_register_backbones(registry: Any) -> None:
    """Gemma 3 on stock transformers."""
    registry.add(
        "gemma3",
        "sdrpn_gemma3.backbone:Gemma3Backbone",
        model_types=("gemma3",),
        help="Gemma 3: stretched images that attend to themselves, sliding windows",
    )
