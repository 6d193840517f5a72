"""Pictures of a benchmark's questions: helped by the region, in no need of one, and wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sdrpn_bench import BenchModel
from sdrpn_bench.item_store import Row
from sdrpn_core import Question, Record, RPNProposer, answer_batch, open_image
from sdrpn_core.crops.policy import Outcome
from sdrpn_core.errors import ConfigError
from sdrpn_core.grid.overlay import Caption, draw_before_after
from sdrpn_core.util.atomic_files import atomic_write
from sdrpn_glyphs.families.base import MAX_NEW_TOKENS
from sdrpn_glyphs.records import is_correct

#: Of each kind, so many pictures are drawn.
N_PER_KIND = 2

Results = Mapping[str, Any]


def _helped(plain: Results, found: Results) -> bool:
    return plain["score"] < 1 and found["score"] == 1


def _not_needed(plain: Results, found: Results) -> bool:
    return found["outcome"] == Outcome.NOT_NEEDED and found["score"] == 1


def _wrong(plain: Results, found: Results) -> bool:
    return bool(found["score"] < 1)


KINDS: MappingProxyType[str, Callable[[Results, Results], bool]] = MappingProxyType(
    {"helped": _helped, "not_needed": _not_needed, "wrong": _wrong}
)


def draw_pictures(
    model: BenchModel, records: Sequence[Record], rows: Sequence[Row], folder: Path
) -> list[Path]:
    """Draw the first questions of each kind, as far as there are any.

    Args:
        model: with its backbone and RPN loaded.
        records: of the benchmark.
        rows: its item results, of all models.
        folder: gets the pictures, ``KIND-NUMBER.png``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = [row for row in rows if row["model"] == model.label and "methods" in row]
    paths = []
    for kind, belongs in KINDS.items():
        chosen = [
            row for row in own if belongs(row["methods"]["baseline"], row["methods"]["sdrpn"])
        ]
        for number, row in enumerate(chosen[:N_PER_KIND]):
            path = folder / f"{kind}-{number}.png"
            _draw(model, records[row["index"]], path)
            paths.append(path)
    return paths


def _draw(model: BenchModel, record: Record, path: Path) -> None:
    """Draw the plain answer, and the answer with its region."""
    backbone, rpn = model.load()
    if rpn is None:
        raise ConfigError(f"pictures of regions need an RPN, and {model.label} has none")
    image = open_image(record.images[0])
    question = Question(record.question, (image,))
    (plain,) = answer_batch(backbone, [question], max_new_tokens=MAX_NEW_TOKENS)
    (found,) = answer_batch(backbone, [question], RPNProposer(rpn), max_new_tokens=MAX_NEW_TOKENS)
    (proposal,) = found.proposals
    drawn = draw_before_after(
        image,
        record.question,
        Caption(f"before: {plain.text}", is_correct(plain.text, record)),
        Caption(f"after: {found.text}", is_correct(found.text, record)),
        roi=proposal.roi,
        geometry=backbone.preprocess(image).geometry,
        boxes=found.boxes,
        note=f"expected: {record.answer}; region: {found.outcome}",
    )
    with atomic_write(path) as file:
        drawn.save(file, format="PNG")
