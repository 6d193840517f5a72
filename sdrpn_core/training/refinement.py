"""Rounds of refinement: regions are drawn from a map and judged, and the map learns from that.

    round-1/utility/    regions of the RPN that is given, judged
    round-1/train/      the map trained on them; the next round starts from round-1/train/rpn
    round-2/ ...

Both stages of a round resume where they stopped, and do nothing once they are complete, so a killed
refinement is continued by the same call, and a finished one extended by more rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_core.data.read import read_records
from sdrpn_core.data.record import Record, RecordSource
from sdrpn_core.rpn.model import RPN
from sdrpn_core.training.defaults import DEFAULT_ROUNDS
from sdrpn_core.training.stage import TrainingResult, train
from sdrpn_core.training.utility_objective import UtilityObjective
from sdrpn_core.util.whole_numbers import check_count
from sdrpn_core.utility.defaults import DEFAULT_CANDIDATES
from sdrpn_core.utility.stage import default_sampler, judge_crops

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.labels.judged import RegionTargets
    from sdrpn_core.shards.run import RunSummary
    from sdrpn_core.training.settings import TrainingSettings

__all__ = ["RefinementRound", "refine"]

UTILITY_FOLDER = "utility"
TRAIN_FOLDER = "train"


@dataclass(frozen=True, eq=False)
class RefinementRound:
    """What one round arrived at.

    Attributes:
        folder: of the round.
        judged: how many records were judged, and which were not.
        training: the refined RPN, and how it was trained.
    """

    folder: Path
    judged: RunSummary
    training: TrainingResult


def refine(
    backbone: Backbone,
    data: str | Path | Sequence[Record],
    rpn: str | Path,
    out_dir: str | Path,
    *,
    rounds: int = DEFAULT_ROUNDS,
    targets: RegionTargets | None = None,
    settings: TrainingSettings | None = None,
    n_candidates: int = DEFAULT_CANDIDATES,
    seed: int = 0,
    judging: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> list[RefinementRound]:
    """Refine an RPN by what its regions are worth, or continue where an interrupted call stopped.

    Under ``accelerate launch`` every process calls this with the same arguments.

    Args:
        backbone: the frozen model, loaded as a whole.
        data: a source, or what :func:`~sdrpn_core.data.read.read_records` takes; all records are
            judged in every round.
        rpn: local folder or hub id of the RPN to start from.
        out_dir: holds the rounds, one folder each.
        rounds: how many there are, with those that are done.
        targets: how judged regions become targets of the map, see
            :mod:`sdrpn_core.labels.judged`; default: labels of the best region.
        settings: of the training in every round; default: the backbone's preset.
        n_candidates: regions drawn from the map per record and round.
        seed: of the draws, to which the number of the round is added, so that rounds differ.
        judging: further arguments of :func:`~sdrpn_core.utility.stage.judge_crops`: ``reference``,
            ``batch_size``, ``shard_size``, ``max_pixels``.
        overwrite: start over: remove the runs of these rounds.
        progress: show bars on the main process.

    Returns:
        The rounds; the last one's ``training`` holds the refined RPN.

    Raises:
        ConfigError: no round, or settings that do not fit.
        CheckpointError: no such RPN, or a round's folder holds another training run.
        ShardError: a round's folder holds another utility run, or no region helped.
        SdrpnError: see ``judge_crops`` and ``train``.
    """
    check_count(rounds, "the number of rounds")
    records = data if isinstance(data, RecordSource) else read_records(data)
    done: list[RefinementRound] = []
    current: str | Path = rpn
    for number in range(1, rounds + 1):
        folder = Path(out_dir) / f"round-{number}"
        # First: what does not fit fails before the work.
        objective = UtilityObjective(current, targets)
        proposer = RPN.from_pretrained(current, backbone=backbone)
        sampler = default_sampler(proposer.config.crop_policy(), n_candidates, seed + number)
        judged = judge_crops(
            backbone,
            records,
            folder / UTILITY_FOLDER,
            proposer,
            sampler=sampler,
            **(judging or {}),
            overwrite=overwrite,
            progress=progress,
        )
        training = train(
            backbone,
            folder / UTILITY_FOLDER,
            folder / TRAIN_FOLDER,
            settings,
            objective=objective,
            overwrite=overwrite,
            progress=progress,
        )
        done.append(RefinementRound(folder, judged, training))
        current = training.folder
    return done
