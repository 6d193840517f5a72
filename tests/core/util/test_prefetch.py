"""Items come in order, are drawn ahead and no further, and nothing is left running."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

import sdrpn_core.util.prefetch
from sdrpn_core.util.prefetch import prefetched

DEADLINE = 30.0


def threads():
    return [one for one in threading.enumerate() if one.name == "sdrpn-prefetch"]


class Counted:
    """The whole numbers below ``n``; ``drawn`` says how many were asked for."""

    def __init__(self, n):
        self.n = n
        self.drawn = 0
        self.changed = threading.Condition()

    def __iter__(self):
        for number in range(self.n):
            with self.changed:
                self.drawn += 1
                self.changed.notify_all()
            yield number

    def wait_for(self, drawn):
        with self.changed:
            return self.changed.wait_for(lambda: self.drawn >= drawn, DEADLINE)


@pytest.mark.parametrize("ahead", [1, 3, 100])
@pytest.mark.parametrize("n", [0, 1, 2, 20])
def test_items_in_order(n, ahead):
    assert list(prefetched(range(n), ahead)) == list(range(n))
    assert threads() == []


@pytest.mark.parametrize("ahead", [1, 3])
def test_so_many_are_drawn_ahead_and_no_more(ahead):
    source = Counted(20)
    items = prefetched(source, ahead)
    assert source.drawn == 0
    for number in range(20):
        assert next(items) == number
        wanted = min(number + 1 + ahead, 20)
        assert source.wait_for(wanted)  # while nobody asks
        assert source.drawn == wanted
    assert list(items) == []


def test_none_is_an_item_and_so_is_an_exception():
    odd = [None, ValueError("an item"), 0]
    assert list(prefetched(odd, 2)) == odd


def test_an_error_comes_in_the_place_of_its_item():
    def source():
        yield 1
        yield 2
        raise KeyError("third")

    items = prefetched(source(), 5)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(KeyError, match="third"):
        next(items)
    assert threads() == []


def test_leaving_early_ends_the_thread():
    source = Counted(1000)
    with closing(prefetched(source, 2)) as items:
        assert next(items) == 0
    assert threads() == []
    assert source.drawn <= 3


def test_an_item_that_never_comes_does_not_hold_up_the_end(monkeypatch):
    monkeypatch.setattr(sdrpn_core.util.prefetch, "_PATIENCE", 0.01)
    asked, released = threading.Event(), threading.Event()

    def source():
        yield 1
        asked.set()
        released.wait(DEADLINE)  # a terminal on which nobody types

    with closing(prefetched(source(), 1)) as items:
        assert next(items) == 1
        assert asked.wait(DEADLINE)
    (thread,) = threads()
    released.set()
    thread.join(DEADLINE)
    assert threads() == []
