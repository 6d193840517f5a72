"""Is an answer right? The dataset's own scorer if it brings one, else normalized exact match."""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING

from sdrpn_core.errors import InputError
from sdrpn_core.plugins.manager import get_plugins
from sdrpn_core.plugins.registry import import_target

if TYPE_CHECKING:
    from sdrpn_core.data.record import Record

Scorer = Callable[[str, "Record"], bool]
"""``(prediction, record) -> whether it is right``."""

#: Metadata key under which a dataset registers its scorer, as ``"module:attr"``.
SCORER_KEY = "scorer"


def exact_match(prediction: str, record: Record) -> bool:
    """Whether prediction and answer are the same words, case and outer punctuation aside.

    Raises:
        InputError: the record has no answer.
    """
    if record.answer is None:
        raise InputError(f"record {record.id!r} has no answer to compare with")
    return normalize(prediction) == normalize(record.answer)


def normalize(text: str) -> str:
    """Words in lower case (Unicode NFKC, casefolded), without the punctuation around them.

    Punctuation inside a word stays, so that 3.5 is not 35; of a text that is nothing but
    punctuation all of it stays.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    words = [word.strip(string.punctuation) for word in text.split()]
    return " ".join(filter(None, words)) or "".join(text.split())


def find_scorer(dataset: object) -> Scorer:
    """The scorer that a registered dataset brings, else :func:`exact_match`.

    Raises:
        PluginError: the scorer cannot be imported; the plugin is named.
    """
    datasets = get_plugins().datasets
    if not isinstance(dataset, str) or dataset not in datasets:
        return exact_match
    entry = datasets.entry(dataset)
    target = entry.metadata.get(SCORER_KEY)
    if target is None:
        return exact_match
    if callable(target):
        return target
    scorer: Scorer = import_target(str(target), entry.origin, f"the scorer of dataset {dataset!r}")
    return scorer
