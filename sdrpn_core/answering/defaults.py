"""Limits of an answer where none are given; a help text shows them without importing torch."""

from __future__ import annotations

DEFAULT_BATCH_SIZE = 8
"""Questions per batch of a stream."""

DEFAULT_MAX_NEW_TOKENS = 128
"""Long enough for the short answers of fine-grained question answering."""
