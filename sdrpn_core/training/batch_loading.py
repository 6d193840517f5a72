"""Samples in batches, which workers prepare ahead."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator

from torch.utils.data import DataLoader, Dataset

from sdrpn_core.errors import SdrpnError
from sdrpn_core.training.samples import Item, Samples, SkippedSample, log_skipped


def load_batches(
    samples: Samples, batches: Iterable[list[int]], num_workers: int
) -> Iterator[list[Item]]:
    """Load batches of samples in the given order; skipped records are named in the log.

    Each worker is two batches ahead at most, which bounds the memory.

    Args:
        samples: the data set.
        batches: indices of the samples of each batch.
        num_workers: processes that load; 0: this one.

    Raises:
        SdrpnError: what the data set raises; a worker's traceback is left out.
    """
    loader = DataLoader(
        _Guarded(samples),
        batch_sampler=batches,
        collate_fn=_unchanged,
        num_workers=num_workers,
        worker_init_fn=_end_with_parent if num_workers else None,
    )
    for items in loader:
        good: list[Item] = []
        for item in items:
            if isinstance(item, SdrpnError):
                raise item
            if isinstance(item, SkippedSample):
                log_skipped(item)
            good.append(item)
        yield good


def _end_with_parent(worker: int) -> None:
    """End a worker at once when the training process is killed.

    Torch's own check comes every few seconds. Until then the worker would hold whatever it has
    inherited, the lock of the run's folder among it, and a run that is resumed would be refused.
    """

    def watch() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _unchanged(items: list[Item | SdrpnError]) -> list[Item | SdrpnError]:
    return items


class _Guarded(Dataset["Item | SdrpnError"]):
    """Hands errors over as values.

    A data loader's worker process would wrap an exception in its own traceback, and the one line
    that says what is wrong would be lost.

    Args:
        dataset: the samples.
    """

    def __init__(self, dataset: Samples) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Item | SdrpnError:
        try:
            return self.dataset[index]
        except SdrpnError as error:
            return error
