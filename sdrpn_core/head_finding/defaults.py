"""Sizes of a search for heads where none are given; a help text shows them without torch."""

from __future__ import annotations

DEFAULT_N = 200
DEFAULT_BATCH_SIZE = 8
DEFAULT_MAX_NEW_TOKENS = 64
DEFAULT_MAX_HEADS = 8
