"""Making the missing shards of a run, in this process or those that ``accelerate`` started."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from sdrpn_core.distributed.processes import processes, progress_bar, wait_for_everyone
from sdrpn_core.shards.format import Row
from sdrpn_core.shards.run import RunSummary, ShardedRun
from sdrpn_core.util.prefetch import prefetched

if TYPE_CHECKING:
    import torch

__all__ = ["Advance", "make_missing_shards", "make_rows"]

Advance: TypeAlias = Callable[[int], object]
"""Called after each batch with the number of its records."""

P = TypeVar("P")
R = TypeVar("R", bound=Row)
Run = TypeVar("Run", bound=ShardedRun)  # type: ignore[type-arg]


def make_missing_shards(
    open_run: Callable[[bool], Run],
    make: Callable[[Run, int, Advance], None],
    device: torch.device,
    *,
    overwrite: bool,
    progress: bool,
    verb: str,
) -> RunSummary:
    """Make the missing shards of a run.

    Args:
        open_run: opens the run's folder; takes whether the run that is in it is removed.
        make: makes one shard and writes it.
        device: of the model that does.
        overwrite: remove the run that is in the folder.
        progress: show a bar on the main process.
        verb: what is done to the records, for the bar.

    Returns:
        What the folder holds, in every process.

    Raises:
        ShardError: the folder holds another run.
        SdrpnError: a shard cannot be written (full disk); the finished ones stay.
    """
    state = processes(device)
    if overwrite and state.is_main_process:
        open_run(True)
    wait_for_everyone(state)
    run = open_run(False)
    missing = run.missing_shards(state.process_index, state.num_processes)
    total = sum(len(run.manifest.shard_records(shard)) for shard in missing)
    with progress_bar(progress, total=total, desc=verb, unit="record") as bar:
        for shard in missing:
            make(run, shard, bar.update)
    wait_for_everyone(state)
    return run.summary()


def make_rows(
    indices: Iterable[int],
    prepare: Callable[[int], P],
    work: Callable[[Sequence[P]], Sequence[R]],
    batch_size: int,
    advance: Advance | None = None,
) -> list[R]:
    """Make the rows of some records, batch by batch.

    Args:
        indices: of the records.
        prepare: reads a record and opens its image, for the next batch in a thread of its own.
        work: makes the rows of a batch.
        batch_size: records that are worked on together.
        advance: of a progress bar.
    """
    rows: list[R] = []
    ready = prefetched(map(prepare, indices), batch_size)
    with closing(ready):
        while batch := list(islice(ready, batch_size)):
            rows += work(batch)
            if advance is not None:
                advance(len(batch))
    return rows
