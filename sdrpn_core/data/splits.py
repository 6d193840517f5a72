"""Which of the files in a folder belong to a split."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from sdrpn_core.errors import InputError

__all__ = ["files_of_split"]

_SHARD = re.compile(r"(?P<split>.+?)-\d{5}-of-\d{5}")
"""How Hugging Face datasets names the shards of a split."""

_KEYWORDS = re.compile(
    r"(?P<split>train(?:ing)?|test(?:ing)?|val(?:id(?:ation)?)?|dev|eval(?:uation)?)(?:[-_. ]|$)"
)
"""Names of splits at the start of the name of a file or folder."""


def files_of_split(folder: Path, files: Sequence[Path], split: str | None) -> list[Path]:
    """Return the files of a split; all of them if the folder does not hold several.

    Args:
        folder: where they were found.
        files: in order.
        split: its name; ``None``: the only one.

    Raises:
        InputError: There are several splits and none was chosen, or it is none of them; or several
            configurations, each in a folder of its own.
    """
    by_split: dict[str | None, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_of(file.relative_to(folder)), []).append(file)
    names = sorted(name for name in by_split if name is not None)
    listed = ", ".join(names) or "none"
    if split is None:
        if len(by_split) > 1:
            raise InputError(
                f"{folder}: holds files of several splits ({listed}): choose one with --split"
            )
        (chosen,) = by_split.values()
    elif split in by_split:
        chosen = by_split[split]
    else:
        raise InputError(f"{folder}: there is no split {split!r} (splits: {listed})")
    folders = sorted({file.parent for file in chosen if _SHARD.fullmatch(file.stem)})
    if len(folders) > 1:
        raise InputError(
            f"{folder}: holds several configurations: give the folder of one "
            f"({', '.join(str(one) for one in folders)})"
        )
    return chosen


def _split_of(path: Path) -> str | None:
    shard = _SHARD.fullmatch(path.stem)
    if shard is not None:
        return shard["split"]
    for part in (path.stem, *reversed(path.parent.parts)):
        found = _KEYWORDS.match(part.lower())
        if found is not None:
            return found["split"]
    return None
