"""Sizes of a benchmark where none are given; a help text shows them without importing torch."""

from __future__ import annotations

DEFAULT_BATCH_SIZE = 8
DEFAULT_MAX_NEW_TOKENS = 32
"""The answers of fine-grained question answering are a few words."""

DEFAULT_MAX_LOSS = 0.01
"""Accuracy that a gate may cost: one point."""
