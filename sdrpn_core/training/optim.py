"""Optimizer and learning-rate schedule, both timm's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from timm.optim import create_optimizer_v2, list_optimizers  # type: ignore[attr-defined]
from timm.scheduler.cosine_lr import CosineLRScheduler

from sdrpn_core.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from sdrpn_core.training.settings import TrainingSettings


def make_optimizer(model: nn.Module, settings: TrainingSettings) -> Optimizer:
    """A timm optimizer over all parameters of a model.

    Raises:
        UnknownNameError: timm has no optimizer of that name.
        ConfigError: it does not take the settings.
    """
    known = [str(name) for name in list_optimizers()]
    if settings.optimizer not in known:
        raise UnknownNameError("optimizer", settings.optimizer, known)
    try:
        return create_optimizer_v2(
            model,
            opt=settings.optimizer,
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            betas=settings.betas,
        )
    except TypeError as error:
        raise ConfigError(
            f"the optimizer {settings.optimizer!r} cannot be used here: {error}"
        ) from error


def make_schedule(
    optimizer: Optimizer, settings: TrainingSettings, n_steps: int
) -> CosineLRScheduler:
    """Linear warm-up, then a cosine to 0; call ``step_update(step)`` before step ``step``.

    As published, but for the very first step: there the published schedule has a learning rate of
    0, so that a run of one step would learn nothing. Here the warm-up begins one stair higher.
    """
    warmup = min(math.ceil(settings.warmup_fraction * n_steps), n_steps - 1)
    return CosineLRScheduler(
        optimizer,
        # The only step of a cosine of one is at its peak, whatever its length; timm warns of 1.
        t_initial=max(n_steps - warmup, 2),
        warmup_t=warmup,
        warmup_lr_init=settings.learning_rate / (warmup + 1),
        warmup_prefix=True,
        t_in_epochs=False,
    )
