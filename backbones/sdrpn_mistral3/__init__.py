"""Mistral 3 for sdrpn."""

from __future__ import annotations

from typing import Any

from sdrpn_core import hookimpl

SDRPN_API = 1


@hookimpl
def sdrpn_register_backbones(registry: Any) -> None:
    """Mistral 3 on stock transformers."""
    registry.add(
        "mistral3",
        "sdrpn_mistral3.backbone:Mistral3Backbone",
        model_types=("mistral3",),
        help="Mistral 3: dynamic resolution with row breaks, sliding windows",
    )
