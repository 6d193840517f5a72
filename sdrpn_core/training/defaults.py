"""Numbers of the training stages where none are given; a help text shows them without torch."""

from __future__ import annotations

DEFAULT_ROUNDS = 2
"""Of refinement."""
