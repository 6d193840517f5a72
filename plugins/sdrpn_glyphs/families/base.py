"""What distinguishes the embedded backbones: how each is built and how its training starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdrpn_core import Backbone

MAX_NEW_TOKENS = 8
INPUT_SIZE = 80
"""Side of the model input for a square image, in pixels."""
CELL_PIXELS = 8
"""Side of the part of the model input that one visual token represents, in pixels."""
WIDTH = 128
HEADS = 4
HEAD_DIM = WIDTH // HEADS
LAYERS = 6
MLP_WIDTH = 352
ROPE_THETA = 1e6
IMAGE_MEAN = (0.5, 0.5, 0.5)
IMAGE_STD = (0.25, 0.25, 0.25)


@dataclass(frozen=True)
class Budget:
    """Steps, batch sizes and peak learning rates (of matrices) of the stages.

    Only families with a teacher have the stage ``align``. ``workers`` processes make the batches; 0
    makes them in the training process.
    """

    cell_steps: int = 1500
    cell_batch: int = 48
    cell_lr: float = 4e-3
    align_steps: int = 300
    align_lr: float = 3e-3
    question_steps: int = 1800
    question_batch: int = 32
    question_lr: float = 2e-3
    checkpoint_every: int = 100
    workers: int = 1


@dataclass(frozen=True)
class Family:
    """One embedded backbone.

    Attributes:
        name: name of its folders: ``NAME`` and ``NAME-rpn``.
        build: makes a newly initialized backbone with its processor; seed torch before.
        teacher: the embedded family whose visual tokens the vision encoder learns to predict, and
            from which ``inherit`` copies; ``None`` to train from scratch.
        inherit: copies what fits from the teacher to the new backbone.
        budget: training budget.
    """

    name: str
    build: Callable[[], Backbone]
    teacher: str | None = None
    inherit: Callable[[Backbone, Backbone], None] | None = None
    budget: Budget = field(default_factory=Budget)
