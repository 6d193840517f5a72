"""Run one batch through all methods: answers, outcomes, costs, and where the model looked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sdrpn_bench.cost import Cost, CostMeter
from sdrpn_bench.scoring import score
from sdrpn_bench.sweep import Answered, answer_alike, sweep_of
from sdrpn_core.answering.results import Answer
from sdrpn_core.data.boxes import boxes_inside
from sdrpn_core.data.image_digest import image_digest
from sdrpn_core.data.images import open_image
from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.data.record import Record, validate_record
from sdrpn_core.data.text import encodable
from sdrpn_core.errors import InputError, SdrpnError
from sdrpn_core.runtime.clock import synchronized_stages
from sdrpn_core.util.isolate_failures import ITEM_ERRORS, isolate_failures

if TYPE_CHECKING:
    from PIL import Image

    from sdrpn_bench.method import Method, MethodContext
    from sdrpn_bench.metrics.metric import Metric
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.grid.geometry import Box

#: Outcome of a method that failed on an item: it counts as wrong.
ERROR_OUTCOME = "error"
#: Outcome of a plain answer, for which nothing was proposed.
PLAIN_OUTCOME = "plain"

#: In place of the answer of a method that is followed, but not served.
_UNANSWERED = InputError("there is no answer")


@dataclass(frozen=True)
class OpenedItem:
    """A record whose images could be read."""

    index: int
    record: Record
    images: tuple[Image.Image, ...]


def open_items(
    backbone: Backbone,
    items: Sequence[tuple[int, Record]],
    metric: Metric,
    max_pixels: int = MAX_PIXELS,
) -> tuple[list[OpenedItem], list[dict[str, Any]]]:
    """Open the images of a batch.

    Args:
        backbone: the model under test.
        items: records with their indices.
        metric: scores the answers.
        max_pixels: items whose image has more pixels are left out.

    Returns:
        The items that can be asked and scored, and for each of the others a row with the reason.
    """
    opened, failed = [], []
    for index, record in items:
        try:
            validate_record(record)
            metric.check(record)
            # A question that no method could ask fails here.
            backbone.tokenize(record.question, len(record.images))
            images = tuple(open_image(image, max_pixels=max_pixels) for image in record.images)
            opened.append(OpenedItem(index, _with_boxes_inside(record, images), images))
        except ITEM_ERRORS as error:
            failed.append({"index": index, "id": encodable(record.id), "error": str(error)})
    return opened, failed


def measure(
    context: MethodContext,
    methods: Mapping[str, Method],
    batch: Sequence[OpenedItem],
    metric: Metric,
    *,
    first: int = 0,
) -> list[dict[str, Any]]:
    """Answer a batch with every method, one after another.

    Args:
        context: the model and the run's settings.
        methods: the methods, by name.
        batch: items with opened images.
        metric: scores the answers.
        first: which method starts; rotating it from batch to batch spreads warm-up and noise evenly
            over the methods.

    Returns:
        One row per item; ``methods`` maps each method's name to its result. Methods that need boxes
        have results for the items with boxes only.
    """
    rows: list[dict[str, Any]] = [
        {
            "index": item.index,
            "id": item.record.id,
            "question": item.record.question,
            "answers": list(item.record.answers),
            "images": [image_digest(image) for image in item.images],
            "category": item.record.category,
            "regions": None if item.record.boxes is None else len(item.record.boxes),
            "object_size": object_size(item.record.boxes or (), item.images[0].size),
            "methods": {},
        }
        for item in batch
    ]
    found: dict[str, dict[int, Answer | SdrpnError]] = {}
    for group in _turns(methods, first):
        alike = [methods[name] for name in group]
        served = [
            i
            for i, one in enumerate(batch)
            if one.record.boxes is not None or not alike[0].needs_boxes
        ]
        if not served:
            continue
        items = [batch[i] for i in served]
        earlier = found.get(alike[0].follows or "", {})
        for name, results in zip(group, _answers(context, alike, items, earlier), strict=True):
            found[name] = {item.index: one for item, (one, _) in zip(items, results, strict=True)}
            for i, (answer, cost) in zip(served, results, strict=True):
                rows[i]["methods"][name] = _result(batch[i], answer, cost, metric)
    for row in rows:
        row["methods"] = {name: row["methods"][name] for name in methods if name in row["methods"]}
    return rows


def _with_boxes_inside(record: Record, images: Sequence[Image.Image]) -> Record:
    """The record, its boxes cut to the image.

    Raises:
        InputError: a box lies outside the image, or there are several images that it may be in.
    """
    if not record.boxes:
        return record
    if len(images) > 1:
        raise InputError(f"record {record.id!r} has boxes and {len(images)} images: in which?")
    return replace(record, boxes=boxes_inside(record.boxes, images[0].size))


def object_size(boxes: Sequence[Box], size: tuple[int, int]) -> float | None:
    """Square root of the smallest box's area, relative to that of the image's area."""
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes]
    return (min(areas) / (size[0] * size[1])) ** 0.5 if areas else None


def _turns(methods: Mapping[str, Method], first: int) -> list[list[str]]:
    """The methods in the order of a batch: sweeps together, what follows others last.

    Args:
        methods: by name.
        first: which one starts.
    """
    groups: dict[str, list[str]] = {}
    for name in methods:
        groups.setdefault(sweep_of(name), []).append(name)
    turns = list(groups.values())
    start = first % len(turns)
    turns = turns[start:] + turns[:start]
    return sorted(turns, key=lambda group: methods[group[0]].follows is not None)


def _answers(
    context: MethodContext,
    alike: Sequence[Method],
    batch: Sequence[OpenedItem],
    earlier: Mapping[int, Answer | SdrpnError],
) -> list[list[tuple[Answer | SdrpnError, Cost]]]:
    """Per method, and per item, its answer, or why there is none, and its share of the cost."""
    spent = Cost()

    def answer(part: Sequence[OpenedItem]) -> list[Answered]:
        nonlocal spent
        own = replace(context, earlier=[earlier.get(item.index, _UNANSWERED) for item in part])
        # Of a batch that fails as a whole, each item pays for its own attempt alone.
        meter = CostMeter(context, part)
        try:
            with synchronized_stages(), meter:
                return answer_alike(
                    own, alike, [item.record for item in part], [item.images for item in part]
                )
        finally:
            spent = meter.share

    results: list[list[tuple[Answer | SdrpnError, Cost]]] = [[] for _ in alike]
    for part, outcome in isolate_failures(batch, answer, ITEM_ERRORS):
        if isinstance(outcome, SdrpnError):
            for own in results:
                own += [(outcome, spent) for _ in part]
            continue
        for own, (answers, cost) in zip(results, outcome, strict=True):
            own += [(one, cost) for one in answers]
    return results


def _result(
    item: OpenedItem, answer: Answer | SdrpnError, cost: Cost, metric: Metric
) -> dict[str, Any]:
    if isinstance(answer, SdrpnError):
        return {
            "score": 0.0,
            "counts": metric.counts("", item.record),
            "outcome": ERROR_OUTCOME,
            "seconds": cost.seconds,
            "cost": cost.to_dict(),
            "error": str(answer),
        }
    result = {
        "text": answer.text,
        "score": score(metric, answer.text, item.record),
        "counts": metric.counts(answer.text, item.record),
        "outcome": PLAIN_OUTCOME if answer.outcome is None else answer.outcome.value,
        "visual_tokens": answer.n_visual_tokens,
        "seconds": cost.seconds,
        "cost": cost.to_dict(),
        "stages": dict(answer.seconds),
    }
    if not answer.proposals:
        return result
    result["boxes"] = [list(box) for box in answer.boxes]
    if answer.confidence is not None:
        result["confidence"] = answer.confidence
    if (gate := answer.proposals[0].gate) is not None:
        result["gate"] = gate
    truth = item.record.boxes
    if truth:
        result["crop_hit"] = any(_holds_center(crop, box) for crop in answer.boxes for box in truth)
        proposal = answer.proposals[0]
        if proposal.roi is not None and proposal.geometry is not None:
            peak = np.unravel_index(int(proposal.roi.scores.argmax()), proposal.roi.grid)
            result["map_hit"] = any(bool(proposal.geometry.cells_of(box)[peak]) for box in truth)
    return result


def _holds_center(crop: Box, box: Box) -> bool:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return crop[0] <= x < crop[2] and crop[1] <= y < crop[3]
