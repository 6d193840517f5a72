"""A training run that is killed as it begins a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from sdrpn_core.training.step import TrainingStep


class _Killed(BaseException):
    """Nothing catches it, as nothing catches a signal."""


@contextmanager
def killed_at(step: int) -> Iterator[None]:
    """What trains within is killed there, and does not get beyond that step unnoticed."""
    original = TrainingStep.__call__

    def killed(self: TrainingStep, batches: Sequence[Any], where: str) -> Any:
        if where == f"step {step}":
            raise _Killed
        return original(self, batches, where)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingStep, "__call__", killed)
        with pytest.raises(_Killed):
            yield
