"""The wheel is what users get: it holds the packages of all source roots, and it works."""

from __future__ import annotations

import importlib.metadata
import json
import zipfile
from pathlib import Path

import pytest

from tests.environments import clean_environment, run
from tests.test_architecture import FOR_TRANSFORMERS

DISTRIBUTION = "sdrpn"


def declared_plugins() -> dict[str, str]:
    """Name -> top-level package, from the metadata of the installed distribution."""
    entry_points = importlib.metadata.distribution(DISTRIBUTION).entry_points.select(group="sdrpn")
    return {entry.name: entry.value.partition(".")[0] for entry in entry_points}


def packages_for_others() -> set[str]:
    """What adds to other frameworks: found by their entry points, or imported by the user."""
    entry_points = importlib.metadata.distribution(DISTRIBUTION).entry_points
    found = {e.value.partition(".")[0] for e in entry_points if e.group == "lmms_eval.models"}
    return found | FOR_TRANSFORMERS


@pytest.fixture(scope="module")
def clean_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a new environment with the wheel, and this one's dependencies behind it."""
    return clean_environment(tmp_path_factory.mktemp("clean"), wheel)


def test_the_wheel_holds_the_packages_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.partition("/")[0] for name in names}
    packages = {name for name in top if not name.endswith(".dist-info")}
    assert packages == {*declared_plugins().values(), *packages_for_others()}
    assert {"sdrpn_core", "sdrpn_llava"} <= packages
    # Without it, a type checker takes nothing from the package into the user's code.
    assert {package for package in packages if f"{package}/py.typed" not in names} == set()
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_wheel_lists_its_plugins_from_anywhere(clean_python, tmp_path):
    listing = run(clean_python.with_name("sdrpn"), "plugins", "--json", cwd=tmp_path)
    ours = {info["name"]: info for info in json.loads(listing) if info["origin"] == DISTRIBUTION}
    assert set(ours) == set(declared_plugins())
    assert {"core", "llava", "bench", "glyphs"} <= set(ours)
    assert {info["status"] for info in ours.values()} == {"ok"}, ours


def test_the_packages_come_from_the_wheel(clean_python, tmp_path):
    modules = sorted(set(declared_plugins().values()))
    code = f"import importlib; [print(importlib.import_module(m).__file__) for m in {modules!r}]"
    folder = clean_python.parents[1]
    for path in run(clean_python, "-c", code, cwd=tmp_path).split():
        assert Path(path).is_relative_to(folder)


def test_the_version_has_one_source(clean_python, tmp_path):
    import sdrpn_core

    assert run(clean_python.with_name("sdrpn"), "--version", cwd=tmp_path).split() == [
        "sdrpn",
        sdrpn_core.__version__,
    ]
    code = f"import importlib.metadata as m; print(m.version({DISTRIBUTION!r}))"
    assert run(clean_python, "-c", code, cwd=tmp_path).strip() == sdrpn_core.__version__
