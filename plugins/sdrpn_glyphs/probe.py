"""Which heads look at the asked object: every head's response-to-image attention, measured.

For each head the attention rows of the response tokens that are fed back (the end token is not)
are averaged, over the visual tokens of the picture, and compared with the object's true box.
``python -m sdrpn_glyphs.probe FOLDER --n 200``
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from .dataset import Item, items
from .evaluate import answer
from .model import IMAGE, PROMPT
from .scenes import Box
from .views import CELL, GRID

BATCH = 50


@dataclass(frozen=True)
class HeadReport:
    """How one head's attention relates to the asked object.

    ``pointing`` and ``auc`` measure grounding. ``mass`` is the share of attention that lies on
    the picture at all; ``sink`` is the highest mean share of a single cell over all samples: a
    head that looks at the same place whatever is asked.
    """

    layer: int
    head: int
    pointing: float
    auc: float
    mass: float
    sink: float


def box_cells(box: Box) -> np.ndarray:
    """Which grid cells a box overlaps, bool (GRID, GRID)."""
    x0, y0, x1, y1 = box
    cells = np.zeros((GRID, GRID), bool)
    cells[y0 // CELL : -(-y1 // CELL), x0 // CELL : -(-x1 // CELL)] = True
    return cells


def response_attention(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    batch: list[Item],
    responses: list[str],
) -> np.ndarray:
    """Mean response-to-image attention (n, layers, heads, GRID * GRID). Needs an eager model."""
    prompts = [
        f"{PROMPT.format(images=IMAGE, question=item.question)} {response}"
        for item, response in zip(batch, responses, strict=True)
    ]
    inputs = processor(
        images=[[item.image] for item in batch], text=prompts, return_tensors="pt", padding=True
    )
    with torch.inference_mode():
        attentions = model(**inputs, output_attentions=True).attentions
    stacked = torch.stack(attentions, dim=1)  # (n, layers, heads, query, key)
    maps = []
    for i, response in enumerate(responses):
        rows = max(1, len(processor.tokenizer(response, add_special_tokens=False)["input_ids"]))
        visual = inputs["input_ids"][i] == model.config.image_token_id
        maps.append(stacked[i, :, :, -rows:][..., visual].mean(dim=2).numpy())
    return np.stack(maps)


def auc(scores: np.ndarray, inside: np.ndarray) -> float:
    """Probability that a cell of the object scores higher than one outside."""
    ranks = scores.argsort().argsort() + 1
    positives = int(inside.sum())
    negatives = inside.size - positives
    return float((ranks[inside].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def head_reports(maps: np.ndarray, tested: list[Item]) -> list[HeadReport]:
    """One report per head from maps (n, layers, heads, GRID * GRID), best pointing first."""
    inside = np.stack([box_cells(item.boxes[0]).ravel() for item in tested])
    reports = []
    for layer, head in np.ndindex(maps.shape[1:3]):
        own = maps[:, layer, head]
        hits = inside[np.arange(len(own)), own.argmax(axis=1)]
        reports.append(
            HeadReport(
                layer=layer,
                head=head,
                pointing=float(hits.mean()),
                auc=float(np.mean([auc(m, cells) for m, cells in zip(own, inside, strict=True)])),
                mass=float(own.sum(axis=1).mean()),
                sink=float(own.mean(axis=0).max()),
            )
        )
    return sorted(reports, key=lambda r: -r.pointing)


def joint_pointing(maps: np.ndarray, tested: list[Item], heads: list[tuple[int, int]]) -> float:
    """Pointing accuracy of the mean over several (layer, head) maps."""
    inside = np.stack([box_cells(item.boxes[0]).ravel() for item in tested])
    mean = np.mean([maps[:, layer, head] for layer, head in heads], axis=0)
    return float(inside[np.arange(len(mean)), mean.argmax(axis=1)].mean())


def probe(folder: Path, n: int, seed: int = 1) -> tuple[np.ndarray, list[Item]]:
    """Maps (n, layers, heads, GRID * GRID) of the model's own answers on ``glyphs/train``."""
    model = LlavaForConditionalGeneration.from_pretrained(folder, attn_implementation="eager")
    processor = LlavaProcessor.from_pretrained(folder)
    tested = list(items("glyphs/train", n, seed))
    maps = []
    for start in range(0, n, BATCH):
        batch = tested[start : start + BATCH]
        responses = answer(model, processor, batch)
        maps.append(response_attention(model, processor, batch, responses))
    return np.concatenate(maps), tested


def main() -> None:
    """Print a table of all heads, best pointing first."""
    parser = argparse.ArgumentParser(description="find the grounding heads of a backbone folder")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    maps, tested = probe(arguments.folder, arguments.n, arguments.seed)
    reports = head_reports(maps, tested)
    print("layer head  pointing    auc   mass   sink")
    for r in reports:
        print(
            f"{r.layer:5d} {r.head:4d} {r.pointing:9.3f} {r.auc:6.3f} {r.mass:6.3f} {r.sink:6.3f}"
        )
    for count in (2, 3, 4):
        best = [(r.layer, r.head) for r in reports[:count]]
        print(f"mean of {best}: pointing {joint_pointing(maps, tested, best):.3f}")


if __name__ == "__main__":
    main()
