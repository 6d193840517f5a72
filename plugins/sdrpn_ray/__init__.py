"""The label stage on a Ray cluster: ``sdrpn label --engine ray``. Needs the extra ``ray``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdrpn_core import hookimpl

if TYPE_CHECKING:
    from sdrpn_core.plugins.registry import Registry

SDRPN_API = 1


@hookimpl
def sdrpn_register_label_engines(registry: Registry[Any]) -> None:
    """Ray Data."""
    registry.add(
        "ray",
        "sdrpn_ray.engine:RayEngine",
        help="a Ray Data job: workers on any machine of a cluster (extra: ray)",
    )
