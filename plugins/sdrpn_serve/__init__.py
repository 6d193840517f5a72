"""The server: ``sdrpn serve``, an OpenAI-compatible API on Ray Serve. Needs the extra ``serve``.

The HTTP layer (``app`` and what it imports) knows neither Ray nor torch; the model behind it
(``served_model``, ``runner``) knows neither Ray nor HTTP; ``deployment`` puts them together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdrpn_core import hookimpl

if TYPE_CHECKING:
    from sdrpn_core.plugins.registry import Registry

SDRPN_API = 1


@hookimpl
def sdrpn_register_commands(registry: Registry[Any]) -> None:
    """The command ``serve``."""
    registry.add(
        "serve",
        "sdrpn_serve.serve_command:serve",
        help="Serve a model and its RPN over HTTP, as OpenAI's API (extra: serve).",
    )
