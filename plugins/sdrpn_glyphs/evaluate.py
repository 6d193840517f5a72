"""Accuracy of a backbone folder: without a crop, and with increasingly inaccurate crops.

``python -m sdrpn_glyphs.evaluate FOLDER --n 400``
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from sdrpn_bench.known_boxes import BoxChoice, KnownBoxes
from sdrpn_core import Backbone, Question, answer_batch, load_backbone

from .dataset import Item, is_correct, items
from .families.base import MAX_NEW_TOKENS
from .scenes import FULL_BOX, Box
from .training_crops import CELL

BATCH = 50
SIZE_BINS = (0.045, 0.0585, 0.072, 0.086)
"""Bins of the object width, relative to the image, for the small split."""

Cropper = Callable[[Item], Box | None]


def no_crop(item: Item) -> None:
    """The plain answer."""


def around(margin_cells: int, shift_cells: int = 0) -> Cropper:
    """Crop the object's cells and ``margin_cells`` around them, shifted diagonally."""

    def crop(item: Item) -> Box:
        x0, y0, x1, y1 = item.boxes[0]
        direction = 1 if item.scene.shapes[0].x % 2 else -1
        shift = direction * shift_cells
        return (
            max(FULL_BOX[0], CELL * (x0 // CELL - margin_cells + shift)),
            max(FULL_BOX[1], CELL * (y0 // CELL - margin_cells + shift)),
            min(FULL_BOX[2], CELL * (-(-x1 // CELL) + margin_cells + shift)),
            min(FULL_BOX[3], CELL * (-(-y1 // CELL) + margin_cells + shift)),
        )

    return crop


def box_with_margin(item: Item) -> Box:
    """The ground-truth box, widened by half of its size on each side."""
    x0, y0, x1, y1 = item.boxes[0]
    margin = (x1 - x0) // 2
    return (
        max(FULL_BOX[0], x0 - margin),
        max(FULL_BOX[1], y0 - margin),
        min(FULL_BOX[2], x1 + margin),
        min(FULL_BOX[3], y1 + margin),
    )


CONDITIONS: dict[str, tuple[str, Cropper]] = {
    "visible, no crop": ("glyphs/visible", no_crop),
    "small, no crop": ("glyphs/small", no_crop),
    "small, ground-truth crop": ("glyphs/small", box_with_margin),
    "small, cells of the object": ("glyphs/small", around(0)),
    "small, one cell around": ("glyphs/small", around(1)),
    "small, two cells around": ("glyphs/small", around(2)),
    "small, one cell around, off by one": ("glyphs/small", around(1, shift_cells=1)),
}


def answer(backbone: Backbone, batch: list[Item], cropper: Cropper = no_crop) -> list[str]:
    """Answer greedily, with the crops that ``cropper`` chooses."""
    questions = [Question(item.question, (item.image,)) for item in batch]
    boxes = [box for box in map(cropper, batch) if box is not None]
    proposer = KnownBoxes([BoxChoice((box,), margin=0.0) for box in boxes]) if boxes else None
    answers = answer_batch(backbone, questions, proposer, max_new_tokens=MAX_NEW_TOKENS)
    return [found.text for found in answers]


def evaluate(folder: Path, n: int, seed: int = 0) -> dict[str, float]:
    """Measure the accuracy per condition, and per object width for the small split."""
    backbone = load_backbone(folder, device="cpu")
    results: dict[str, float] = {}
    for name, (split, cropper) in CONDITIONS.items():
        tested = list(items(split, n, seed))
        right: list[bool] = []
        for start in range(0, n, BATCH):
            batch = tested[start : start + BATCH]
            answers = answer(backbone, batch, cropper)
            right += [is_correct(a, item) for a, item in zip(answers, batch, strict=True)]
        results[name] = sum(right) / n
        if split == "glyphs/small" and cropper in (no_crop, box_with_margin):
            results |= _by_width(name, tested, right)
    return results


def _by_width(name: str, tested: list[Item], right: list[bool]) -> dict[str, float]:
    """Accuracy for each bin of object width."""
    results = {}
    for low, high in pairwise(SIZE_BINS):
        inside = [
            r
            for r, item in zip(right, tested, strict=True)
            if low <= (item.boxes[0][2] - item.boxes[0][0]) / item.scene.size < high
        ]
        if inside:
            results[f"{name}, width {low:.1%} to {high:.1%}"] = sum(inside) / len(inside)
    return results


def main() -> None:
    """Print the accuracies of a folder as JSON."""
    parser = argparse.ArgumentParser(description="accuracy of a backbone folder")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--n", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(json.dumps(evaluate(arguments.folder, arguments.n, arguments.seed), indent=2))


if __name__ == "__main__":
    main()
