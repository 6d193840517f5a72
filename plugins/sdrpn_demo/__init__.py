"""The demo: ``sdrpn demo``, a model and its RPN in a browser. Needs the extra ``demo``.

What happens to a question (``session``) knows no gradio; ``page`` lays it out.
"""

from __future__ import annotations

from typing import Any

from sdrpn_core import hookimpl

SDRPN_API = 1


@hookimpl
def sdrpn_register_commands(registry: Any) -> None:
    """The command ``demo``."""
    registry.add(
        "demo",
        "sdrpn_demo.demo_command:demo",
        help="Try a model and its RPN in a browser (extra: demo).",
    )
