"""What every test relies on: no network, no leftover settings, the same random draws everywhere."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Read once, when these libraries are imported: set before any test module imports them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models are slower on more threads

import hypothesis
import pytest

import sdrpn_core.plugins.manager
from sdrpn_core.plugins.manager import ENTRY_POINT_GROUP, Plugins
from tests.environments import ROOT, build_wheel

# No deadline: the first example pays for imports, and machines are shared.
hypothesis.settings.register_profile("sdrpn", deadline=None, print_blob=True)
hypothesis.settings.register_profile(
    "ci", parent=hypothesis.settings.get_profile("sdrpn"), derandomize=True
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "sdrpn")


@pytest.fixture(autouse=True)
def _no_plugin_selection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SDRPN_PLUGINS", raising=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that no process is left alone with one at the end; and tests
    marked ``cuda`` are skipped where there is no such device.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the working tree."""
    return build_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def fresh_plugins(monkeypatch: pytest.MonkeyPatch) -> Plugins:
    """The installed plugins, loaded anew: what a test registers here is gone after it."""
    plugins = Plugins()
    plugins.load(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP))
    monkeypatch.setattr(sdrpn_core.plugins.manager, "_plugins", plugins)
    return plugins


@pytest.fixture
def install_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Path]]:
    """A function that installs a distribution with one plugin, visible here and in subprocesses.

    ``install_plugin("acme", "SDRPN_API = 1")`` returns the folder that holds its module
    ``sdrpn_acme``; ``module`` and ``distribution`` choose other names.
    """
    site = tmp_path / "site"
    site.mkdir()
    inherited = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(site), inherited))))
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)

    def install(name: str, source: str, *, module: str = "", distribution: str = "") -> Path:
        module = module or f"sdrpn_{name}"
        distribution = distribution or f"sdrpn-{name}"
        (site / f"{module}.py").write_text(source)
        info = site / f"{distribution.replace('-', '_')}-1.2.3.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2.3\n"
        (info / "METADATA").write_text(metadata)
        (info / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\n{name} = {module}\n")
        importlib.invalidate_caches()
        return site

    yield install
    for loaded in set(sys.modules) - before:
        origin = getattr(sys.modules[loaded], "__file__", None) or ""
        if origin.startswith(str(site)):
            del sys.modules[loaded]
