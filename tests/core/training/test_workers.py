"""Worker processes that prepare samples: how many there are, what they hand over, and their end."""

from __future__ import annotations

import logging
import multiprocessing
import os
import select
import signal
import time

import pytest
from torch.utils.data import Dataset

from sdrpn_core.errors import ShardError
from sdrpn_core.training.batch_loading import load_batches
from sdrpn_core.training.samples import SkippedSample
from sdrpn_core.training.settings import TrainingSettings, worker_processes

#: Longer than anything takes here, shorter than torch's own workers take that are at work.
DEADLINE = 60.0


@pytest.mark.parametrize(
    ("cpus", "processes", "expected"),
    [(1, 1, 0), (2, 1, 1), (4, 1, 3), (64, 1, 8), (64, 8, 7), (8, 8, 0), (4, 8, 0)],
)
def test_one_cpu_is_left_to_each_process(monkeypatch, cpus, processes, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cpus)), raising=False)
    assert worker_processes(processes) == expected
    assert TrainingSettings().workers(processes, "cuda") == expected
    assert TrainingSettings().workers(processes, "cpu") == 0
    assert TrainingSettings(num_workers=5).workers(processes, "cpu") == 5


def test_systems_that_do_not_tell_which_cpus_are_allowed(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert worker_processes(1) == 2


class Numbered(Dataset):
    """Samples that say their index, the first ones last; the one at ``corrupt`` cannot be read."""

    def __init__(self, corrupt=None):
        self.corrupt = corrupt

    def __getitem__(self, index):
        if index == self.corrupt:
            raise ShardError(f"sample {index} is corrupt")
        time.sleep(0.2 / (1 + index))
        return SkippedSample(f"s{index}", f"process {os.getpid()}")


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_samples_come_in_the_order_asked_for_and_skipped_ones_are_named(workers, caplog):
    order = [[0, 3], [2], [1, 4]]
    with caplog.at_level(logging.WARNING):
        batches = list(load_batches(Numbered(), order, workers))
    assert [[item.id for item in batch] for batch in batches] == [
        [f"s{index}" for index in batch] for batch in order
    ]
    makers = {item.reason for batch in batches for item in batch}
    assert len(makers) == max(workers, 1)
    assert (f"process {os.getpid()}" in makers) == (workers == 0)
    named = [record.getMessage() for record in caplog.records]
    assert [message.split("'")[1] for message in named] == ["s0", "s3", "s2", "s1", "s4"]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_in_the_place_of_its_batch_and_without_a_worker_s_traceback(workers):
    batches = load_batches(Numbered(corrupt=2), [[0, 1], [3, 2], [4]], workers)
    assert [item.id for item in next(batches)] == ["s0", "s1"]
    with pytest.raises(ShardError) as error:
        next(batches)
    assert str(error.value) == "sample 2 is corrupt"


class Slow(Dataset):
    """The first sample is there at once, the next one not for a long time."""

    def __getitem__(self, index):
        if index:
            time.sleep(10 * DEADLINE)
        return SkippedSample(str(os.getpid()), "of this process")


def first_sample(sender):
    """Send what the first batch says, and wait for the second, which does not come."""
    for (sample,) in load_batches(Slow(), [[0], [1]], 1):
        sender.send(sample.id)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="what is inherited by a fork")
def test_a_worker_ends_with_a_run_that_is_killed():
    """At once, though it is at work: it has inherited the lock of the run's folder."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=first_sample, args=(sender,))
    process.start()
    sender.close()
    assert receiver.poll(DEADLINE)
    worker = int(receiver.recv())
    assert worker != process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    # The other end is open for as long as anyone lives who inherited it.
    ended, _, _ = select.select([receiver], [], [], DEADLINE)
    assert ended
    with pytest.raises(EOFError):
        receiver.recv()
