from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import sdrpn_core.plugins.manager
from sdrpn_core import __version__
from sdrpn_core.cli.main import app

SDRPN = Path(sys.executable).with_name("sdrpn")
HELP_BUDGET = 0.5  # seconds, the project's promise
HELP_TRIES = 5  # the fastest counts: the first one may have to compile

PLUGIN = """
from sdrpn_core import hookimpl
SDRPN_API = 1

@hookimpl
def sdrpn_register_commands(registry):
    registry.add("greet", "greetings:greet", help="Say hello from the listing.")
    registry.add("lost", "no_such_module:lost", help="Cannot be imported.")
    registry.add("nested", "greetings:nested", help="A group of commands.")
"""

GREETINGS = '''
import errno
import typer
from sdrpn_core.errors import InputError

nested = typer.Typer()

@nested.command()
def one(): print("nested one")

@nested.command()
def two(): print("nested two")

def greet(how: str = "well"):
    """Say hello, at length."""
    if how == "badly":
        raise InputError("two\\n   lines")
    if how == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "labels.parquet")
    if how == "interrupted":
        raise KeyboardInterrupt
    if how == "defect":
        raise ZeroDivisionError("a defect")
    print("hello,", how)
'''


def program(*words: str) -> subprocess.CompletedProcess[str]:
    """The installed program, as a user starts it."""
    return subprocess.run([SDRPN, *words], capture_output=True, text=True, timeout=60)


@pytest.fixture
def sdrpn(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The same within this process, plugins loaded anew for each call."""

    def run(*words: str, width: int = 200) -> Result:
        monkeypatch.setattr(sdrpn_core.plugins.manager, "_plugins", None)
        return CliRunner().invoke(app, words, prog_name="sdrpn", env={"COLUMNS": str(width)})

    return run


@pytest.fixture
def greeting_plugin(install_plugin) -> None:
    site = install_plugin("greeter", PLUGIN)
    (site / "greetings.py").write_text(GREETINGS)


@pytest.fixture
def broken_plugin(install_plugin) -> None:
    install_plugin("acme", "import no_such_dependency")


def test_version():
    result = program("--version")
    assert (result.returncode, result.stdout) == (0, f"sdrpn {__version__}\n")


def test_no_arguments_show_the_help(sdrpn):
    assert "Usage: sdrpn" in sdrpn().output


def test_help_lists_every_registered_command(fresh_plugins, sdrpn):
    output = sdrpn("--help").output
    for entry in fresh_plugins.commands.entries():
        assert f" {entry.name} " in output
        assert entry.help in output


def child_seconds() -> float:
    """Processor time of all finished child processes: unlike the clock, deaf to a busy machine."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.long  # not quite deaf: beside other tests, it took 0.51 s once
def test_help_is_fast():
    spent = []
    while len(spent) < HELP_TRIES and min(spent, default=HELP_BUDGET) >= HELP_BUDGET:
        before = child_seconds()
        assert program("--help").returncode == 0
        spent.append(child_seconds() - before)
    assert min(spent) < HELP_BUDGET


LIGHTNESS = """
import sys
from sdrpn_core.cli.main import main
try:
    main({words!r})
except SystemExit as end:
    assert not end.code, end.code
loaded = {{name.partition(".")[0] for name in sys.modules}} & {heavy!r}
commands = {{name for name in sys.modules if name.endswith("_command")}}
commands -= {{"sdrpn_core.cli.plugins_command"}}
sys.exit(f"loaded {{loaded | commands}}" if loaded or commands else 0)
"""
HEAVY = {"torch", "transformers", "numpy", "PIL", "matplotlib", "datasets", "timm", "scipy"}


@pytest.mark.parametrize(
    "words", [["--help"], ["plugins"], ["plugins", "--help"], ["plugins", "--json"]]
)
def test_light_commands_import_nothing_heavy(words):
    code = LIGHTNESS.format(words=words, heavy=HEAVY)
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr


def test_an_unknown_command_suggests_near_names(sdrpn):
    result = sdrpn("plugin")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: unknown command 'plugin': did you mean 'plugins'?")
    assert result.stderr.count("\n") == 1


@pytest.mark.usefixtures("greeting_plugin")
class TestPluginCommands:
    def test_its_help_line_is_listed_without_importing_it(self, sdrpn):
        listing = sdrpn("--help").stdout
        assert "Cannot be imported." in listing
        assert "Say hello from the listing." in listing

    def test_it_runs(self, sdrpn):
        result = sdrpn("greet", "--how", "kindly")
        assert (result.exit_code, result.stdout, result.stderr) == (0, "hello, kindly\n", "")

    def test_its_own_help_shows_its_options(self, sdrpn):
        result = sdrpn("greet", "--help")
        assert result.exit_code == 0
        assert "Usage: sdrpn greet" in result.stdout
        assert "--how" in result.stdout
        assert "Say hello, at length." in result.stdout

    def test_a_wrong_option_is_a_usage_error(self, sdrpn):
        result = sdrpn("greet", "--hwo", "x")
        assert result.exit_code == 2
        assert "--hwo" in result.stderr

    def test_a_typer_group_is_a_command_with_subcommands(self, sdrpn):
        assert sdrpn("nested", "two").stdout == "nested two\n"
        assert "one" in sdrpn("nested", "--help").stdout

    @pytest.mark.parametrize(
        ("how", "code", "stderr"),
        [
            ("badly", 1, "error: two lines\n"),
            ("full", 1, "error: [Errno 28] No space left on device: 'labels.parquet'\n"),
            ("interrupted", 130, "interrupted\n"),
        ],
    )
    def test_what_the_user_can_mend_is_one_line(self, sdrpn, how, code, stderr):
        result = sdrpn("greet", "--how", how)
        assert (result.exit_code, result.stdout, result.stderr) == (code, "", stderr)

    def test_a_defect_is_a_traceback(self):
        result = program("greet", "--how", "defect")
        assert result.returncode == 1
        assert "Traceback" in result.stderr
        assert "ZeroDivisionError: a defect" in result.stderr

    def test_a_command_that_cannot_be_imported_names_its_plugin(self, sdrpn):
        result = sdrpn("lost")
        assert result.exit_code == 1
        assert result.stderr.startswith("error: plugin 'greeter': cannot import command 'lost'")
        assert "SDRPN_PLUGINS=-greeter" in result.stderr

    def test_a_disabled_plugin_takes_its_commands_along(self, sdrpn, monkeypatch):
        monkeypatch.setenv("SDRPN_PLUGINS", "-greeter")
        result = sdrpn("greet")
        assert result.exit_code == 1
        assert "unknown command 'greet'" in result.stderr
        assert "plugins not loaded: greeter" in result.stderr


@pytest.mark.usefixtures("broken_plugin")
class TestBrokenPlugin:
    def test_other_commands_work_and_warn(self, sdrpn, install_plugin):
        site = install_plugin("greeter", PLUGIN)
        (site / "greetings.py").write_text(GREETINGS)
        result = sdrpn("greet")
        assert (result.exit_code, result.stdout) == (0, "hello, well\n")
        (warning,) = [line for line in result.stderr.splitlines() if "acme" in line]
        assert warning.startswith("warning: plugin 'acme': cannot import 'sdrpn_acme'")
        assert "SDRPN_PLUGINS=-acme" in warning

    def test_the_help_works_and_warns(self, sdrpn):
        result = sdrpn("--help")
        assert result.exit_code == 0
        assert "warning: plugin 'acme'" in result.stderr

    def test_it_is_listed_as_failed(self, sdrpn):
        result = sdrpn("plugins", "--json")
        assert result.exit_code == 0
        assert "acme" not in result.stderr
        by_name = {plugin["name"]: plugin for plugin in json.loads(result.stdout)}
        assert by_name["acme"]["status"] == "failed"
        assert "no_such_dependency" in by_name["acme"]["error"]
        assert by_name["core"]["status"] == "ok"

    def test_the_table_shows_the_reason_in_one_line_however_narrow(self, sdrpn):
        result = sdrpn("plugins", width=60)
        assert result.exit_code == 0
        (line,) = [line for line in result.stdout.splitlines() if "no_such_dependency" in line]
        assert line.startswith("failed: plugin 'acme'")

    def test_strict_exits_1(self, sdrpn, monkeypatch):
        assert sdrpn("plugins", "--strict").exit_code == 1
        monkeypatch.setenv("SDRPN_PLUGINS", "")
        assert sdrpn("plugins", "--strict").exit_code == 0

    def test_it_can_be_disabled(self, sdrpn, monkeypatch):
        monkeypatch.setenv("SDRPN_PLUGINS", "-acme")
        result = sdrpn("--help")
        assert result.exit_code == 0
        assert "acme" not in result.stderr


def test_plugins_json_describes_each_plugin(sdrpn):
    listing = json.loads(sdrpn("plugins", "--json").stdout)
    core = next(plugin for plugin in listing if plugin["name"] == "core")
    assert core["version"] == __version__
    assert core["origin"] == "sdrpn"
    assert core["error"] is None
    assert core["registers"]["rpn_heads"] == ["qk", "conv"]


def test_the_table_names_what_each_plugin_registers(sdrpn):
    assert "RPN head: qk, conv" in sdrpn("plugins").output


def test_a_misspelt_selection_is_one_line(sdrpn, monkeypatch):
    monkeypatch.setenv("SDRPN_PLUGINS", "lava")
    for words in (["--help"], ["plugins"], ["plugins", "--json"]):
        result = sdrpn(*words)
        assert result.exit_code == 1
        assert result.stdout == ""
        assert result.stderr.startswith("error: unknown plugin 'lava' in SDRPN_PLUGINS")
        assert result.stderr.count("\n") == 1


def test_python_m_runs_the_same_program():
    result = subprocess.run(
        [sys.executable, "-m", "sdrpn_core", "--version"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout) == (0, f"sdrpn {__version__}\n")
