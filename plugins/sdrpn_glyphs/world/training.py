"""The last stage of a backbone's training: the world, seen with and without crops.

The model starts from one that knows plain scenes. All of it learns the answers, and the visual
tokens learn at the same time what their cells show, through a probe that is discarded.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional as F

from sdrpn_core import load_backbone

from ..families import family as family_named
from ..families.base import Budget
from ..families.inheritance import inherit_everything
from ..losses import Measures, answer_logits, visual_tokens
from ..pretrain import OnCheckpoint, Trainer
from .batches import CellBatch, CellBatches, WorldBatch, WorldBatches
from .losses import group_losses
from .patch_labels import LABEL_COUNT, LABELS

PATCH_WEIGHT = 0.15
"""Weight of the cells' labels relative to the answers'."""


class WorldTrainer(Trainer):
    """Adds the stage to the trainer."""

    def cells_step(self, batch: CellBatch) -> tuple[torch.Tensor, Measures]:
        """Loss of the cells' labels."""
        scores = self.probe(torch.cat(visual_tokens(self.backbone, batch.images)))
        return group_losses(
            {group: scores[..., part] for group, part in LABELS.items()}, batch.labels, batch.known
        )

    def world_step(self, batch: WorldBatch) -> tuple[torch.Tensor, Measures]:
        """Loss of the answers and of the cells' labels."""
        tokens = visual_tokens(self.backbone, batch.questions.images)
        logits, labels = answer_logits(self.backbone, batch.questions, tokens)
        scores = self.probe(torch.cat(tokens))
        patch, measures = group_losses(
            {group: scores[..., part] for group, part in LABELS.items()}, batch.labels, batch.known
        )
        right = (logits.argmax(-1) == labels).float()
        n_images = len(batch.questions.images.grids) // len(batch.topics)
        place = 0
        for topic, sample in zip(batch.topics, batch.questions.samples, strict=True):
            place += len(sample.answer_ids)
            # The word that counts stands before the end token.
            measures.setdefault(f"{topic} {n_images}", []).append(right[place - 2].item())
        return F.cross_entropy(logits.float(), labels) + PATCH_WEIGHT * patch, measures


def train_world(
    out_dir: Path,
    start: Path | None = None,
    family: str = "llava",
    seed: int = 0,
    cell_steps: int = 1200,
    cell_lr: float = 4e-3,
    steps: int = 2500,
    size: int = 32,
    peak_lr: float = 2e-3,
    checkpoint_every: int = 100,
    on_checkpoint: OnCheckpoint | None = None,
    *,
    bfloat16: bool = False,
) -> None:
    """Train a backbone on the world, or resume."""
    from dataclasses import replace

    chosen = replace(family_named(family), teacher=None)
    out_dir.mkdir(parents=True, exist_ok=True)
    budget = Budget(checkpoint_every=checkpoint_every)
    trainer = WorldTrainer(
        chosen, out_dir, seed, budget, on_checkpoint, n_labels=LABEL_COUNT, bfloat16=bfloat16
    )
    if trainer.state is None and start is not None:
        inherit_everything(trainer.backbone, load_backbone(start, device="cpu"))
    model = trainer.model
    decoder = trainer.backbone.decoder
    vision = [child for child in model.base_model.children() if child is not decoder]
    cells = CellBatches(trainer.backbone, seed, "cells", cell_steps, 48)
    trainer.run("cells", cells, (*vision, trainer.probe), cell_lr, trainer.cells_step)
    modules = (model.base_model, model.get_output_embeddings(), trainer.probe)
    data = WorldBatches(trainer.backbone, seed, "world", steps, size)
    trainer.run("world", data, modules, peak_lr, trainer.world_step)
    model.save_pretrained(out_dir)
    trainer.backbone.processor.save_pretrained(out_dir)
