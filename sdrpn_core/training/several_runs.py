"""Training on several runs as if they were one, such as label runs with a recipe each."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch.utils.data import ConcatDataset

from sdrpn_core.errors import ConfigError
from sdrpn_core.shards.run import RowDataset
from sdrpn_core.training.samples import DrawnSamples, Item, SizedSamples
from sdrpn_core.training.sources import TrainingSource

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.training.objective import Objective
    from sdrpn_core.training.settings import TrainingSettings

__all__ = ["training_source"]


class JoinedDraws(DrawnSamples):
    """Several data sets whose samples are drawn anew in each epoch, one behind the other.

    Args:
        parts: the data sets.
    """

    def __init__(self, parts: Sequence[DrawnSamples]) -> None:
        self.parts = tuple(parts)
        self._ends = ConcatDataset.cumsum(self.parts)

    def __len__(self) -> int:
        return self._ends[-1]

    def draw(self, index: int, epoch: int) -> Item:
        """A sample of the part that the index falls into, as that part draws it."""
        part = bisect_right(self._ends, index)
        return self.parts[part].draw(index - (self._ends[part - 1] if part else 0), epoch)


def training_source(
    objective: Objective, backbone: Backbone, data: Any, settings: TrainingSettings
) -> TrainingSource:
    """What an objective makes of its data: of one run or of records, or of a list of several runs.

    Every run is read as it would be alone: its labels are made by its own recipe, or of its own
    budgets. An epoch is one pass over all of them, shuffled together.

    Args:
        objective: what is trained.
        backbone: the frozen model.
        data: what :func:`~sdrpn_core.training.stage.train` was given.
        settings: of the run.

    Raises:
        ConfigError: the same run twice, or runs of different kinds.
        SdrpnError: what the objective says of one of them.
    """
    if not _are_runs(data):
        return objective.source(backbone, data, settings)
    sources = [objective.source(backbone, run, settings) for run in data]
    names = [str(run.folder if isinstance(run, RowDataset) else run) for run in data]
    _check_together(names, sources)
    return sources[0] if len(sources) == 1 else _joined(sources)


def _are_runs(data: Any) -> bool:
    """Whether the data are a list of runs, not one run, and not records."""
    if not isinstance(data, (list, tuple)) or not data:
        return False
    runs = [isinstance(one, (str, Path, RowDataset)) for one in data]
    if any(runs) and not all(runs):
        other = data[runs.index(False)]
        raise ConfigError(
            f"a list of runs holds {type(other).__name__}: give folders of runs, or records alone"
        )
    return all(runs)


def _check_together(names: Sequence[str], sources: Sequence[TrainingSource]) -> None:
    kinds = [source.facts.get("kind") for source in sources]
    for number, (name, source) in enumerate(zip(names, sources, strict=True)):
        if kinds[number] != kinds[0]:
            raise ConfigError(
                f"{names[0]} and {name} are runs of different kinds ({kinds[0]}, "
                f"{kinds[number]}): train on one kind"
            )
        for earlier in range(number):
            if sources[earlier].facts == source.facts:
                raise ConfigError(
                    f"{names[earlier]} and {name} are the same run: give it once; its questions "
                    "would count twice"
                )


def _joined(sources: Sequence[TrainingSource]) -> TrainingSource:
    first = sources[0]
    parts = [source.samples for source in sources]
    drawn = [part for part in parts if isinstance(part, DrawnSamples)]
    samples = JoinedDraws(drawn) if drawn else ConcatDataset(cast("list[Any]", parts))
    labels = [dict(source.labels) for source in sources]
    return TrainingSource(
        samples=cast("SizedSamples", samples),
        batcher=first.batcher,
        labels={**first.labels, "runs": labels},
        n_layers=max(source.n_layers for source in sources),
        facts={"kind": first.facts.get("kind"), "runs": [dict(source.facts) for source in sources]},
        datasets=tuple(dict.fromkeys(name for source in sources for name in source.datasets)),
    )
