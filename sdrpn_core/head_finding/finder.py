"""Find a backbone's grounding heads, its sinks and its branch layer, on images with known boxes.

Three passes over a small calibration set. The first answers the questions and measures every head
of every layer while the rows go by, see :mod:`sdrpn_core.head_finding.statistics`. The second reads
the same responses again for the few candidate heads, whose maps fit in memory. The third asks half
of the images the questions of others, see :mod:`sdrpn_core.head_finding.question_effect`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sdrpn_core.backbone.given import check_backbone
from sdrpn_core.backbone.identity import backbone_identity
from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.data.read import read_records
from sdrpn_core.distributed.processes import progress_bar
from sdrpn_core.errors import ConfigError, InputError
from sdrpn_core.head_finding.candidates import CandidateMaps, Head, Map
from sdrpn_core.head_finding.defaults import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_MAX_HEADS,
    DEFAULT_MAX_NEW_TOKENS,
    DEFAULT_N,
)
from sdrpn_core.head_finding.label_trial import try_labels
from sdrpn_core.head_finding.question_effect import question_effect
from sdrpn_core.head_finding.report import HeadReport, JointScore
from sdrpn_core.head_finding.samples import (
    N_HALVES,
    Calibration,
    CalibrationSample,
    check_records,
)
from sdrpn_core.head_finding.selection import (
    CONFIRM,
    Selection,
    candidate_heads,
    choose_branch,
    select,
)
from sdrpn_core.head_finding.statistics import ROW_CHOICES, HeadStatistics
from sdrpn_core.labels.pseudo import DEFAULT_LABELER
from sdrpn_core.labels.recipe import LabelRecipe
from sdrpn_core.plugins.manager import get_plugins
from sdrpn_core.taps.response_attention import stream_given_responses
from sdrpn_core.util.package_versions import package_versions
from sdrpn_core.util.whole_numbers import check_counts
from sdrpn_core.util.wilson import wilson

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.prompt import Prompt
    from sdrpn_core.data.record import Record

__all__ = ["find_heads"]

#: Fields of the recipe that are found, and so cannot be given.
_FOUND = ("grounding", "sink", "sink_threshold", "response_rows")

#: Samples that each half must have: with fewer, nothing can be confirmed.
_MIN_HALF = 2


def find_heads(
    backbone: Backbone,
    records: str | Path | Sequence[Record],
    *,
    n: int | None = DEFAULT_N,
    seed: int = 0,
    batch_size: int = DEFAULT_BATCH_SIZE,
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
    max_heads: int = DEFAULT_MAX_HEADS,
    max_pixels: int = MAX_PIXELS,
    recipe_options: Mapping[str, Any] | None = None,
    labeler: str | None = None,
    progress: bool = True,
) -> HeadReport:
    """Measure every head's response-to-image attention against known boxes, and choose a recipe.

    Args:
        backbone: the model; it needs no preset.
        records: what :func:`~sdrpn_core.data.read.read_records` takes, with boxes. Records with a
            response are read, the others are answered by the backbone, as in labeling.
        n: at most this many records.
        seed: selects or generates them.
        batch_size: records that go through the model together.
        max_new_tokens: max new tokens per generated response.
        max_heads: upper limit of the grounding heads.
        max_pixels: records whose image has more pixels are skipped.
        recipe_options: other fields of the :class:`~sdrpn_core.labels.recipe.LabelRecipe`, such as
            ``question_template``, ``visual_tokens`` or thresholds.
        labeler: registered name of the pseudo-labeler that the recipe is tried with; default: that
            of the backbone's preset, else the published one.
        progress: show a bar.

    Returns:
        The recipe, B and R, and what they were chosen from.

    Raises:
        InputError: too few records can be used; the others are skipped. No record has boxes.
        ConfigError: not a backbone, a number out of range, or a recipe field that is not the
            caller's to give.
        UnknownNameError: no labeler of that name.
        AttentionError: a NaN or infinite attention; says in which layer.
    """
    check_backbone(backbone)
    check_counts(
        batch_size=batch_size,
        max_heads=max_heads,
        max_pixels=max_pixels,
        max_new_tokens=max_new_tokens,
    )
    if max_new_tokens < 2:
        raise ConfigError(
            f"max_new_tokens must be 2 or more, not {max_new_tokens}: the last token is never read"
        )
    options = dict(recipe_options or {})
    _check_recipe_options(options)
    labeler = labeler or _preset_labeler(backbone)
    labeler_class = get_plugins().pseudo_labelers.get(labeler)
    # A recipe needs heads; these are replaced.
    asking = LabelRecipe.from_dict({"grounding": {0: (0,)}, **options})
    backbone.check_dynamic_resolution("visual_tokens", asking.visual_tokens)
    source = read_records(records, n=n, seed=seed)
    check_records(source)

    calibration = Calibration(
        backbone,
        source,
        asking,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        max_pixels=max_pixels,
    )
    n_passes = 2 + 1 / N_HALVES
    total = math.ceil(n_passes * len(source))
    with progress_bar(progress, total=total, desc="heads", unit="record") as bar:
        statistics = _measure_all_heads(calibration, bar.update)
        maps, own, other = _read_candidates(
            calibration, candidate_heads(statistics), seed, bar.update
        )
    chosen = select(statistics, maps, max_heads)
    branch, n_layers = choose_branch(maps, chosen, backbone.n_layers)
    branch = backbone.fitting_branch(branch, n_layers)
    n_layers = min(n_layers, backbone.n_layers - branch)
    recipe = LabelRecipe.from_dict({**options, **_recipe_fields(chosen)})
    return HeadReport(
        recipe=recipe,
        branch=branch,
        n_layers=n_layers,
        joint=_joint_score(chosen),
        question_effect=question_effect(own, other, chosen, seed),
        labels=try_labels(maps, chosen, recipe, labeler_class),
        chance=float(np.mean([sample.target.inside.mean() for sample in maps.samples])),
        table=statistics.table(chosen.row_choice),
        n=len(maps.samples),
        skipped=tuple(calibration.skipped),
        backbone=backbone_identity(backbone, branch=0),
        provenance={
            "data": {
                "name": source.name,
                "fingerprint": source.fingerprint,
                "n": len(source),
                "seed": seed,
            },
            "settings": {
                "batch_size": batch_size,
                "max_new_tokens": max_new_tokens,
                "max_heads": max_heads,
                "labeler": labeler,
            },
            "versions": package_versions(),
        },
    )


def _check_recipe_options(options: Mapping[str, Any]) -> None:
    if found := sorted(options.keys() & set(_FOUND)):
        raise ConfigError(
            f"recipe option {', '.join(found)} cannot be set: finding heads determines it"
        )


def _measure_all_heads(calibration: Calibration, advance: Callable[[int], Any]) -> HeadStatistics:
    """First pass: the statistics of all heads.

    Raises:
        InputError: too few records can be used.
    """
    backbone = calibration.backbone
    statistics: HeadStatistics | None = None
    for samples, prompts in calibration.collect():
        if samples:
            if statistics is None:
                grid = samples[0].target.grid
                statistics = HeadStatistics(backbone.n_layers, backbone.n_heads, grid)
            _add_batch(statistics, backbone, samples, prompts)
        advance(len(samples))
    n, skipped = len(calibration.samples), calibration.skipped
    if statistics is None or n < 2 * _MIN_HALF:
        reason = f"; {skipped[0].id!r}: {skipped[0].reason}" if skipped else ""
        raise InputError(
            f"{calibration.records.name}: {n} of {n + len(skipped)} records can be used; finding "
            f"heads needs at least {2 * _MIN_HALF}, preferably {DEFAULT_N}{reason}"
        )
    return statistics


def _add_batch(
    statistics: HeadStatistics, backbone: Backbone, samples: list[CalibrationSample], prompts: Any
) -> None:
    def visit(layer: int, rows: list[torch.Tensor]) -> None:
        for sample, own in zip(samples, rows, strict=True):
            statistics.add_layer(sample.half, layer, _row_means(own), sample.target)

    for sample in samples:
        statistics.add_sample(sample.half)
    stream_given_responses(backbone, prompts, dict.fromkeys(range(backbone.n_layers)), visit)


def _read_candidates(
    calibration: Calibration, heads: tuple[Head, ...], seed: int, advance: Callable[[int], Any]
) -> tuple[CandidateMaps, CandidateMaps, CandidateMaps]:
    """Second and third pass: the maps of some heads.

    Returns:
        Those of all samples; and of the samples that are asked another record's question, those
        with their own and those with the other one.
    """
    backbone = calibration.backbone
    samples, kept = _read_maps(backbone, calibration.repeat(), heads, advance)
    exchanged, other = _read_maps(
        backbone, calibration.exchange_questions(CONFIRM, seed), heads, advance
    )
    by_index = dict(zip((sample.index for sample in samples), kept, strict=True))
    own = [by_index[sample.index] for sample in exchanged]
    return (
        CandidateMaps(heads, samples, kept),
        CandidateMaps(heads, exchanged, own),
        CandidateMaps(heads, exchanged, other),
    )


def _read_maps(
    backbone: Backbone,
    batches: Iterable[tuple[list[CalibrationSample], list[Prompt]]],
    heads: tuple[Head, ...],
    advance: Callable[[int], Any],
) -> tuple[list[CalibrationSample], list[Map]]:
    """A later pass: the samples, and the maps of some heads for each."""
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)
    read: list[CalibrationSample] = []
    kept: list[Map] = []
    for samples, prompts in batches:
        if not samples:
            continue
        layers: list[list[Map]] = [[] for _ in samples]

        def visit(layer: int, rows: list[torch.Tensor], layers: Any = layers) -> None:
            for collected, own in zip(layers, rows, strict=True):
                collected.append(_row_means(own))

        stream_given_responses(backbone, prompts, by_layer, visit)
        read += samples
        kept += [np.concatenate(collected, axis=1) for collected in layers]
        advance(len(samples))
    return read, kept


def _row_means(rows: torch.Tensor) -> Map:
    """``(row choices, heads, cells)`` from ``(heads, response tokens, cells)``."""
    means = [rows[:, :n_rows].mean(dim=1) for n_rows in ROW_CHOICES]
    stacked: Map = torch.stack(means).cpu().numpy()
    return stacked


def _recipe_fields(chosen: Selection) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "grounding": _by_layer(chosen.grounding),
        "response_rows": ROW_CHOICES[chosen.row_choice],
    }
    if chosen.sinks.heads:
        fields["sink"] = _by_layer(chosen.sinks.heads)
        fields["sink_threshold"] = chosen.sinks.threshold
    return fields


def _by_layer(heads: Sequence[Head]) -> dict[int, tuple[int, ...]]:
    layers = sorted({layer for layer, _ in heads})
    return {k: tuple(sorted(head for layer, head in heads if layer == k)) for k in layers}


def _preset_labeler(backbone: Backbone) -> str:
    preset = backbone.find_preset()
    return str(preset.training.get("labeler", DEFAULT_LABELER)) if preset else DEFAULT_LABELER


def _joint_score(chosen: Selection) -> JointScore:
    pointing = chosen.confirmed.pointing
    n = len(pointing)
    return JointScore(
        n=n,
        pointing=float(pointing.mean()),
        interval=wilson(float(pointing.sum()), n),
        auc=float(chosen.confirmed.auc.mean()),
    )
