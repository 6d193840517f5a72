"""The entry point: a group whose commands come from plugins and are imported only when they run."""

from __future__ import annotations

import atexit
import errno
import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import sdrpn_core
from sdrpn_core.cli.interrupts import interrupts_arrive
from sdrpn_core.errors import SdrpnError
from sdrpn_core.plugins.isolation import contained, describe
from sdrpn_core.plugins.manager import get_plugins

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdrpn_core.plugins.registry import Entry

__all__ = ["app", "main"]

PROGRAM = "sdrpn"
EXIT_ERROR = 1
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it

# The commands that show failed plugins themselves.
_REPORTS_FAILURES = frozenset({"plugins", "doctor"})


class LazyCommand(TyperCommand):
    """A command known by name and help line; its module is imported when that command is used."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry.name, help=_literal(entry.help))
        self._entry = entry

    # The signature is that of the base class, whose context type is private to typer.
    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Parse with the real command; the group then invokes the one the context names."""
        return self._load().make_context(*args, **kwargs)

    def _load(self) -> Any:
        name, plugin = self._entry.name, self._entry.origin
        target = get_plugins().commands.get(name)
        with contained(plugin, f"command {name!r} cannot be used"):
            if isinstance(target, typer.Typer):
                return typer.main.get_command(target)
            single = typer.Typer(add_completion=False)
            single.command(name, help=_literal(target.__doc__ or self._entry.help))(target)
            return typer.main.get_command(single)


class PluginGroup(TyperGroup):
    """Offers every registered command, and prints an :class:`SdrpnError` as one line."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The registered names, in the order of registration."""
        return get_plugins().commands.names()

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, not yet imported; ``None`` if no plugin registers it."""
        commands = get_plugins().commands
        return LazyCommand(commands.entry(cmd_name)) if cmd_name in commands else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As the base class, but an unknown command is an error that lists the near names."""
        if not ctx.resilient_parsing:  # that is how shells ask for completions: no complaints then
            if args[0] not in _REPORTS_FAILURES:
                _warn_about_failures()
            get_plugins().commands.entry(args[0])
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The help, after a warning about plugins whose commands are missing from it."""
        _warn_about_failures()
        super().format_help(ctx, formatter)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; Ctrl-C ends it with one line."""
        try:
            with interrupts_arrive():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            _complain("interrupted")
            raise SystemExit(EXIT_INTERRUPTED) from None

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run and exit; what the user can mend is one line on stderr, a defect is a traceback."""
        try:
            return super().main(*args, **kwargs)
        except SdrpnError as error:
            _complain(f"error{_rank()}: {error}")
        except OSError as error:  # a full disk, a missing permission, an unreachable hub
            if error.errno == errno.EPIPE:
                raise
            _complain(f"error{_rank()}: {error}")
        raise SystemExit(EXIT_ERROR)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {sdrpn_core.__version__}")
        raise typer.Exit


app = typer.Typer(
    name=PROGRAM,
    cls=PluginGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(help="Teach a frozen multimodal LLM where to look.")
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass  # --version acts while it is parsed


def main(args: Sequence[str] | None = None) -> None:
    """Run ``sdrpn`` and exit the process.

    Args:
        args: Command-line words after the program's name; those of this process if ``None``.
    """
    before = set(threading.enumerate())
    with suppress(SdrpnError):  # said below, where it is one line
        get_plugins()
    strays = set(threading.enumerate()) - before
    atexit.unregister(_end_output)
    atexit.register(_end_output)  # the last to be registered is the first to run
    try:
        typer.main.get_command(app).main(args=args, prog_name=PROGRAM)
    except SystemExit as end:
        if any(thread.is_alive() and not thread.daemon for thread in strays):
            _leave_at_once(end.code)
        raise


def _leave_at_once(code: Any) -> None:
    """End the process without waiting for threads that a plugin started while it was loaded."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else EXIT_ERROR if code else 0)


def _end_output() -> None:
    """Whatever plugins do when the process ends, the command's output is complete by now."""
    try:
        sys.stdout.flush()
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    except (AttributeError, OSError, ValueError):  # none, or no files, or a reader that has left
        return
    sys.stdout = sys.stderr
    sys.unraisablehook = lambda event: _complain(
        f"warning: ignored at exit: {describe(event.exc_value or event.exc_type())}"
    )


def _literal(text: str) -> str:
    """A help text in which brackets are no markup."""
    if "[" not in text:
        return text
    from rich.markup import escape

    return escape(text)


def _warn_about_failures() -> None:
    for info in get_plugins().failures:
        _complain(f"warning: {info.error}")


def _rank() -> str:
    """Which of several processes this is, in the words of the launcher."""
    world_size = os.environ.get("WORLD_SIZE", "1")
    return "" if world_size == "1" else f" on rank {os.environ.get('RANK')} of {world_size}"


def _complain(message: str) -> None:
    """One line on stderr, whatever the message holds."""
    print(SdrpnError(message), file=sys.stderr)
