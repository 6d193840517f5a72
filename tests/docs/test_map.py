"""The map of CONTRIBUTING shows the rooms as they are: docstrings and allowed imports."""

from __future__ import annotations

import ast
import re

import pytest

from tests.docs.fences import ROOT
from tests.test_architecture import ARROWS

HEADER = "| room | what lives there | what it may import |"


def rows() -> dict[str, tuple[str, str]]:
    """Per room, in order, what the table says lives there and what it may import."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    _, found, rest = text.partition(HEADER)
    assert found
    lines = rest.partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {name.strip("`"): (lives, may) for name, lives, may in cells}


def test_the_rooms_are_listed_from_the_entry_points_down():
    names = list(rows())
    assert names == list(reversed(ARROWS))
    for above, name in enumerate(names):
        assert not set(ARROWS[name].split()) & set(names[:above]), name


@pytest.mark.parametrize("name", ARROWS)
def test_a_row_says_what_the_docstring_of_the_room_says(name):
    module = ast.parse((ROOT / "sdrpn_core" / name / "__init__.py").read_text(encoding="utf-8"))
    summary = (ast.get_docstring(module) or "").partition("\n")[0]
    assert rows()[name][0] == summary.removesuffix(".").replace("``", "`")


@pytest.mark.parametrize("name", ARROWS)
def test_a_row_says_what_the_room_may_import(name):
    may = rows()[name][1]
    listed = re.findall(r"`(\w+)`", may)
    assert len(listed) == len(set(listed))
    if may.startswith("every room but"):
        assert set(listed) | {name} | set(ARROWS[name].split()) == set(ARROWS)
        assert not set(listed) & set(ARROWS[name].split())
    else:
        assert set(listed) == set(ARROWS[name].split())
