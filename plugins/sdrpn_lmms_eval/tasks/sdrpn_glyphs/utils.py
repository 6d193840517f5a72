"""Questions about details that vanish at model resolution: the data set ``glyphs/small``, seed 0.

Documents hold indices; images, questions and answers are made from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from sdrpn_core import Record, read_records
from sdrpn_glyphs.metric import GlyphsAnswer

DATA = "glyphs/small"
_METRIC = GlyphsAnswer()

Document = Mapping[str, Any]


def _record(document: Document) -> Record:
    return read_records(DATA, n=document["index"] + 1, seed=0)[document["index"]]


def doc_to_visual(document: Document) -> list[Image.Image]:
    """Draw the image."""
    (image,) = _record(document).images
    if not isinstance(image, Image.Image):
        raise TypeError(f"{DATA} holds images, not {type(image).__name__}")
    return [image]


def doc_to_text(document: Document) -> str:
    """Return the question."""
    return _record(document).question


def doc_to_target(document: Document) -> str:
    """Return the answer."""
    return _record(document).answers[0]


def process_results(document: Document, results: Sequence[str]) -> dict[str, float]:
    """Score the response as ``sdrpn bench`` does."""
    return {"accuracy": _METRIC.score(results[0], _record(document))}
