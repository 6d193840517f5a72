"""Accuracy of a backbone folder: without a crop, and with crops of growing error.

Goes through the stock processor and ``generate``: the crop is a second picture right after the
first. ``python -m sdrpn_glyphs.evaluate FOLDER --n 400``
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from .dataset import Item, is_correct, items
from .model import IMAGE, PROMPT
from .scenes import Box
from .views import CELL, FULL_BOX, INPUT_SIZE

BATCH = 50
SIZE_BINS = (0.045, 0.0585, 0.072, 0.086)
"""Object widths, relative to the picture, by which the small split is broken down."""

Cropper = Callable[[Item], Box | None]


def no_crop(item: Item) -> None:
    """The plain answer."""


def around(margin_cells: int, shift_cells: int = 0) -> Cropper:
    """Crop the cells of the asked object and ``margin_cells`` around, all shifted diagonally."""

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


def _pictures(item: Item, cropper: Cropper) -> list[Image.Image]:
    """The picture, and the crop at input size, as the model is to be shown them."""
    image, box = item.image, cropper(item)
    if box is None:
        return [image]
    size = (INPUT_SIZE, INPUT_SIZE)
    return [image, image.crop(box).resize(size, Image.Resampling.BILINEAR)]


def answer(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    batch: list[Item],
    cropper: Cropper = no_crop,
) -> list[str]:
    """Greedy answers of the stock model."""
    pictures = [_pictures(item, cropper) for item in batch]
    prompts = [
        PROMPT.format(images=IMAGE * len(shown), question=item.question)
        for item, shown in zip(batch, pictures, strict=True)
    ]
    inputs = processor(images=pictures, text=prompts, return_tensors="pt", padding=True)
    with torch.inference_mode():
        tokens = model.generate(**inputs)  # type: ignore[misc]
    new = tokens[:, inputs["input_ids"].shape[1] :]
    return processor.batch_decode(new, skip_special_tokens=True)


def evaluate(folder: Path, n: int, seed: int = 0) -> dict[str, float]:
    """Accuracy per condition, and per object width for the small split."""
    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    processor = LlavaProcessor.from_pretrained(folder)
    results: dict[str, float] = {}
    for name, (split, cropper) in CONDITIONS.items():
        tested = list(items(split, n, seed))
        right: list[bool] = []
        for start in range(0, n, BATCH):
            batch = tested[start : start + BATCH]
            answers = answer(model, processor, batch, cropper)
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
