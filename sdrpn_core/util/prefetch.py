"""An iterator that is drawn from ahead of need, in a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

__all__ = ["prefetched"]

T = TypeVar("T")

_PATIENCE = 5.0
"""Seconds that the end of an iteration waits for an item that is being drawn. Some never come, such
as the next line of a terminal."""


def prefetched(items: Iterable[T], ahead: int) -> Generator[T, None, None]:
    """The items, in order, each drawn while earlier ones are being used.

    Nothing is drawn before the first item is asked for. An exception of the iterator is raised
    where its item would have come. Close the iteration if you leave it early: then no more is
    drawn.

    Args:
        items: drawn from by one thread, which is not the one that uses them.
        ahead: how many items are drawn that nobody has asked for yet, 1 or more; bounds the memory.

    Yields:
        The items.
    """
    drawn: queue.SimpleQueue[tuple[bool, T | BaseException | None]] = queue.SimpleQueue()
    wanted = threading.Semaphore(ahead)
    is_over = threading.Event()

    def draw() -> None:
        source = iter(items)
        try:
            while wanted.acquire() and not is_over.is_set():
                drawn.put((True, next(source)))
        except StopIteration:
            drawn.put((False, None))
        except BaseException as error:  # noqa: BLE001 - raised where the item is asked for
            drawn.put((False, error))

    # A daemon, as it may never end: see above.
    thread = threading.Thread(target=draw, name="sdrpn-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            is_item, item = drawn.get()
            if isinstance(item, BaseException) and not is_item:
                raise item
            if not is_item:
                return
            wanted.release()
            yield item  # type: ignore[misc]  # an item it is
            del item
    finally:
        is_over.set()
        wanted.release()
        thread.join(_PATIENCE)
