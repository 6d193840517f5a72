"""When a run saves its state."""

from __future__ import annotations

import pytest

from sdrpn_core.training import checkpoint_times
from sdrpn_core.training.checkpoint_times import SECONDS_BETWEEN_CHECKPOINTS, CheckpointTimes

LAST = 7


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test moves on."""
    now = [0.0]
    monkeypatch.setattr(checkpoint_times.time, "monotonic", lambda: now[0])
    return now


def test_steps_decide_where_they_are_given(clock):
    times = CheckpointTimes(3, LAST)
    clock[0] = 10 * SECONDS_BETWEEN_CHECKPOINTS
    assert [done for done in range(1, LAST + 1) if times.is_due(done)] == [3, 6, LAST]


def test_else_the_clock_decides_and_writing_does_not_count(clock):
    times = CheckpointTimes(None, LAST)
    clock[0] = 0.9 * SECONDS_BETWEEN_CHECKPOINTS
    assert not times.is_due(1)
    assert times.is_due(LAST)
    clock[0] = SECONDS_BETWEEN_CHECKPOINTS
    assert times.is_due(2)
    clock[0] += SECONDS_BETWEEN_CHECKPOINTS / 2
    times.saved()
    clock[0] += SECONDS_BETWEEN_CHECKPOINTS / 2
    assert not times.is_due(3)
    clock[0] += SECONDS_BETWEEN_CHECKPOINTS / 2
    assert times.is_due(4)
