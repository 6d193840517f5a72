"""Forward pre-hooks that serve one thread alone.

The modules of a model belong to all threads, and so does a hook that torch is given: it would be
called in everybody's passes. So torch is given one hook per module, the same for all, which stays
while any thread needs it and does in each thread only what that thread has asked for.

A module's hooks may change while another thread's pass is reading them. That pass may then find
the hook without torch's mark that it takes keyword arguments. There is nothing for it to do in that
thread: what a thread asks for is in place before its pass begins, and for as long as that lasts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from torch import nn
from torch.utils.hooks import RemovableHandle

PreHook: TypeAlias = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]
"""Called with the module and the arguments that it is about to be called with."""


class _OfThisThread(threading.local):
    """What the current thread has asked for, by module, in order."""

    def __init__(self) -> None:
        self.hooks: dict[nn.Module, list[ThreadHook]] = {}


_of_this_thread = _OfThisThread()

#: Held while hooks of torch come and go.
_changing = threading.Lock()

#: Modules that have the hook, and for whom.
_installed: dict[nn.Module, tuple[RemovableHandle, set[ThreadHook]]] = {}


class ThreadHook:
    """A forward pre-hook, called in passes of the thread that made it and in no other's.

    Args:
        module: what is hooked.
        hook: called before the module is; what it raises ends the pass.
    """

    def __init__(self, module: nn.Module, hook: PreHook) -> None:
        self.module = module
        self.hook = hook
        # Kept, as another thread may be the one that removes the hook.
        self._siblings = _of_this_thread.hooks
        with _changing:
            if module not in _installed:
                handle = module.register_forward_pre_hook(_serve, with_kwargs=True)
                _installed[module] = handle, set()
            _installed[module][1].add(self)
            self._siblings.setdefault(module, []).append(self)

    @property
    def is_of_this_thread(self) -> bool:
        """Whether the current thread made it."""
        return self._siblings is _of_this_thread.hooks

    def remove(self) -> None:
        """Call it no more; nothing happens if that was so already."""
        with _changing:
            handle, users = _installed.get(self.module, (None, set[ThreadHook]()))
            if handle is None or self not in users:
                return
            users.remove(self)
            self._siblings[self.module].remove(self)
            if not self._siblings[self.module]:
                del self._siblings[self.module]
            if not users:
                handle.remove()
                del _installed[self.module]


@contextmanager
def hooks_at_rest() -> Iterator[None]:
    """No thread's hook comes or goes within the block: for copying modules, hooks and all."""
    with _changing:
        yield


def _serve(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
    for each in tuple(_of_this_thread.hooks.get(module, ())):
        each.hook(module, args, kwargs or {})
