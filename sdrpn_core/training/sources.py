"""What a run trains on: stored labels, or records whose labels are made while training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdrpn_core.backbone.identity import backbone_identity, differences
from sdrpn_core.backbone.preprocessing import Preprocessor
from sdrpn_core.errors import ConfigError, ShardError
from sdrpn_core.labeling.run import LabelDataset
from sdrpn_core.labels.recipe import LabelRecipe
from sdrpn_core.plugins.manager import get_plugins
from sdrpn_core.training.batches import AnsweredRecordBatcher, Batcher, StoredLabelBatcher
from sdrpn_core.training.samples import AnsweredRecords, SizedSamples, StoredLabels

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.data.record import RecordSource
    from sdrpn_core.shards.run import RowDataset
    from sdrpn_core.training.settings import TrainingSettings

#: Fields of a recipe, beside the heads, that have decided the maps of a label run.
_OF_THE_MAPS = ("response_rows", "question_template", "drop_instruction")


@dataclass(frozen=True, eq=False)
class TrainingSource:
    """Samples, and how they become batches.

    Attributes:
        samples: the data set.
        batcher: makes batches of its samples.
        labels: how the labels are made, as plain JSON values; a cache of the samples holds the
            labels as well. Of several runs what the first says, and that of each under ``runs``.
        n_layers: decoder layers that the batcher runs.
        facts: what identifies the data, as plain JSON values.
        datasets: what the data are called, for people; one name per data set.
    """

    samples: SizedSamples
    batcher: Batcher
    labels: Mapping[str, Any]
    n_layers: int
    facts: Mapping[str, Any]
    datasets: tuple[str, ...]


def check_run_backbone(rows: RowDataset[Any], backbone: Backbone) -> None:
    """Check that a run was made with this backbone.

    Args:
        rows: the run.
        backbone: the frozen model.

    Raises:
        ShardError: it was made with another one; says what differs.
    """
    found = rows.manifest.provenance.get("backbone", {})
    if different := differences(found, backbone_identity(backbone, branch=0)):
        raise ShardError(
            f"{rows.folder} belongs to another backbone than {backbone.name}: "
            f"{'; '.join(different)}"
        )


def stored_labels(
    backbone: Backbone,
    rows: LabelDataset,
    branch: int,
    settings: TrainingSettings,
    recipe: LabelRecipe | None = None,
    options: Mapping[str, Any] | None = None,
) -> TrainingSource:
    """Train on a label run.

    Args:
        backbone: the frozen model.
        rows: the run.
        branch: B.
        settings: names the pseudo-labeler.
        recipe: other thresholds than the run's; its heads must be the same.
        options: fields that the recipe is to have, whichever it is.

    Raises:
        ShardError: the labels are another backbone's, or the run has no usable row.
        ConfigError: the recipe reads other heads than the run did, or other responses; or an option
            is none.
    """
    check_run_backbone(rows, backbone)
    if not len(rows):
        raise ShardError(
            f"{rows.folder} holds no label: every record was skipped; run `sdrpn label` again to "
            "see why"
        )
    stored = LabelRecipe.from_dict(rows.manifest.provenance.get("recipe", {}))
    recipe = (recipe or stored).with_options(options or {})
    recipe.check_fits(backbone.n_layers, backbone.n_heads)
    if (recipe.grounding, recipe.sink) != (stored.grounding, stored.sink):
        raise ConfigError(
            f"{rows.folder} was labeled with heads {_heads(stored)}, the recipe reads "
            f"{_heads(recipe)}: label again, or keep the heads and change thresholds alone"
        )
    for name in _OF_THE_MAPS:
        labeled_with, read = getattr(stored, name), getattr(recipe, name)
        if labeled_with != read:
            raise ConfigError(
                f"{rows.folder} was labeled with {name} {labeled_with!r}, the recipe says "
                f"{read!r}: label again, or change thresholds alone"
            )
    labeler = get_plugins().pseudo_labelers.get(settings.labeler)(recipe)
    return TrainingSource(
        samples=StoredLabels(rows, labeler, _preprocessor(backbone, recipe), settings.max_pixels),
        batcher=StoredLabelBatcher(backbone, branch),
        labels={"recipe": recipe.to_dict(), "labeler": settings.labeler},
        n_layers=branch,
        facts={"kind": "stored", "digest": rows.manifest.digest, "rows": len(rows)},
        datasets=(rows.manifest.dataset,),
    )


def answered_records(
    backbone: Backbone,
    records: RecordSource,
    branch: int,
    settings: TrainingSettings,
    recipe: LabelRecipe | None = None,
    options: Mapping[str, Any] | None = None,
) -> TrainingSource:
    """Train on records that come with responses, without a label run.

    Args:
        backbone: the frozen model.
        records: the source.
        branch: B.
        settings: names the pseudo-labeler.
        recipe: default: the first of the backbone's preset.
        options: fields that the recipe is to have, whichever it is.

    Raises:
        ConfigError: no recipe, one that names layers or heads which the backbone lacks, or a number
            of visual tokens where that is fixed.
    """
    recipe = (recipe or backbone.preset.recipe()).with_options(options or {})
    recipe.check_fits(backbone.n_layers, backbone.n_heads)
    labeler = get_plugins().pseudo_labelers.get(settings.labeler)(recipe)
    return TrainingSource(
        samples=AnsweredRecords(records, _preprocessor(backbone, recipe), settings.max_pixels),
        batcher=AnsweredRecordBatcher(backbone, branch, labeler),
        labels={"recipe": recipe.to_dict(), "labeler": settings.labeler},
        n_layers=max(branch, max(recipe.layers) + 1),
        facts={"kind": "records", "digest": records.fingerprint, "rows": len(records)},
        datasets=(records.name,),
    )


def _preprocessor(backbone: Backbone, recipe: LabelRecipe) -> Preprocessor:
    """Prepares images as they are labeled, with as many visual tokens."""
    return Preprocessor(backbone.looking_with(recipe.visual_tokens))


def _heads(recipe: LabelRecipe) -> str:
    values = recipe.to_dict()
    return f"{values['grounding']} (sink {values['sink']})"
