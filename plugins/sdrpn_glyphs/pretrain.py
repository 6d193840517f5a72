"""The training recipe of the embedded backbone, in four stages, on the CPU in float32.

1. The vision tower alone, on per-patch labels through a linear probe that is thrown away.
2. Alignment: the projector and the word embeddings, on the same labels.
3. Question answering: projector and language model; a share of the batches shows crops.
4. The same with the vision tower, mostly on what counts: dots that can be seen.
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
from transformers import PreTrainedTokenizerFast

from sdrpn_core.atomic_files import atomic_write
from sdrpn_core.training.optimizer_state import restore_state, split_state

from .batches import Batches, PatchBatches, QuestionBatches, loader
from .losses import Measures, answer_logits, patch_loss, vision_features
from .model import (
    VISION_WIDTH,
    WIDTH,
    build_model,
    build_tokenizer,
    save_folder,
    word_rotation,
)
from .scenes import COLORS, KINDS
from .views import LABEL_COUNT, LABELS

BETAS = (0.9, 0.98)
WEIGHT_DECAY = 0.01
CLIP_NORM = 1.0
WARM_UP_STEPS = 50
FINAL_LR = 0.02
"""Learning rate at the end of the cosine, relative to its peak."""
LOG_EVERY = 25
ALIGN_SCALE = 16.0
"""Sharpness of the cosine between a visual token and a word in the alignment stage."""
CHECKPOINT = "checkpoint.safetensors"
_OPTIMIZER = "optimizer."


@dataclass(frozen=True)
class Budget:
    """Steps, batch sizes and peak learning rates of the stages."""

    vision_steps: int = 1200
    vision_batch: int = 48
    vision_lr: float = 1.5e-3
    align_steps: int = 200
    align_batch: int = 48
    align_lr: float = 2e-3
    question_steps: int = 1000
    question_warm_up: int = 250
    question_batch: int = 32
    question_lr: float = 1.2e-3
    joint_steps: int = 560
    joint_lr: float = 7e-4
    checkpoint_every: int = 100


StepLoss = Callable[[Any], tuple[torch.Tensor, Measures]]
OnCheckpoint = Callable[[str, int], None]


@dataclass(frozen=True)
class _State:
    """Where a run stopped, and its optimizer then."""

    stage: str
    step: int
    tensors: dict[str, torch.Tensor]
    numbers: dict[str, Any]


class Trainer:
    """Runs the stages one after another and remembers where it was."""

    def __init__(
        self, out_dir: Path, seed: int, budget: Budget, on_checkpoint: OnCheckpoint | None
    ) -> None:
        self.out_dir, self.seed, self.budget = out_dir, seed, budget
        self.on_checkpoint = on_checkpoint
        torch.manual_seed(seed)
        self.tokenizer: PreTrainedTokenizerFast = build_tokenizer()
        self.model = build_model(self.tokenizer)
        self.probe = nn.Linear(VISION_WIDTH, LABEL_COUNT)
        self.trained = nn.ModuleDict({"model": self.model, "probe": self.probe})
        self.state: _State | None = None
        path = out_dir / CHECKPOINT
        if path.exists():
            self.state = self._load(path)
            print(f"resuming {self.state.stage} at step {self.state.step}", flush=True)

    def _load(self, path: Path) -> _State:
        with safe_open(path, "pt") as file:
            values = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        weights = {k: v for k, v in tensors.items() if not k.startswith(_OPTIMIZER)}
        self.trained.load_state_dict(weights)
        optimizer = {
            k.removeprefix(_OPTIMIZER): v for k, v in tensors.items() if k.startswith(_OPTIMIZER)
        }
        return _State(values["stage"], values["step"], optimizer, values["optimizer"])

    def _save(self, stage: str, step: int, optimizer: torch.optim.Optimizer) -> None:
        tensors, numbers = split_state(self.trained, optimizer)
        values = {"stage": stage, "step": step, "optimizer": numbers}
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
        """Train ``modules`` on every batch from where the checkpoint stands."""
        self.model.requires_grad_(False)
        parameters: list[nn.Parameter] = []
        for module in modules:
            parameters += module.requires_grad_(True).parameters()
        optimizer = torch.optim.AdamW(
            parameters, lr=peak_lr, betas=BETAS, weight_decay=WEIGHT_DECAY
        )
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
            loss, measures = step_loss(batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
            optimizer.step()
            for name, value in {"loss": loss.item(), **measures}.items():
                if not math.isnan(value):
                    averages.setdefault(name, []).append(value)
            done = step + 1
            if done % LOG_EVERY == 0 or done == total:
                means = "  ".join(f"{k} {sum(v) / len(v):.3f}" for k, v in averages.items())
                pace = (time.monotonic() - began) / (done - start)
                print(f"{stage} {done}/{total}  {means}  {pace:.2f} s/step", flush=True)
                averages = {}
            if done % self.budget.checkpoint_every == 0 or done == total:
                self._save(stage, done, optimizer)

    def vision_step(self, batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, Measures]:
        """Per-patch labels, read off the vision tower by the probe."""
        pixels, labels, counts = batch
        scores = self.probe(vision_features(self.model, pixels))
        return patch_loss({g: scores[..., part] for g, part in LABELS.items()}, labels, counts)

    def align_step(self, batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, Measures]:
        """Visual tokens near the words of what they show, and scoring high for what to say."""
        pixels, labels, counts = batch
        with torch.no_grad():
            features = vision_features(self.model, pixels)
        visual = self.model.model.multi_modal_projector(features)
        colors = self.tokenizer.convert_tokens_to_ids(list(COLORS))
        kinds = self.tokenizer.convert_tokens_to_ids(list(KINDS))
        heard = self.model.model.language_model.embed_tokens.weight
        said = self.model.lm_head.weight
        rotation = word_rotation(WIDTH)
        words = {
            "color": heard[colors] @ rotation.T,
            "dot here": said[colors],
            "kind": said[kinds],
        }
        visual = F.normalize(visual, dim=-1)
        scores = {g: ALIGN_SCALE * visual @ F.normalize(w, dim=-1).T for g, w in words.items()}
        scores["color"] = scores["color"] - ALIGN_SCALE / 3
        return patch_loss(scores, labels, counts)

    def question_step(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, Measures]:
        """Next-token loss on the answers."""
        logits, labels = answer_logits(self.model, batch)
        pictures = len(batch["pixels"]) // len(batch["ids"])
        right = (logits.argmax(-1) == labels).float().mean().item()
        return F.cross_entropy(logits, labels), {f"tokens right ({pictures} views)": right}


def learning_rate(step: int, total: int) -> float:
    """Linear warm-up, then a cosine down to ``FINAL_LR``; relative to the peak."""
    if step < WARM_UP_STEPS:
        return (step + 1) / WARM_UP_STEPS
    progress = (step - WARM_UP_STEPS) / max(1, total - WARM_UP_STEPS)
    return FINAL_LR + (1 - FINAL_LR) * 0.5 * (1 + math.cos(math.pi * progress))


def train_backbone(
    out_dir: Path,
    seed: int = 0,
    budget: Budget | None = None,
    on_checkpoint: OnCheckpoint | None = None,
) -> None:
    """Train the backbone and write its folder to ``out_dir``. Continues where it was stopped.

    ``on_checkpoint(stage, step)`` is called after each checkpoint.
    """
    budget = budget or Budget()
    out_dir.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(out_dir, seed, budget, on_checkpoint)
    inner, model = trainer.model.model, trainer.model
    trainer.run(
        "vision",
        PatchBatches(seed, "vision", budget.vision_steps, budget.vision_batch),
        (inner.vision_tower, trainer.probe),
        budget.vision_lr,
        trainer.vision_step,
    )
    trainer.run(
        "align",
        PatchBatches(seed, "align", budget.align_steps, budget.align_batch),
        (inner.multi_modal_projector, model.get_input_embeddings(), model.lm_head),
        budget.align_lr,
        trainer.align_step,
    )
    trainer.run(
        "questions",
        QuestionBatches(
            seed,
            "questions",
            budget.question_steps,
            budget.question_batch,
            budget.question_warm_up,
            trainer.tokenizer,
        ),
        (inner.multi_modal_projector, inner.language_model, model.lm_head),
        budget.question_lr,
        trainer.question_step,
    )
    trainer.run(
        "joint",
        QuestionBatches(
            seed, "joint", budget.joint_steps, budget.question_batch, 0, trainer.tokenizer
        ),
        (inner, model.lm_head),
        budget.joint_lr,
        trainer.question_step,
    )
    save_folder(model, trainer.tokenizer, out_dir)
