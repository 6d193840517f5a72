"""The training recipe of the embedded backbones, on the CPU in float32.

It uses only the adapters, so the same recipe works for every family:

1. The vision encoder, on the labels of the cells, through a linear probe that is discarded. With a
   teacher, the encoder also learns the teacher's visual tokens, and inherits its decoder.
2. Alignment: vision encoder and word embeddings, on the same labels (only without a teacher).
3. Question answering: projector and language model; a fraction of the batches contains crops.
4. The same, together with the vision encoder, mostly on questions about visible dots.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
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

from . import backbone_dir
from .batches import Batches, PatchBatch, PatchBatches, QuestionBatch, QuestionBatches, loader
from .families import family as family_named
from .families.base import WIDTH, Budget, Family
from .initial_weights import word_rotation
from .losses import Measures, answer_logits, patch_loss, visual_tokens
from .mixed_precision import MixedPrecision
from .optimizer import learning_rate, make_optimizer
from .patch_labels import LABEL_COUNT, LABELS
from .scenes import COLORS, KINDS

CLIP_NORM = 1.0
LOG_EVERY = 25
ALIGN_SCALE = 16.0
"""Sharpness of the cosine between a visual token and a word in the alignment stage."""
TEACHER_WEIGHT = 10.0
"""Weight of the teacher's visual tokens: mean squared error, relative to their mean square."""
CHECKPOINT = "checkpoint.safetensors"
_OPTIMIZER = "optimizer."
FORMAT_VERSION = 2
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
        n_labels: int = LABEL_COUNT,
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
            family.inherit(self.backbone, self.teacher)
        self.probe = nn.Linear(WIDTH, n_labels)
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
    ) -> None:
        """Train ``modules`` on the batches, from the checkpoint on."""
        self.model.requires_grad_(False)
        modules = list(modules)
        for module in modules:
            module.requires_grad_(True)
        heads = (self.probe, self.model.get_output_embeddings())
        optimizer = make_optimizer(modules, heads, peak_lr)
        total, start = len(batches), 0
        if self.state and self.state.stage == stage:
            start = self.state.step
            restore_state(self.trained, optimizer, self.state.tensors, self.state.numbers)
            self.state = None
        elif self.state:
            return
        began = time.monotonic()
        averages: dict[str, list[float]] = {}
        for step, batch in enumerate(loader(batches, start), start=start):
            for group in optimizer.param_groups:
                group["lr"] = peak_lr * learning_rate(step, total)
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

    def vision_step(self, batch: PatchBatch) -> tuple[torch.Tensor, Measures]:
        """Loss of the cells' labels, predicted by the probe, and of the teacher's visual tokens."""
        tokens = torch.cat(visual_tokens(self.backbone, batch.images))
        scores = self.probe(tokens)
        loss, measures = patch_loss(
            {g: scores[..., part] for g, part in LABELS.items()}, batch.labels, batch.known
        )
        if self.teacher is None or batch.teacher_images is None:
            return loss, measures
        with torch.no_grad():
            wanted = torch.cat(visual_tokens(self.teacher, batch.teacher_images))
        given = tokens[batch.shared]
        loss = loss + TEACHER_WEIGHT * F.mse_loss(given, wanted) / wanted.square().mean()
        measures["teacher similarity"] = [F.cosine_similarity(given, wanted).mean().item()]
        return loss, measures

    def align_step(self, batch: PatchBatch) -> tuple[torch.Tensor, Measures]:
        """Loss that aligns visual tokens with the embeddings of the words for what they show."""
        visual = torch.cat(visual_tokens(self.backbone, batch.images))
        colors = self.backbone.tokenizer.convert_tokens_to_ids(list(COLORS))
        kinds = self.backbone.tokenizer.convert_tokens_to_ids(list(KINDS))
        input_embeddings = self.backbone.embedding.weight
        output_embeddings = self.backbone.model.get_output_embeddings().weight
        words = {
            "color": input_embeddings[colors] @ word_rotation(WIDTH).T,
            "dot here": output_embeddings[colors],
            "kind": output_embeddings[kinds],
        }
        visual = F.normalize(visual, dim=-1)
        scores = {g: ALIGN_SCALE * visual @ F.normalize(w, dim=-1).T for g, w in words.items()}
        scores["color"] = scores["color"] - ALIGN_SCALE / 3
        return patch_loss(scores, batch.labels, batch.known)

    def question_step(self, batch: QuestionBatch) -> tuple[torch.Tensor, Measures]:
        """Next-token loss of the answers."""
        tokens = visual_tokens(self.backbone, batch.images)
        logits, labels = answer_logits(self.backbone, batch, tokens)
        right = (logits.argmax(-1) == labels).float().mean().item()
        n_images = len(batch.images.grids) // len(batch.samples)
        return F.cross_entropy(logits, labels), {f"token accuracy ({n_images} images)": [right]}


def train_backbone(
    out_dir: Path,
    family: str = "llava",
    seed: int = 0,
    budget: Budget | None = None,
    on_checkpoint: OnCheckpoint | None = None,
) -> None:
    """Train a family's backbone and write its folder to ``out_dir``. Resumes an interrupted run.

    Args:
        out_dir: folder for the model, in Hugging Face format, and for the training checkpoint.
        family: see :data:`sdrpn_glyphs.families.NAMES`.
        seed: seed of the weights and the data.
        budget: overrides the family's own.
        on_checkpoint: called as ``on_checkpoint(stage, step)`` after each checkpoint.
    """
    chosen = family_named(family)
    budget = budget or chosen.budget
    out_dir.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(chosen, out_dir, seed, budget, on_checkpoint)
    backbone, model = trainer.backbone, trainer.model
    words = (model.get_input_embeddings(), model.get_output_embeddings())
    language = (chosen.projector(model), backbone.decoder, model.get_output_embeddings())
    # Everything besides the decoder and the head processes the image.
    vision = [child for child in model.base_model.children() if child is not backbone.decoder]
    if budget.vision_steps:
        patches = PatchBatches(
            backbone, seed, "vision", budget.vision_steps, budget.vision_batch, trainer.teacher
        )
        trainer.run(
            "vision", patches, (*vision, trainer.probe), budget.vision_lr, trainer.vision_step
        )
    if budget.align_steps:
        patches = PatchBatches(backbone, seed, "align", budget.align_steps, budget.align_batch)
        trainer.run("align", patches, (*vision, *words), budget.align_lr, trainer.align_step)
    for stage, steps, warm_up, modules, peak in (
        (
            "questions",
            budget.question_steps,
            budget.question_warm_up,
            language,
            budget.question_lr,
        ),
        ("joint", budget.joint_steps, 0, (model.base_model, language[-1]), budget.joint_lr),
    ):
        if steps:
            questions = QuestionBatches(
                backbone, seed, stage, steps, budget.question_batch, warm_up
            )
            trainer.run(stage, questions, modules, peak, trainer.question_step)
    model.save_pretrained(out_dir)
    backbone.processor.save_pretrained(out_dir)
