"""The training recipe of the embedded backbones, on the CPU.

It uses only the adapters, so the same recipe works for every family:

1. The vision encoder, on the labels of the cells, through a linear probe that is discarded.
2. With a teacher, the model inherits what fits, and the encoder also learns the teacher's visual
   tokens.
3. The whole model answers questions about images, in most batches with crops; the visual tokens go
   on learning what their cells show.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as to_safetensors
from torch import nn
from torch.nn import functional as F

from sdrpn_core import load_backbone
from sdrpn_core.errors import CheckpointError
from sdrpn_core.training.optimizer_state import restore_state, split_state
from sdrpn_core.util.atomic_files import atomic_write
from sdrpn_glyphs import backbone_dir
from sdrpn_glyphs.batches import Batches, loader
from sdrpn_glyphs.cell_batches import CellBatch, CellBatches
from sdrpn_glyphs.families import family as family_named
from sdrpn_glyphs.families.base import WIDTH, Budget, Family
from sdrpn_glyphs.losses import Measures, answer_logits, cell_loss, visual_tokens
from sdrpn_glyphs.mixed_precision import MixedPrecision
from sdrpn_glyphs.optimizer import learning_rate, make_optimizer
from sdrpn_glyphs.patch_labels import LABEL_COUNT
from sdrpn_glyphs.question_batches import QuestionBatch, QuestionBatches

CLIP_NORM = 1.0
LOG_EVERY = 25
CELLS_WEIGHT = 0.15
"""Weight of the cells' labels relative to the answers'."""
TEACHER_WEIGHT = 10.0
"""Weight of the teacher's visual tokens: mean squared error, relative to their mean square."""
CHECKPOINT = "checkpoint.safetensors"
_OPTIMIZER = "optimizer."
FORMAT_VERSION = 3
"""Of the checkpoint."""


StepLoss = Callable[[Any], tuple[torch.Tensor, Measures]]
OnCheckpoint = Callable[[str, int], None]


@dataclass(frozen=True)
class _State:
    """Where a run stopped, and the state of its optimizer."""

    stage: str
    step: int
    tensors: dict[str, torch.Tensor]
    numbers: dict[str, Any]


class Trainer:
    """Runs the stages one after another, and resumes from the last checkpoint."""

    def __init__(
        self,
        family: Family,
        out_dir: Path,
        seed: int,
        budget: Budget,
        on_checkpoint: OnCheckpoint | None,
        *,
        bfloat16: bool = False,
    ) -> None:
        self.out_dir, self.seed, self.budget = out_dir, seed, budget
        self.on_checkpoint = on_checkpoint
        torch.manual_seed(seed)
        self.backbone = family.build()
        self.model = self.backbone.model
        self.precision = MixedPrecision(self.backbone, enabled=bfloat16)
        self.teacher = None
        if family.teacher is not None and family.inherit is not None:
            self.teacher = load_backbone(backbone_dir(family.teacher), device="cpu")
        self.probe = nn.Linear(WIDTH, LABEL_COUNT)
        self.trained = nn.ModuleDict({"model": self.model, "probe": self.probe})
        self.state: _State | None = None
        path = out_dir / CHECKPOINT
        if path.exists():
            self.state = self._load(path)
            print(f"resuming {self.state.stage} at step {self.state.step}", flush=True)

    def _load(self, path: Path) -> _State:
        with safe_open(path, "pt") as file:
            values = json.loads(file.metadata()["state"])
            if values.get("format_version") != FORMAT_VERSION:
                raise CheckpointError(
                    f"{path} was written by another version of sdrpn: delete it to start over"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        weights = {k: v for k, v in tensors.items() if not k.startswith(_OPTIMIZER)}
        self.trained.load_state_dict(weights)
        optimizer = {
            k.removeprefix(_OPTIMIZER): v for k, v in tensors.items() if k.startswith(_OPTIMIZER)
        }
        return _State(values["stage"], values["step"], optimizer, values["optimizer"])

    def _save(self, stage: str, step: int, optimizer: torch.optim.Optimizer) -> None:
        tensors, numbers = split_state(self.trained, optimizer)
        values = {
            "format_version": FORMAT_VERSION,
            "stage": stage,
            "step": step,
            "optimizer": numbers,
        }
        everything = {
            **{name: tensor.contiguous() for name, tensor in self.trained.state_dict().items()},
            **{_OPTIMIZER + name: tensor for name, tensor in tensors.items()},
        }
        with atomic_write(self.out_dir / CHECKPOINT) as file:
            file.write(to_safetensors(everything, metadata={"state": json.dumps(values)}))
        if self.on_checkpoint:
            self.on_checkpoint(stage, step)

    def run(
        self,
        stage: str,
        batches: Batches,
        modules: Iterable[nn.Module],
        peak_lr: float,
        step_loss: StepLoss,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        """Train ``modules`` on the batches, from the checkpoint on; ``prepare`` comes before."""
        self.model.requires_grad_(False)
        modules = list(modules)
        for module in modules:
            module.requires_grad_(True)
        heads = (self.probe, self.model.get_output_embeddings())
        optimizer = make_optimizer(modules, heads, peak_lr)
        peaks = [group["lr"] for group in optimizer.param_groups]
        total, start = len(batches), 0
        if self.state and self.state.stage == stage:
            start = self.state.step
            restore_state(self.trained, optimizer, self.state.tensors, self.state.numbers)
            self.state = None
        elif self.state:
            return
        elif prepare is not None:
            prepare()
        began = time.monotonic()
        averages: dict[str, list[float]] = {}
        for step, batch in enumerate(loader(batches, start, self.budget.workers), start=start):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * learning_rate(step, total)
            with self.precision.forward():
                loss, measures = step_loss(batch)
            self.trained.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.trained.parameters(), CLIP_NORM)
            optimizer.step()
            for name, values in {"loss": [loss.item()], **measures}.items():
                averages.setdefault(name, []).extend(v for v in values if not math.isnan(v))
            done = step + 1
            if done % LOG_EVERY == 0 or done == total:
                means = "  ".join(
                    f"{k} {sum(v) / len(v):.3f}" for k, v in sorted(averages.items()) if v
                )
                pace = (time.monotonic() - began) / (done - start)
                print(f"{stage} {done}/{total}  {means}  {pace:.2f} s/step", flush=True)
                averages = {}
            if done % self.budget.checkpoint_every == 0 or done == total:
                self._save(stage, done, optimizer)

    def cells_step(self, batch: CellBatch) -> tuple[torch.Tensor, Measures]:
        """Loss of the cells' labels, predicted by the probe, and of the teacher's visual tokens."""
        tokens = torch.cat(visual_tokens(self.backbone, batch.images))
        loss, measures = cell_loss(self.probe(tokens), batch.labels, batch.known)
        if self.teacher is None or batch.teacher_images is None:
            return loss, measures
        with torch.no_grad():
            wanted = torch.cat(visual_tokens(self.teacher, batch.teacher_images)).float()
        given = tokens[batch.shared].float()
        loss = loss + TEACHER_WEIGHT * F.mse_loss(given, wanted) / wanted.square().mean()
        measures["teacher similarity"] = [F.cosine_similarity(given, wanted).mean().item()]
        return loss, measures

    def questions_step(self, batch: QuestionBatch) -> tuple[torch.Tensor, Measures]:
        """Next-token loss of the answers, and loss of the cells' labels."""
        tokens = visual_tokens(self.backbone, batch.images)
        logits, labels = answer_logits(self.backbone, batch, tokens)
        cells, measures = cell_loss(self.probe(torch.cat(tokens)), batch.labels, batch.known)
        right = (logits.argmax(-1) == labels).float()
        n_images = len(batch.images.grids) // len(batch.samples)
        place = 0
        for topic, sample in zip(batch.topics, batch.samples, strict=True):
            place += len(sample.answer_ids)
            # The word that counts stands before the end token.
            measures.setdefault(f"{topic} {n_images}", []).append(right[place - 2].item())
        return F.cross_entropy(logits.float(), labels) + CELLS_WEIGHT * cells, measures


def train_backbone(
    out_dir: Path,
    family: str = "llava",
    seed: int = 0,
    budget: Budget | None = None,
    on_checkpoint: OnCheckpoint | None = None,
    *,
    bfloat16: bool = False,
) -> None:
    """Train a family's backbone and write its folder to ``out_dir``. Resumes an interrupted run.

    Args:
        out_dir: folder for the model, in Hugging Face format, and for the training checkpoint.
        family: see :data:`sdrpn_glyphs.families.NAMES`.
        seed: seed of the weights and the data.
        budget: overrides the family's own.
        on_checkpoint: called as ``on_checkpoint(stage, step)`` after each checkpoint.
        bfloat16: multiply matrices in bfloat16; see :mod:`sdrpn_glyphs.mixed_precision`.
    """
    chosen = family_named(family)
    budget = budget or chosen.budget
    out_dir.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(chosen, out_dir, seed, budget, on_checkpoint, bfloat16=bfloat16)
    backbone, model = trainer.backbone, trainer.model
    # Everything besides the decoder and the head processes the image.
    vision = [child for child in model.base_model.children() if child is not backbone.decoder]
    encoder = (*vision, trainer.probe)
    cells = CellBatches(backbone, seed, "cells", budget.cell_steps, budget.cell_batch)
    trainer.run("cells", cells, encoder, budget.cell_lr, trainer.cells_step)
    teacher = trainer.teacher
    if teacher is not None and chosen.inherit is not None:
        aligned = CellBatches(
            backbone, seed, "align", budget.align_steps, budget.cell_batch, teacher
        )
        trainer.run(
            "align",
            aligned,
            encoder,
            budget.align_lr,
            trainer.cells_step,
            partial(chosen.inherit, backbone, teacher),
        )
    questions = QuestionBatches(
        backbone, seed, "questions", budget.question_steps, budget.question_batch
    )
    everything = (model.base_model, model.get_output_embeddings(), trainer.probe)
    trainer.run("questions", questions, everything, budget.question_lr, trainer.questions_step)
    trainer.precision.restore()
    model.save_pretrained(out_dir)
    backbone.processor.save_pretrained(out_dir)
