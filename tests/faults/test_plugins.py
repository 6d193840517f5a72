"""A broken plugin is reported by name and left out, and everything else works.

The in-process part runs with every ``make test``; the whole program, as a user starts it, under
the marker ``faults``.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sdrpn_core.errors import PluginError
from sdrpn_core.plugins.isolation import contained
from sdrpn_core.plugins.manager import ENTRY_POINT_GROUP, Plugins, installed_entry_points
from sdrpn_core.plugins.registry import Kind, Registry
from tests.faults.broken_plugins import ENTRY_POINTS, FAULTS, HEALTHY, LATE, NOISE

SDRPN = Path(sys.executable).with_name("sdrpn")
TIMEOUT = 60

#: Only a process of its own shows them: a thread outlives the test, and under a debugger or an
#: executor of tests there are others already.
IN_A_PROCESS = {
    "thread",
    "endless thread",
    "first stdout is closed",
    "both first streams are closed",
}
AT_THE_END = {"keeps stdout", "prints at the end", "fails at the end"}

Install = Callable[..., Path]


def load() -> Plugins:
    """The core and what the test installed, without the other plugins of this distribution."""
    plugins = Plugins()
    found, broken = installed_entry_points()
    plugins.load([ep for ep in found if ep.name == "core" or ep.dist.name != "sdrpn"])
    for name, error in broken.items():
        plugins.report(name, error)
    return plugins


def program(*words: str) -> subprocess.CompletedProcess[str]:
    """The installed program, as a user starts it."""
    return subprocess.run([SDRPN, *words], capture_output=True, text=True, timeout=TIMEOUT)


def module_of(fault: str) -> str:
    """A name of its own: what some faults leave in ``sys.modules`` cannot be recognized."""
    return f"acme_{re.sub('[^a-z]', '_', fault)}"


def process_facts() -> tuple[object, ...]:
    return (
        os.getcwd(),
        list(sys.path),
        sys.stdout,
        sys.stderr,
        sys.getrecursionlimit(),
        dict(os.environ),
        sys.modules["json"],
        print,
        [signal.getsignal(number) for number in signal.valid_signals()],
        os.fstat(1),
    )


@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - IN_A_PROCESS))
def test_a_fault_is_reported_by_name_and_leaves_nothing(install_plugin: Install, fault: str):
    install_plugin("healthy", HEALTHY)
    before = process_facts()
    install_plugin("acme", FAULTS[fault], module=module_of(fault))
    plugins = load()
    assert process_facts()[1:] == before[1:]
    (failure,) = plugins.failures
    assert failure.name == "acme"
    assert failure.error.startswith("plugin 'acme': ")
    assert failure.error.endswith("; to disable it, set SDRPN_PLUGINS=-acme")
    assert failure.error.isprintable()
    assert len(failure.error) < 700
    assert "hello" in plugins.commands
    assert "mine" not in plugins.datasets


@pytest.mark.parametrize("noise", sorted(NOISE.keys() - AT_THE_END))
@pytest.mark.filterwarnings("ignore")
def test_noise_leaves_stdout_alone(install_plugin: Install, noise: str, capfd):
    install_plugin("acme", NOISE[noise], module=module_of(noise))
    assert load().failures == []
    assert capfd.readouterr().out == ""


def test_what_a_plugin_prints_bears_its_name(install_plugin: Install, capsys):
    install_plugin("acme", "print('a banner')\nprint('no end', end='')\n" + HEALTHY)
    assert load().failures == []
    assert capsys.readouterr() == ("", "plugin 'acme': a banner\nplugin 'acme': no end\n")


@pytest.mark.parametrize("late", LATE)
def test_a_late_fault_names_the_plugin(tmp_path, monkeypatch, late: str, capsys):
    module = module_of(late)
    source = LATE[late]
    if source is not None:
        (tmp_path / f"{module}.py").write_text(f"print('a banner')\n{source}")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry: Registry[object] = Registry(Kind("dataset"))
    with registry.registering_as("acme"):
        registry.add("mine", f"{module}:target")
    with pytest.raises(PluginError, match=r"^plugin 'acme': .*dataset 'mine'") as caught:
        registry.get("mine")
    assert str(caught.value).isprintable()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("broken", ENTRY_POINTS)
def test_a_broken_list_of_entry_points_hides_no_other(install_plugin: Install, broken: str):
    site = install_plugin("healthy", HEALTHY)
    write_entry_points(site, ENTRY_POINTS[broken])
    plugins = load()
    (failure,) = plugins.failures
    assert "acme" in failure.name
    assert "hello" in plugins.commands
    assert "train" in plugins.commands


def write_entry_points(site: Path, content: str | bytes) -> None:
    info = site / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    raw = content if isinstance(content, bytes) else content.encode()
    (info / "entry_points.txt").write_bytes(raw)


def test_the_same_entry_points_are_found_as_by_the_library():
    found, broken = installed_entry_points()
    expected = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    assert sorted(map(str, found)) == sorted(map(str, expected))
    assert broken == {}


class TestInterrupts:
    @pytest.fixture(autouse=True)
    def _ctrl_c_interrupts(self):
        """As in a program of its own: a test runner's worker ignores Ctrl-C."""
        previous = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, previous)

    def test_the_users_own_passes(self):
        with pytest.raises(KeyboardInterrupt), contained("acme", "fails"):
            os.kill(os.getpid(), signal.SIGINT)

    @pytest.mark.parametrize("answer", [lambda: None, lambda: sys.exit(0)], ids=["none", "exit"])
    def test_the_users_own_passes_whatever_the_plugin_answers(self, answer):
        def plugin():
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                answer()

        with pytest.raises(KeyboardInterrupt), contained("acme", "fails"):
            plugin()

    def test_the_plugins_is_a_fault(self):
        with (
            pytest.raises(PluginError, match="fails: KeyboardInterrupt"),
            contained("acme", "fails"),
        ):
            raise KeyboardInterrupt

    def test_the_handler_is_that_of_before(self):
        before = signal.getsignal(signal.SIGINT)
        with contained("acme", "fails"):
            assert signal.getsignal(signal.SIGINT) is not before
        assert signal.getsignal(signal.SIGINT) is before


def check_program(plugin_status: str) -> None:
    listed = program("plugins", "--json")
    assert listed.returncode == 0, listed.stderr
    states = {info["name"]: info["status"] for info in json.loads(listed.stdout)}
    assert states.pop("acme") == plugin_status
    assert set(states.values()) == {"ok"}
    ran = program("hello")
    assert (ran.returncode, ran.stdout) == (0, "hello\n")
    assert "Traceback" not in ran.stderr + listed.stderr
    if plugin_status == "failed":
        (line,) = ran.stderr.splitlines()
        assert line.startswith("warning: plugin 'acme': ")
    if plugin_status == "ok":
        shown = program("--help")
        assert (shown.returncode, "Greet." in shown.stdout) == (0, True)


@pytest.mark.faults
@pytest.mark.parametrize("fault", FAULTS)
def test_the_program_works_beside_a_fault(install_plugin: Install, fault: str):
    install_plugin("healthy", HEALTHY)
    install_plugin("acme", FAULTS[fault])
    check_program("failed")


@pytest.mark.faults
@pytest.mark.parametrize("noise", NOISE)
def test_the_program_works_beside_noise(install_plugin: Install, noise: str):
    install_plugin("healthy", HEALTHY)
    install_plugin("acme", NOISE[noise])
    check_program("ok")


@pytest.mark.faults
@pytest.mark.parametrize("broken", ENTRY_POINTS)
def test_the_program_works_beside_broken_entry_points(install_plugin: Install, broken: str):
    write_entry_points(install_plugin("healthy", HEALTHY), ENTRY_POINTS[broken])
    check_program("failed")
