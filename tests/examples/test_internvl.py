"""The example is what a third party has: two wheels in an environment, and no working tree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.environments import ROOT, build_wheel, clean_environment, run

PROJECT = ROOT / "examples" / "sdrpn-internvl"
MAX_ADAPTER_LINES = 100


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a new environment with sdrpn's wheel and the example's."""
    example = build_wheel(PROJECT, tmp_path_factory.mktemp("example"))
    return clean_environment(tmp_path_factory.mktemp("third-party"), wheel, example)


def test_it_is_listed_beside_what_ships(python, tmp_path):
    listing = json.loads(run(python.with_name("sdrpn"), "plugins", "--json", cwd=tmp_path))
    (info,) = [info for info in listing if info["origin"] == "sdrpn-internvl"]
    assert (info["name"], info["status"]) == ("internvl", "ok")
    assert info["registers"] == {"backbones": ["internvl"]}


def test_its_own_tests_pass(python):
    cacheless = ("-p", "no:cacheprovider")
    output = run(python, "-m", "pytest", *cacheless, "-q", cwd=PROJECT, timeout=600)
    assert " passed" in output
    assert " failed" not in output


def test_nothing_private_is_imported_and_the_adapter_is_short():
    sources = sorted((PROJECT / "src").rglob("*.py"))
    lines = [line for path in sources for line in path.read_text().splitlines()]
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    assert all(line.startswith("from sdrpn_core import ") for line in imports), imports
    assert 0 < len(lines) < MAX_ADAPTER_LINES
