"""The wheel is what users get: it holds the packages of all source roots, and it works."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DISTRIBUTION = "sdrpn"


def run(*words: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def declared_plugins() -> dict[str, str]:
    """Name -> top-level package, from the metadata of the installed distribution."""
    entry_points = importlib.metadata.distribution(DISTRIBUTION).entry_points.select(group="sdrpn")
    return {entry.name: entry.value.partition(".")[0] for entry in entry_points}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the working tree; hatchling comes with the test extra, so nothing is fetched."""
    folder = tmp_path_factory.mktemp("wheel")
    run(
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        folder,
        ROOT,
        cwd=folder,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def clean_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a new environment with the wheel, and this one's dependencies behind it."""
    folder = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=folder)
    # A .pth line adds the folder alone: the editable install's own .pth in it is not followed.
    site = Path(
        run(
            python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder
        ).strip()
    )
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_the_wheel_holds_the_packages_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.partition("/")[0] for name in names}
    packages = {name for name in top if not name.endswith(".dist-info")}
    assert packages == set(declared_plugins().values())
    assert {"sdrpn_core", "sdrpn_llava"} <= packages
    assert "sdrpn_core/py.typed" in names
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
