"""What belongs to the whole process, and which a plugin must leave as it finds it."""

from __future__ import annotations

import builtins
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

__all__ = ["STATES", "State", "restored_builtins", "restored_streams"]

STDOUT, STDERR = 1, 2


@dataclass(frozen=True)
class State:
    """One part of the process.

    Attributes:
        name: what messages call it.
        read: a copy of it.
        restore: puts such a copy back.
        kept: whether now (second argument) all is kept of what was there (first).
    """

    name: str
    read: Callable[[], Any]
    restore: Callable[[Any], None]
    kept: Callable[[Any, Any], bool] = lambda before, now: before == now

    def changed(self, before: Any) -> bool:
        """Whether the process differs from what :attr:`read` returned before."""
        return not self.kept(before, self.read())


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # removed under the process
        return None


def _enter(folder: str | None) -> None:
    if folder is not None:
        os.chdir(folder)


def _handlers() -> dict[signal.Signals, Any]:
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def _set_handlers(handlers: dict[signal.Signals, Any]) -> None:
    if threading.current_thread() is not threading.main_thread():
        return  # a handler can only be changed by the main thread, so none was
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def _alarm() -> bool:
    """Whether a timer is running that will send a signal."""
    return hasattr(signal, "getitimer") and signal.getitimer(signal.ITIMER_REAL)[0] > 0


def _stop_alarm(was_running: bool) -> None:
    if not was_running:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _holds(before: dict[Any, Any], now: dict[Any, Any]) -> bool:
    """Additions are harmless; what was there is the same object."""
    absent = object()
    return all(now.get(key, absent) is value for key, value in before.items())


def _refill(holder: Any, attribute: str, content: Any) -> None:
    """The same list or dict with its old content: others hold references to it."""
    values, old = content
    if isinstance(old, dict):
        values.update(old)
    else:
        values[:] = old
    setattr(holder, attribute, values)


def _container(name: str, holder: Any, attribute: str) -> State:
    """A list or dict of a module, by identity and content."""

    def read() -> Any:
        values = getattr(holder, attribute, None)
        return values, values.copy() if isinstance(values, list | dict) else None

    def kept(before: Any, now: Any) -> bool:
        same = _holds if isinstance(before[1], dict) else lambda old, new: old == new
        return before[0] is now[0] and same(before[1], now[1])

    return State(name, read, lambda content: _refill(holder, attribute, content), kept)


def _forbidden() -> set[str]:
    """Modules that ``None`` keeps from being imported."""
    modules: dict[str, Any] = sys.modules.copy()
    return {name for name, module in modules.items() if module is None}


def _permit(forbidden: set[str]) -> None:
    for name in _forbidden() - forbidden:
        del sys.modules[name]


def _only_more_lenient(before: list[Any], now: list[Any]) -> bool:
    """A new filter may hush a warning, but not turn one into an error for everybody."""
    return not any(rule[0] == "error" and rule not in before for rule in now)


def _set_filters(filters: list[Any]) -> None:
    warnings.resetwarnings()
    warnings.filters[:] = filters  # type: ignore[index]  # a list, which typeshed hides


def _environment(before: dict[str, str], now: dict[str, str]) -> bool:
    return all(now.get(name) == value for name, value in before.items())


def _hooks() -> dict[str, Any]:
    names = ("excepthook", "displayhook", "unraisablehook", "exit", "stdin", "__stdin__")
    return {name: getattr(sys, name, None) for name in names}


def _set_hooks(hooks: dict[str, Any]) -> None:
    for name, value in hooks.items():
        setattr(sys, name, value)


STATES = (
    # First, since too low a limit would stop the others.
    State("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    State("the working directory", _folder, _enter),
    State("signal handlers", _handlers, _set_handlers, _holds),
    State("the process's alarm", _alarm, _stop_alarm),
    _container("sys.path", sys, "path"),
    _container("sys.argv", sys, "argv"),
    _container("sys.meta_path", sys, "meta_path"),
    _container("sys.modules", sys, "modules"),
    State("what can be imported", _forbidden, _permit),
    State("sys's own functions", _hooks, _set_hooks, _holds),
    State("environment variables", lambda: dict(os.environ), os.environ.update, _environment),
    State("warning filters", lambda: list(warnings.filters), _set_filters, _only_more_lenient),
    State(
        "the running threads",
        lambda: set(threading.enumerate()),
        lambda threads: None,  # a thread cannot be stopped, only named
        # Where there were others before, a new one may be theirs.
        lambda before, now: len(before) > 1 or now <= before,
    ),
)
"""All that is compared and put back. Additions that harm nobody are allowed: a new environment
variable, a filter that hushes a warning, a module."""


@contextmanager
def restored_builtins() -> Iterator[Callable[[], bool]]:
    """Keep the functions that everything else here calls; tells whether they had to be mended."""
    before = builtins.__dict__.copy()
    mended = False
    try:
        yield lambda: mended
    finally:
        now = builtins.__dict__.copy()
        builtins.__dict__.update(before)  # with no help of a builtin
        mended = not _holds(before, now)


@contextmanager
def restored_streams(changed: list[str]) -> Iterator[None]:
    """Keep stdout and stderr usable, at the level of Python's streams and of file descriptors.

    What the block writes to file descriptor 1, past Python's streams, goes to stderr.

    Args:
        changed: gets the names of what had to be mended.
    """
    names = ("stdout", "stderr", "__stdout__", "__stderr__")
    streams = {name: getattr(sys, name) for name in names}
    _flush(streams["stdout"])
    copies = {number: _duplicate(number) for number in (STDOUT, STDERR)}
    if copies[STDERR] is not None and copies[STDOUT] is not None:
        os.dup2(STDERR, STDOUT)
    try:
        yield
    finally:
        for number, copy in copies.items():
            if copy is None:
                continue
            if not _same_file(number, copies[STDERR] or copy):
                changed.append(f"file descriptor {number}")
            os.dup2(copy, number)
            os.close(copy)
        for name, stream in streams.items():
            if getattr(stream, "closed", False):
                changed.append(f"sys.{name}")
                stream = _reopened(stream, STDERR if "err" in name else STDOUT)
            setattr(sys, name, stream)


def _flush(stream: Any) -> None:
    with suppress(AttributeError, OSError, ValueError):  # None, broken, or closed
        stream.flush()


def _duplicate(number: int) -> int | None:
    try:
        return os.dup(number)
    except OSError:  # the program was started without it
        return None


def _same_file(number: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(number, other)
    except OSError:
        return False


def _reopened(stream: Any, number: int) -> Any:
    """A stream like a closed one, on its file descriptor, which is open again."""
    return open(  # as long as the process lives
        number, "w", encoding=stream.encoding, errors=stream.errors, closefd=False
    )
