"""The Levenshtein distance."""

from __future__ import annotations


def edit_distance(first: str, second: str) -> int:
    """The least number of insertions, deletions and substitutions that make two texts equal."""
    row = list(range(len(second) + 1))  # from nothing to each beginning of the second text
    for number, letter in enumerate(first, start=1):
        diagonal, row[0] = row[0], number
        for column, other in enumerate(second, start=1):
            substituted = diagonal + (letter != other)
            diagonal = row[column]
            row[column] = min(substituted, diagonal + 1, row[column - 1] + 1)
    return row[-1]
