"""ZoomEye (arXiv:2411.16044) as a benchmark method: a tree of crops, searched by confidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdrpn_core import hookimpl

if TYPE_CHECKING:
    from sdrpn_core.plugins.registry import Registry

SDRPN_API = 1


@hookimpl
def sdrpn_register_methods(registry: Registry[Any]) -> None:
    """Register the search."""
    registry.add(
        "zoomeye",
        "sdrpn_zoomeye.method:ZoomEye",
        help="ZoomEye: quarters of the image, searched by the model's own confidence",
    )
