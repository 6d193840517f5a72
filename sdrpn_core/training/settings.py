"""The numbers of a training run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.errors import ConfigError
from sdrpn_core.labels.pseudo import DEFAULT_LABELER
from sdrpn_core.util.dataclass_reader import read_dataclass

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone

PRECISIONS = ("auto", "no", "bf16")

_MAX_WORKERS = 8

#: Fields that change how fast a run goes, not where it arrives: they may differ when it is resumed.
_RESUME_SAFE = frozenset(
    {
        "micro_batch_size",
        "gradient_checkpointing",
        "num_workers",
        "checkpoint_every",
        "keep_checkpoints",
        "log_every",
    }
)


@dataclass(frozen=True)
class TrainingSettings:
    """How an RPN is trained.

    The defaults are the published ones (arXiv:2509.16944 and its code) where there is one for all
    models; a backbone's preset replaces them, see :meth:`for_backbone`.

    Attributes:
        learning_rate: peak of the schedule. Published: 5e-5 (padded-square models), 1e-4 (dynamic
            resolution).
        betas: of Adam-like optimizers. Published: (0.9, 0.98).
        weight_decay: published: none. Never applied to norms and biases.
        optimizer: name of a timm optimizer.
        warmup_fraction: share of the steps over which the learning rate rises linearly, rounded up
            to whole steps. Published: 3%. From there it falls along a cosine to 0.
        epochs: passes over the labels. Published: 1.
        max_steps: optimizer steps; overrides ``epochs``.
        global_batch_size: images per optimizer step, over all processes. Published: 512
            (padded-square models), 128 (dynamic resolution).
        micro_batch_size: images per forward pass of one process. Changes memory and speed, not
            the result.
        max_grad_norm: gradients are scaled down to this norm; ``None``: never. Published: 1, the
            default of the trainer used there.
        seed: of the order of the labels, of new head parameters and of dropout.
        labeler: registered name of the pseudo-labeler.
        gradient_checkpointing: recompute the RPN's layers in the backward pass, to save memory.
        mixed_precision: ``bf16`` (CUDA only), ``no``, or ``auto``: bf16 where the device has it.
            The trained weights are float32 either way.
        max_pixels: images with more pixels are skipped.
        num_workers: processes that read labels and prepare images ahead, for each process of the
            run; 0: the training process itself; ``None``: none where a CPU trains, else one per CPU
            that is left, up to 8.
        checkpoint_every: optimizer steps between checkpoints; ``None``: every ten minutes. There is
            one at the end in any case.
        keep_checkpoints: how many checkpoints stay on disk.
        log_every: optimizer steps between log entries.

    Raises:
        ConfigError: a value out of range.
    """

    learning_rate: float = 5e-5
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.0
    optimizer: str = "adamw"
    warmup_fraction: float = 0.03
    epochs: int = 1
    max_steps: int | None = None
    global_batch_size: int = 128
    micro_batch_size: int = 8
    max_grad_norm: float | None = 1.0
    seed: int = 0
    labeler: str = DEFAULT_LABELER
    gradient_checkpointing: bool = False
    mixed_precision: str = "auto"
    max_pixels: int = MAX_PIXELS
    num_workers: int | None = None
    checkpoint_every: int | None = None
    keep_checkpoints: int = 2
    log_every: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        for name in (
            "epochs",
            "max_steps",
            "global_batch_size",
            "micro_batch_size",
            "max_pixels",
            "checkpoint_every",
            "keep_checkpoints",
            "log_every",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"training: {name} must be 1 or more, not {value}")
        if not self.learning_rate > 0:
            raise ConfigError(f"training: learning_rate must be positive, not {self.learning_rate}")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ConfigError(f"training: max_grad_norm must be positive, not {self.max_grad_norm}")
        if len([beta for beta in self.betas if 0 <= beta < 1]) != 2:
            raise ConfigError(f"training: betas must be two numbers in [0, 1), not {self.betas}")
        if not 0 <= self.warmup_fraction < 1:
            raise ConfigError(
                f"training: warmup_fraction must lie in [0, 1), not {self.warmup_fraction}"
            )
        if self.weight_decay < 0 or (self.num_workers or 0) < 0:
            raise ConfigError("training: weight_decay and num_workers must not be negative")
        if self.mixed_precision not in PRECISIONS:
            raise ConfigError(
                f"training: unknown mixed_precision {self.mixed_precision!r}; "
                f"known: {', '.join(PRECISIONS)}"
            )

    @classmethod
    def for_backbone(cls, backbone: Backbone, **overrides: Any) -> TrainingSettings:
        """The settings of the backbone's preset, or else the defaults, some fields replaced.

        Raises:
            ConfigError: see :meth:`from_dict`.
        """
        preset = backbone.find_preset()
        return cls.from_dict({**(preset.training if preset else {}), **overrides})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingSettings:
        """Build from plain values.

        Raises:
            ConfigError: unknown fields, values of the wrong type or out of range.
        """
        return read_dataclass(cls, values, "training settings")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "betas": list(self.betas)}

    def workers(self, n_processes: int, device_type: str) -> int:
        """How many processes prepare images for each of those that train.

        Args:
            n_processes: that train, on this machine.
            device_type: of the device that they train on.
        """
        if self.num_workers is not None:
            return self.num_workers
        return 0 if device_type == "cpu" else worker_processes(n_processes)

    def resume_fields(self) -> dict[str, Any]:
        """The fields that decide the trained weights, and so must agree when a run is resumed."""
        return {name: value for name, value in self.to_dict().items() if name not in _RESUME_SAFE}


def worker_processes(n_processes: int) -> int:
    """How many workers a process of a run has by default, where the CPUs are free for them.

    One CPU is left to each process. More than a few workers do not make a run faster where the
    model is the bottleneck, and each takes the memory of two batches.

    Args:
        n_processes: of the run, on this machine.
    """
    try:
        n_cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        n_cpus = os.cpu_count() or 1
    return max(0, min(_MAX_WORKERS, n_cpus // n_processes - 1))
