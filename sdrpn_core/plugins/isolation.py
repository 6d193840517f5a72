"""A plugin's code at arm's length: whatever it raises or does to the process stays its own fault.

Three layers, which the manager puts around loading a plugin and the registry around importing what
one registered:

- :func:`contained`: whatever is raised becomes a :class:`PluginError` that names the plugin;
- :func:`printing_by_name`: what is printed goes to stderr, under the plugin's name, since stdout
  belongs to the command's own result;
- :func:`process_kept`: what is changed in the process (see :mod:`.process_state`) is undone, and
  the plugin is at fault.

Nothing in a process can stop ``os._exit``, a crash of native code, or an import that never ends.
"""

from __future__ import annotations

import io
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from sdrpn_core.errors import PluginError
from sdrpn_core.plugins.process_state import STATES, restored_builtins, restored_streams

__all__ = ["contained", "describe", "printing_by_name", "process_kept"]

MAX_SHOWN = 300
"""Characters of a foreign message that are passed on."""


def describe(error: BaseException) -> str:
    """What was raised, in not too many words, whatever its own methods do."""
    try:
        text = f"{type(error).__name__}: {error}".rstrip(": ")
    except BaseException as inner:  # noqa: BLE001  # raised by the message itself, even SystemExit
        text = f"{type(error).__name__} (its message raises {type(inner).__name__})"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


@contextmanager
def contained(plugin: str, doing: str) -> Iterator[None]:
    """Turn whatever the block raises into one line that names the plugin.

    The user's own interrupt passes: where a SIGINT arrives during the block,
    a ``KeyboardInterrupt`` is raised at its end, whatever the plugin makes of it. One without a
    SIGINT is the plugin's, and a fault like any other.

    Args:
        plugin: its name.
        doing: what failed if something is raised, for example ``"cannot import 'x'"``.

    Raises:
        PluginError: the block raised anything else, ``SystemExit`` and its like included. One that
            already names this plugin passes as it is.
    """
    with _watched_interrupt() as interrupted:
        try:
            with restored_builtins() as mended:
                yield
            if mended():
                raise PluginError(plugin, "changes Python's built-in functions")
        except BaseException as error:
            if interrupted():
                raise KeyboardInterrupt from error
            if isinstance(error, PluginError) and error.plugin == plugin:
                raise
            raise PluginError(plugin, f"{doing}: {describe(error)}") from error
        if interrupted():
            raise KeyboardInterrupt


@contextmanager
def _watched_interrupt() -> Iterator[Callable[[], bool]]:
    """Whether a SIGINT has arrived; Python delivers them to the main thread alone."""
    arrived = False
    previous = signal.getsignal(signal.SIGINT)
    if not callable(previous) or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def note(signum: int, frame: Any) -> None:
        nonlocal arrived
        arrived = True
        previous(signum, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: arrived
    finally:
        if signal.getsignal(signal.SIGINT) is note:  # else it is the plugin's now
            signal.signal(signal.SIGINT, previous)


class NamedOutput(io.TextIOBase):
    """A stream that passes each line on to stderr, behind a plugin's name.

    It outlives the block that it was made for, since a logging handler may have kept it.
    """

    def __init__(self, plugin: str, target: TextIO | None) -> None:
        self._prefix = f"plugin {plugin!r}: "
        self._target = target
        self._line = ""

    def write(self, text: str) -> int:
        """Pass on the lines that are complete."""
        *lines, self._line = f"{self._line}{text}".split("\n")
        self._pass_on(lines)
        return len(text)

    def finish(self) -> None:
        """Pass on a last line that has no end."""
        lines, self._line = [self._line] if self._line else [], ""
        self._pass_on(lines)

    def writable(self) -> bool:
        """As of any output."""
        return True

    def fileno(self) -> int:
        """Of stderr."""
        return self.__getattr__("fileno")()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed: an attribute
        """Of stderr."""
        return getattr(self._target, "encoding", None) or "utf-8"

    def _pass_on(self, lines: list[str]) -> None:
        if self._target is not None and lines:
            self._target.write("".join(f"{self._prefix}{line}\n" for line in lines))

    def __getattr__(self, name: str) -> Any:
        """What a real stream has besides a text stream's methods: ``buffer``, ``reconfigure``."""
        return getattr(self._target, name)


@contextmanager
def printing_by_name(plugin: str) -> Iterator[NamedOutput]:
    """Send what the block prints to stderr, under the plugin's name."""
    stdout = sys.stdout
    output = NamedOutput(plugin, sys.stderr)
    sys.stdout = output
    try:
        yield output
    finally:
        sys.stdout = stdout
        output.finish()


@contextmanager
def process_kept(plugin: str) -> Iterator[None]:
    """Undo what the block does to the process, and blame the plugin for it.

    Raises:
        PluginError: names all that was changed, unless the block raises by itself.
    """
    before = [(state, state.read()) for state in STATES]
    changed: list[str] = []
    try:
        with restored_streams(changed), printing_by_name(plugin) as output:
            sys.stderr = output
            try:
                yield
            finally:
                streams = {getattr(sys, name, None) for name in ("stdout", "stderr")}
                if streams != {output} or output.closed:
                    changed.append("sys.stdout or sys.stderr")
    finally:
        for state, value in before:
            if state.changed(value):
                state.restore(value)
                changed.append(state.name)
    if changed:
        raise PluginError(plugin, f"changes {', '.join(changed)} while it loads")
