"""ViCrop (arXiv:2502.17422) as benchmark methods: training-free crops by three kinds of maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdrpn_core import hookimpl

if TYPE_CHECKING:
    from sdrpn_core.plugins.registry import Registry

SDRPN_API = 1


@hookimpl
def sdrpn_register_methods(registry: Registry[Any]) -> None:
    """Register ViCrop with each of its three maps."""
    module = "sdrpn_vicrop.methods"
    registry.add(
        "vicrop",
        f"{module}:ViCrop",
        help="ViCrop: a window by attention relative to that of a generic prompt",
    )
    registry.add(
        "vicrop_grad_att",
        f"{module}:ViCropGradientAttention",
        help="ViCrop: a window by attention times its gradient",
    )
    registry.add(
        "vicrop_pure_grad",
        f"{module}:ViCropPureGradient",
        help="ViCrop: a window by the gradient at the image's pixels",
    )


@hookimpl
def sdrpn_register_crop_policies(registry: Registry[Any]) -> None:
    """Register ViCrop's search for a window, which any map can use."""
    registry.add(
        "window",
        "sdrpn_vicrop.window:WindowPolicy",
        help="one square window, of the size at which the map falls off most sharply (ViCrop)",
    )
