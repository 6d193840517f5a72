"""InternVL for sdrpn."""

from sdrpn_core import hookimpl

SDRPN_API = 1


@hookimpl
def sdrpn_register_backbones(registry):
    """InternVL on stock transformers."""
    registry.add(
        "internvl",
        "sdrpn_internvl.backbone:InternVLBackbone",
        model_types=("internvl",),
        help="InternVL: one stretched tile per image",
    )
