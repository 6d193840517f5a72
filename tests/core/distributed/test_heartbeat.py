"""Waiting for other processes: as long as their hearts beat, and no longer."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from sdrpn_core.distributed.heartbeat import Heartbeat
from sdrpn_core.distributed.processes import TIMEOUT_VARIABLE, processes
from sdrpn_core.errors import ConfigError, SdrpnError

HOST = "127.0.0.1"
TIMEOUT = 1.0


@pytest.fixture
def store(monkeypatch) -> TCPStore:
    """What a launcher, or the process of rank 0, offers to the processes."""
    store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=10))
    monkeypatch.setenv("MASTER_ADDR", HOST)
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    return store


def test_a_late_process_is_waited_for_while_its_heart_beats(store):
    first, late = (Heartbeat(rank, 2, TIMEOUT) for rank in (0, 1))
    begin = time.monotonic()
    thread = threading.Timer(2.5 * TIMEOUT, late.wait)
    thread.start()
    first.wait()
    thread.join()
    assert time.monotonic() - begin >= 2.5 * TIMEOUT

    thread = threading.Thread(target=late.wait)
    thread.start()
    first.wait()  # the second time: the first arrivals do not count
    thread.join()


def test_silent_processes_are_named(store):
    watch = Heartbeat(1, 4, TIMEOUT)
    store.set("sdrpn/0/beat/2", "1")  # a heart that beat once
    store.set("sdrpn/0/arrived/1/3", "")
    begin = time.monotonic()
    with pytest.raises(SdrpnError, match="ranks 0, 2 of 4 sent no heartbeat for 1 s"):
        watch.wait()
    assert time.monotonic() - begin < 10 * TIMEOUT


def test_a_restarted_job_does_not_take_old_arrivals_for_new(store, monkeypatch):
    store.set("sdrpn/0/arrived/1/0", "")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(SdrpnError, match="rank 0 of 2"):
        Heartbeat(1, 2, TIMEOUT).wait()


@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf", ""])
def test_the_timeout_is_a_number_of_seconds(text, monkeypatch):
    monkeypatch.setenv(TIMEOUT_VARIABLE, text)
    with pytest.raises(ConfigError, match=f"{TIMEOUT_VARIABLE} must be a number of seconds"):
        processes("cpu")
