"""The label stage as a Ray Data job: one row per shard, made by a pool of workers."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sdrpn_core.distributed.processes import progress_bar
from sdrpn_core.errors import ConfigError, MissingExtraError, SdrpnError, ShardError
from sdrpn_core.labeling.engine import LabelEngine
from sdrpn_core.labeling.job import LabelJob
from sdrpn_core.labeling.manifest import LabelManifest
from sdrpn_core.labeling.run import LabelRun
from sdrpn_core.shards.run import RunSummary

try:
    import ray
    import ray.data
except ImportError as missing:
    raise MissingExtraError("--engine ray", "ray") from missing

from sdrpn_ray.address import check_reachable
from sdrpn_ray.worker import ShardWorker, WorkerCount, prepare

__all__ = ["RayEngine"]


@dataclass(frozen=True)
class RayEngine(LabelEngine):
    """A Ray Data job. All machines of the cluster see the data and the folder of the shards.

    Attributes:
        address: of the cluster; ``None``: that of ``RAY_ADDRESS``, else the one this machine
            belongs to, else a new one on this machine, for this run.
        workers: how many hold a backbone each; ``None``: as many as the cluster has room for, and
            no more than there are shards.
        cpus: processors per worker, which is also its number of threads.
        gpus: GPUs per worker; ``None``: one, if the cluster has any and the job is not for a CPU.
        max_deaths: workers that may die before the job is given up. Each is replaced until then.

    Raises:
        ConfigError: a number is out of range.
    """

    address: str | None = None
    workers: int | None = None
    cpus: int = 1
    gpus: float | None = None
    max_deaths: int = 10

    def __post_init__(self) -> None:
        least_values = {"workers": 1, "cpus": 1, "gpus": 0, "max_deaths": 0}
        for name, least in least_values.items():
            value: Any = getattr(self, name)
            if value is not None and (not isinstance(value, (int, float)) or value < least):
                raise ConfigError(f"ray engine: {name} must be {least} or more, not {value!r}")

    def run(self, job: LabelJob, *, overwrite: bool, progress: bool) -> RunSummary:
        """See :class:`~sdrpn_core.labeling.engine.LabelEngine`.

        Raises:
            SdrpnError: a worker cannot do its work (says on which machine), too many workers died,
                or the cluster is gone. What is finished stays; run it again to continue.
        """
        if os.environ.get("WORLD_SIZE", "1") != "1":
            raise ConfigError(
                "--engine ray starts its own workers: run it without accelerate launch"
            )
        job.records()  # a mistake in the data is found here at once
        job = job.with_absolute_paths()
        with self._cluster():
            try:
                return self._label(job, overwrite, progress)
            except ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[-1]
                raise SdrpnError(
                    f"the Ray job failed ({type(error).__name__}: {reason}): run it again to finish"
                ) from error

    def _label(self, job: LabelJob, overwrite: bool, progress: bool) -> RunSummary:
        needs = self._resources(job)
        # Only a worker can say what the run's manifest is: the backbone may not fit this machine.
        _raise_problem(ray.get(prepare.options(**needs).remote(job, overwrite)))
        run = _open(job)
        missing = run.missing_shards()
        if missing:
            n_workers = min(self.workers or _capacity(needs), len(missing))
            count = ray.remote(WorkerCount).options(num_cpus=0).remote(n_workers + self.max_deaths)
            done = ray.data.from_items(
                [{"shard": shard} for shard in missing], override_num_blocks=len(missing)
            ).map_batches(
                ShardWorker,
                fn_constructor_args=(job, count),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=n_workers),
                **needs,
            )
            total = sum(len(run.manifest.shard_records(shard)) for shard in missing)
            with progress_bar(progress, total=total, desc="label", unit="record") as bar:
                for row in done.iter_rows():
                    _raise_problem(row["problem"])
                    bar.update(len(run.manifest.shard_records(row["shard"])))
        summary = run.summary()
        if summary.missing_shards:
            raise SdrpnError(
                f"{summary.missing_shards} shards were made, but are not in {job.folder}: all "
                "machines of the cluster must share this folder"
            )
        return summary

    def _resources(self, job: LabelJob) -> dict[str, Any]:
        gpus = self.gpus
        if gpus is None:
            on_cpu = str(job.load_options.get("device", "")).startswith("cpu")
            gpus = 0 if on_cpu or not ray.cluster_resources().get("GPU") else 1
        return {"num_cpus": self.cpus, "num_gpus": gpus}

    @contextmanager
    def _cluster(self) -> Iterator[None]:
        """Join the cluster, or the one that the caller has joined."""
        joined = ray.is_initialized()
        if not joined:
            check_reachable(self.address or os.environ.get("RAY_ADDRESS", ""))
            try:
                ray.init(address=self.address, log_to_driver=False, logging_level=logging.WARNING)
            except (ConnectionError, ValueError) as error:
                raise SdrpnError(f"cannot join the Ray cluster: {error}") from error
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # ours is shown
        context = ray.data.DataContext.get_current()
        bars, context.enable_progress_bars = context.enable_progress_bars, False
        try:
            yield
        finally:
            context.enable_progress_bars = bars
            if not joined:
                ray.shutdown()


def _capacity(needs: dict[str, Any]) -> int:
    """How many workers the cluster can hold."""
    resources = ray.cluster_resources()
    counts = [
        int(resources.get(kind, 0) / needs[name])
        for kind, name in (("CPU", "num_cpus"), ("GPU", "num_gpus"))
        if needs[name]
    ]
    return max(1, min(counts))


def _open(job: LabelJob) -> LabelRun:
    try:
        return LabelRun(job.folder, LabelManifest.read(job.folder))
    except ShardError as error:
        raise SdrpnError(
            f"a worker has opened the run in {job.folder}, but it is not visible here: all "
            "machines of the cluster must share this folder"
        ) from error


def _raise_problem(problem: Any) -> None:
    if problem:
        raise SdrpnError(str(problem))
