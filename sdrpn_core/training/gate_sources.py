"""Where the labels of a gate come from: a utility run, or a ladder of resolutions."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sdrpn_core.backbone.preprocessing import Preprocessor
from sdrpn_core.distributed.processes import processes
from sdrpn_core.errors import ShardError
from sdrpn_core.gate.budget_labels import N_ORACLES
from sdrpn_core.labels.pseudo import IGNORE
from sdrpn_core.training.batches import StoredLabelBatcher
from sdrpn_core.training.gate_samples import DrawnBudgets, JudgedQuestions
from sdrpn_core.training.judged_start import first_look
from sdrpn_core.training.sources import TrainingSource, check_run_backbone
from sdrpn_core.utility.candidates import RPN_REGION

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.gate.utility_labels import UtilityMargins
    from sdrpn_core.training.settings import TrainingSettings
    from sdrpn_core.utility.ladder_run import LadderDataset
    from sdrpn_core.utility.run import UtilityDataset

logger = logging.getLogger(__name__)


def judged_questions(
    backbone: Backbone,
    rows: UtilityDataset,
    branch: int,
    settings: TrainingSettings,
    margins: UtilityMargins,
) -> TrainingSource:
    """Train on what the RPN's regions were worth.

    Args:
        backbone: the frozen model.
        rows: the run.
        branch: B.
        settings: of the training run.
        margins: make labels of utilities.

    Raises:
        ShardError: the run is another backbone's, or has no usable row.
    """
    check_run_backbone(rows, backbone)
    if not len(rows):
        raise ShardError(
            f"{rows.folder} holds no judged record: every record was skipped; run `sdrpn utility` "
            "again to see why"
        )
    if processes(backbone.device).is_main_process:
        _warn_of_one_answer(rows, margins)
    return TrainingSource(
        samples=JudgedQuestions(rows, margins, first_look(rows, backbone), settings.max_pixels),
        batcher=StoredLabelBatcher(backbone, branch),
        labels={"kind": "utility", "margins": [margins.indifference, margins.margin]},
        n_layers=branch,
        facts={"kind": "utility", "digest": rows.manifest.digest, "rows": len(rows)},
        datasets=(rows.manifest.dataset,),
    )


def answered_at_budgets(
    backbone: Backbone, rows: LadderDataset, branch: int, settings: TrainingSettings
) -> TrainingSource:
    """Train on answers at several budgets of visual tokens, by the published rule.

    Args:
        backbone: the frozen model, of dynamic resolution.
        rows: the run.
        branch: B.
        settings: of the training run.

    Raises:
        ConfigError: the family has a fixed number of visual tokens.
        ShardError: the run is another backbone's, has fewer than three budgets, or none of its
            questions is a hard one.
    """
    check_run_backbone(rows, backbone)
    if len(rows.resolutions) <= N_ORACLES:
        raise ShardError(
            f"{rows.folder} has answers at {len(rows.resolutions)} budgets: labels need at least "
            f"{N_ORACLES + 1}"
        )
    samples = DrawnBudgets(
        rows,
        rows.ladders(),
        {n: Preprocessor(backbone.with_visual_tokens(n)) for n in rows.resolutions},
        seed=settings.seed,
        max_pixels=settings.max_pixels,
    )
    if not len(samples):
        raise ShardError(
            f"{rows.folder}: none of its {len(rows)} questions fails at low budgets alone: there "
            "is nothing to learn; use smaller budgets, or other questions"
        )
    return TrainingSource(
        samples=samples,
        batcher=StoredLabelBatcher(backbone, branch),
        labels={"kind": "budget"},
        n_layers=branch,
        facts={"kind": "budget", "digest": rows.manifest.digest, "rows": len(rows)},
        datasets=(rows.manifest.dataset,),
    )


def _warn_of_one_answer(rows: UtilityDataset, margins: UtilityMargins) -> None:
    """Warn where all labels are the same; reads rows until there are two."""
    found = set()
    for row in rows:
        utility = row.utility(RPN_REGION)
        label = IGNORE if utility is None else margins.label(utility)
        if label != IGNORE:
            found.add(label)
        if len(found) > 1:
            return
    if found:  # a run without labels is refused
        needed, learned = ("a", "always") if found.pop() else ("no", "never")
        logger.warning(
            "%s: every labeled question needs %s region: a gate can only learn to %s look; judge "
            "other questions, or change the margins (--margin, --indifference)",
            *(rows.folder, needed, learned),
        )
