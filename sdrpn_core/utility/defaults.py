"""Sizes of a utility run where none are given; a help text shows them without importing torch."""

from __future__ import annotations

DEFAULT_BATCH_SIZE = 8
DEFAULT_MAX_NEW_TOKENS = 64
DEFAULT_SHARD_SIZE = 64
"""Records per shard: the work that a kill can lose. A record costs about as much as ten labels."""
DEFAULT_CANDIDATES = 8
"""Regions drawn from the RPN's map per record."""
