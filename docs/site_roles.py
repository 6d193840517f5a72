"""An extension of griffe: docstrings' cross-references (``:func:`name```) as code, for the site."""

from __future__ import annotations

import re
from typing import Any

import griffe

#: A role and its target; a leading ``~`` means that only the last part is shown.
ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`(~?)([\w.]+)`")


class Roles(griffe.Extension):
    """Show the target of a role as code, as Markdown knows no roles."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite an object's docstring before it is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(_shown, obj.docstring.value)


def _shown(role: re.Match[str]) -> str:
    shortened, target = role.groups()
    return f"`{target.rpartition('.')[2] if shortened else target}`"
