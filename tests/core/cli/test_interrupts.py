"""Ctrl-C arrives, even where something in between drops it or makes something else of it."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress

import pytest

import sdrpn_core.cli.interrupts
from sdrpn_core.cli.interrupts import interrupts_arrive


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(sdrpn_core.cli.interrupts, "REPEAT_SECONDS", 0.05)


@pytest.fixture(autouse=True)
def _ctrl_c_interrupts():
    """As in a program of its own: a test runner's worker ignores Ctrl-C."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def swallow():
    with suppress(BaseException):
        press_ctrl_c()
        time.sleep(5)


def test_an_interrupt_that_was_swallowed_comes_again():
    began = time.monotonic()

    def work():
        swallow()
        time.sleep(5)

    with pytest.raises(KeyboardInterrupt), interrupts_arrive():
        work()
    assert time.monotonic() - began < 4


def test_an_interrupt_that_was_swallowed_at_the_very_end_is_not_lost():
    with pytest.raises(KeyboardInterrupt), interrupts_arrive():
        swallow()


def test_an_error_that_an_interrupt_became_is_an_interrupt():
    def import_lazily():
        try:
            press_ctrl_c()
            time.sleep(5)
        except KeyboardInterrupt as error:
            raise ModuleNotFoundError("Could not import module") from error

    with pytest.raises(KeyboardInterrupt) as caught, interrupts_arrive():
        import_lazily()
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_other_errors_stay_what_they_are():
    with pytest.raises(ModuleNotFoundError), interrupts_arrive():
        raise ModuleNotFoundError("no such module")


def test_handlers_are_put_back_and_no_alarm_rings_later():
    before = signal.getsignal(signal.SIGALRM)
    with suppress(KeyboardInterrupt), interrupts_arrive():
        press_ctrl_c()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGALRM) is before
    time.sleep(0.1)


def test_handlers_of_others_are_left_alone(monkeypatch):
    seen = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        with interrupts_arrive():
            press_ctrl_c()
    finally:
        signal.signal(signal.SIGINT, previous)
    assert seen == [signal.SIGINT]


def test_in_another_thread_nothing_changes():
    ran = []

    def work():
        with interrupts_arrive():
            ran.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ran == [signal.default_int_handler]
