"""The page on the contract lists the checks and options that there are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from sdrpn_core.testing import BackboneContract
from sdrpn_core.testing.subject import ContractSubject
from tests.docs.fences import run_blocks
from tests.tiny import tiny_llava

PAGE = (Path(__file__).parents[2] / "docs" / "contract.md").read_text()


def first_column(section: str) -> list[str]:
    return re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)


def checks() -> Iterator[tuple[str, list[str]]]:
    """Subject and its checks, in the order of the code."""
    for base in BackboneContract.__bases__:
        yield (
            base.__module__.rpartition(".")[2],
            [name for name in vars(base) if name.startswith("test_")],
        )


def test_every_check_is_listed_under_its_subject_in_order():
    sections = re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]
    listed = [(section.partition("\n")[0].lower(), first_column(section)) for section in sections]
    assert listed == list(checks())
    assert sum(len(names) for _, names in listed) > 20


def test_the_example_is_the_whole_suite():
    suite = run_blocks("docs/contract.md", {"my_tiny_backbone": tiny_llava})["TestMyFamily"]
    assert issubclass(suite, BackboneContract)
    assert suite.make is tiny_llava


def test_every_option_is_listed_with_its_default():
    (section,) = re.findall(r"^## Options\n(.*?)^## ", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert first_column(section) == list(ContractSubject.__annotations__)
    rows = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", section, flags=re.MULTILINE))
    assert rows == {name: repr(getattr(ContractSubject, name)) for name in rows}
    assert len(rows) == len(ContractSubject.__annotations__) - len(("make", "sizes"))
