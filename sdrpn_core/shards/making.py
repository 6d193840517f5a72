"""Making the missing shards of a run, in this process or those that ``accelerate`` started."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from sdrpn_core.distributed.processes import processes, progress_bar, wait_for_everyone
from sdrpn_core.shards.format import Row
from sdrpn_core.shards.run import RunSummary, ShardedRun

if TYPE_CHECKING:
    import torch

__all__ = ["Advance", "make_missing_shards"]

Advance: TypeAlias = Callable[[int], object]
"""Called after each batch with the number of its records."""

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
