"""What runs on the workers of the cluster.

Problems come back as values: Ray would bury the one line that says what is wrong in tracebacks of
its own.
"""

from __future__ import annotations

import socket
from typing import Any

import ray

from sdrpn_core.errors import SdrpnError
from sdrpn_core.labeling.job import LabelJob
from sdrpn_core.labeling.run import LabelRun
from sdrpn_core.labeling.stage import ShardMaker

__all__ = ["ShardWorker", "WorkerCount", "prepare"]


class WorkerCount:
    """Counts the workers that were started, so that a job whose workers keep dying comes to an end.

    Args:
        limit: how many may be started.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._started = 0

    def add(self) -> bool:
        """Count one worker; whether it may work."""
        self._started += 1
        return self._started <= self._limit


@ray.remote(max_retries=0)
def prepare(job: LabelJob, overwrite: bool) -> str:
    """Open the run, as the first of all workers.

    Returns:
        What is wrong; empty if nothing is.
    """
    try:
        job.open_run(job.maker(), overwrite=overwrite)
    except SdrpnError as error:
        return _on_this_machine(error)
    return ""


class ShardWorker:
    """Makes one shard per call; loads the backbone once.

    Args:
        job: what to label, and how.
        count: of all workers.
    """

    def __init__(self, job: LabelJob, count: Any) -> None:
        self._job = job
        self._may_work: bool = ray.get(count.add.remote())
        self._opened: tuple[ShardMaker, LabelRun] | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Make the shards of a batch that are missing.

        Args:
            batch: ``shard``, their numbers.

        Returns:
            ``shard``, and ``problem``: what is wrong, or an empty text.
        """
        shards = [int(shard) for shard in batch["shard"]]
        problem = ""
        try:
            self._make(shards)
        except SdrpnError as error:
            problem = _on_this_machine(error)
        return {"shard": shards, "problem": [problem] * len(shards)}

    def _make(self, shards: list[int]) -> None:
        if not self._may_work:
            raise SdrpnError("too many workers died (see Ray's logs): run it again to continue")
        if self._opened is None:
            maker = self._job.maker()
            self._opened = maker, self._job.open_run(maker)
        maker, run = self._opened
        for shard in shards:
            if not run.is_finished(shard):  # else by a worker whose answer was lost
                maker.make(run, shard)


def _on_this_machine(error: SdrpnError) -> str:
    return f"{socket.gethostname()}: {error}"
