"""Label engines: where the shards of a label run are made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from sdrpn_core.labeling.job import LabelJob
from sdrpn_core.labeling.stage import make_shards
from sdrpn_core.shards.run import RunSummary
from sdrpn_core.util.dataclass_reader import read_dataclass

__all__ = ["LabelEngine", "LocalEngine"]

E = TypeVar("E", bound="LabelEngine")


@dataclass(frozen=True)
class LabelEngine(ABC):
    """Carries out a label job. A subclass is a frozen dataclass whose fields are its options.

    Every engine writes what :func:`~sdrpn_core.labeling.stage.label` would: it makes the missing
    shards with :meth:`ShardMaker.make`, wherever and in whatever order it likes.
    """

    @abstractmethod
    def run(self, job: LabelJob, *, overwrite: bool, progress: bool) -> RunSummary:
        """Carry out a job, or finish one that was interrupted.

        Args:
            job: what to label, and how.
            overwrite: remove the run that is in the job's folder.
            progress: show a bar.

        Returns:
            What the folder holds.

        Raises:
            SdrpnError: the job cannot be carried out; finished shards stay.
        """

    @classmethod
    def from_options(cls: type[E], options: Mapping[str, Any]) -> E:
        """The engine with these options, the others at their defaults.

        Raises:
            ConfigError: unknown option (names the near ones), or an impossible value.
        """
        return read_dataclass(cls, options, cls.__name__)


@dataclass(frozen=True)
class LocalEngine(LabelEngine):
    """This process, or those that ``accelerate launch`` started."""

    def run(self, job: LabelJob, *, overwrite: bool, progress: bool) -> RunSummary:
        """See :class:`LabelEngine`; every process calls it and gets the same summary."""
        maker = job.maker()
        return make_shards(
            maker, job.folder, job.manifest(maker), overwrite=overwrite, progress=progress
        )
