"""Sizes of a label run where none are given; a help text shows them without importing torch."""

from __future__ import annotations

DEFAULT_BATCH_SIZE = 8
DEFAULT_MAX_NEW_TOKENS = 64
DEFAULT_SHARD_SIZE = 256
"""Records per shard: the work a kill can lose, minutes for a 7B backbone on one GPU."""
