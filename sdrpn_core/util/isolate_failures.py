"""Batches of which one item may be at fault: the others go through, and the one is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from sdrpn_core.errors import AttentionError, InputError, SdrpnError

__all__ = ["ITEM_ERRORS", "isolate_failures"]

#: What is the fault of one item; anything else ends the run.
ITEM_ERRORS = (InputError, AttentionError)

T = TypeVar("T")
R = TypeVar("R")


def isolate_failures(
    batch: Sequence[T],
    run: Callable[[Sequence[T]], R],
    errors: tuple[type[SdrpnError], ...] = ITEM_ERRORS,
) -> Iterator[tuple[Sequence[T], R | SdrpnError]]:
    """Run a whole batch; if that fails, run each of its items alone.

    Args:
        batch: one or more items.
        run: does the work of a batch of any size.
        errors: classes that an item can be blamed for; others are not caught.

    Yields:
        In the order of the items: some of them, and what ``run`` returned for them; or a single
        one, and the error that it raised.
    """
    try:
        result = run(batch)
    except errors as error:
        if len(batch) > 1:
            for item in batch:
                yield from isolate_failures([item], run, errors)
        else:
            yield batch, error
    else:
        yield batch, result
