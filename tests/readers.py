"""A reader of prefixes that keeps what it is shown."""

from __future__ import annotations


class KeepsHidden:
    """Each row's branch features, without padding."""

    def __init__(self, branch):
        self.branch = branch

    def read_prefix(self, features, starts):
        return [features.hidden[row, start:] for row, start in enumerate(starts)]
