"""Import published SD-RPN checkpoints: from a merged model to an RPN for its stock backbone.

Example:
    >>> from sdrpn_core import load_backbone
    >>> from sdrpn_published import import_rpn
    >>> backbone = load_backbone("path/to/base/model")  # doctest: +SKIP
    >>> rpn = import_rpn("path/to/published/checkpoint", backbone)  # doctest: +SKIP
    >>> rpn.save_pretrained("path/to/rpn")  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sdrpn_core import hookimpl

if TYPE_CHECKING:
    from sdrpn_core.plugins.registry import Registry
    from sdrpn_published.checkpoint import PublishedCheckpoint
    from sdrpn_published.importer import import_rpn

SDRPN_API = 1

__all__ = ["PublishedCheckpoint", "import_rpn"]

_MODULES = {"PublishedCheckpoint": "checkpoint", "import_rpn": "importer"}


@hookimpl
def sdrpn_register_commands(registry: Registry[Any]) -> None:
    """Register the command ``import-rpn``."""
    registry.add(
        "import-rpn",
        "sdrpn_published.import_command:import_rpn",
        help="Convert a published SD-RPN checkpoint to an RPN for the stock model.",
    )


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
