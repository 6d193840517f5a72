"""Import published SD-RPN checkpoints: from a merged model to an RPN for its stock backbone.

Example:
    >>> from sdrpn_core import load_backbone
    >>> from sdrpn_published import import_rpn
    >>> backbone = load_backbone("path/to/base/model")  # doctest: +SKIP
    >>> rpn = import_rpn("path/to/published/checkpoint", backbone)  # doctest: +SKIP
    >>> rpn.save_pretrained("path/to/rpn")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lazy_loader

from sdrpn_core import hookimpl

if TYPE_CHECKING:
    from sdrpn_core.plugins.registry import Registry
    from sdrpn_published.checkpoint import PublishedCheckpoint as PublishedCheckpoint
    from sdrpn_published.importer import import_rpn as import_rpn

SDRPN_API = 1

# Not its __dir__: the hook below is found by the module's own.
__getattr__, _, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"checkpoint": ["PublishedCheckpoint"], "importer": ["import_rpn"]},
)


@hookimpl
def sdrpn_register_commands(registry: Registry[Any]) -> None:
    """Register the command ``import-rpn``."""
    registry.add(
        "import-rpn",
        "sdrpn_published.import_command:import_rpn",
        help="Convert a published SD-RPN checkpoint to an RPN for the stock model.",
    )
