"""A data set of the Hugging Face Hub, with what is needed to ask and score it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_core.data.record import Record, RecordSource
from sdrpn_datasets.published import published_on

if TYPE_CHECKING:
    from sdrpn_datasets.prompts import Prompt

__all__ = ["HubDataset"]


@dataclass(frozen=True)
class HubDataset:
    """A data set, as the registry calls it.

    Attributes:
        repo: its id on the Hub, or a local copy: a folder in the Hub's layout, or a file.
        split: the split that papers report.
        prompt: how it is asked.
        metric: name of the metric.
        help: one line.
        config: name of the configuration; ``None``: the only one.
        columns: column by field of a record, where these differ.
        total: the total of the metric that papers report; ``None``: the mean score.
        max_new_tokens: longest answer, in tokens; ``None``: as other data sets.
    """

    repo: str
    split: str
    prompt: Prompt
    metric: str
    help: str
    config: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    total: str | None = None
    max_new_tokens: int | None = None

    def __call__(self, n: int | None = None, seed: int = 0) -> RecordSource:
        """Open it, or ``n`` of its records, chosen by ``seed``.

        Raises:
            InputError: The Hub cannot be reached, or the local copy has another layout.
            MissingExtraError: ``datasets`` is not installed.
        """
        from sdrpn_core.data.read import read_records

        source = self.repo
        if not Path(source).is_file():
            source = "hf:" + ":".join(filter(None, (self.repo, self.config, self.split)))
        records = read_records(source, n=n, seed=seed, columns=self.columns)
        return PromptedRecords(records, self.prompt)

    def at(self, path: str) -> HubDataset:
        """The same data set, read from a local copy."""
        return replace(self, repo=path)

    def metadata(self, name: str) -> dict[str, Any]:
        """What is registered beside it under this name."""
        facts = {
            "metric": self.metric,
            "total": self.total,
            "max_new_tokens": self.max_new_tokens,
            "published": published_on(name),
        }
        return {key: value for key, value in facts.items() if value is not None}


class PromptedRecords(RecordSource):
    """Records, asked as a prompt says.

    Args:
        records: as the table has them.
        prompt: how they are asked.
    """

    def __init__(self, records: RecordSource, prompt: Prompt) -> None:
        self.name = records.name
        self._records = records
        self._prompt = prompt

    def __len__(self) -> int:
        return len(self._records)

    def _record(self, index: int) -> Record:
        return self._asked(self._records[index])

    def outlines(self) -> Iterator[Record]:
        """Go through the records without their images, which is quick."""
        return map(self._asked, self._records.outlines())

    @property
    def fingerprint(self) -> str:
        """Hex digest of the records' own, and of the prompt."""
        return hashlib.sha256(f"{self._records.fingerprint} {self._prompt}".encode()).hexdigest()

    def _asked(self, record: Record) -> Record:
        return record if record.problem is not None else self._prompt.ask(record)
