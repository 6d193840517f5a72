"""How a data set is asked: the record's question becomes the prompt, and gets its options."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sdrpn_core.data.fields import LETTERS

if TYPE_CHECKING:
    from sdrpn_core.data.record import Record

__all__ = ["InlineOptions", "ListedOptions", "Prompt", "Suffix"]

_LETTER = re.compile(r"\s*\(([A-Z])\)\s*")


class Prompt(ABC):
    """Makes a record as a table has it into one that can be asked."""

    @abstractmethod
    def ask(self, record: Record) -> Record:
        """Return the record with its prompt as the question."""


@dataclass(frozen=True)
class Suffix(Prompt):
    """The question and an instruction.

    Attributes:
        text: the instruction.
        capitalize: write the question in lower case, after a capital letter.
    """

    text: str
    capitalize: bool = False

    def ask(self, record: Record) -> Record:
        """Append the instruction."""
        question = record.question.strip()
        question = question.capitalize() if self.capitalize else question
        return replace(record, question=question + self.text)


@dataclass(frozen=True)
class InlineOptions(Prompt):
    """Options that stand in the question: ``Which? (A) this (B) that``.

    Attributes:
        text: the instruction; questions that have it already do not get it twice.
    """

    text: str

    def ask(self, record: Record) -> Record:
        """Put every option on a line of its own, and append the instruction."""
        question = record.question.strip().removesuffix(self.text.strip())
        head, *parts = _LETTER.split(question)
        options = tuple(part.strip() for part in parts[1::2])
        return replace(record, question=_listed(head.strip(), options) + self.text, options=options)


@dataclass(frozen=True)
class ListedOptions(Prompt):
    """Options that the record has, listed by their letters.

    Attributes:
        text: the instruction, on a line of its own.
    """

    text: str

    def ask(self, record: Record) -> Record:
        """Append a line per option, and the instruction."""
        question = _listed(record.question.strip(), record.options)
        return replace(record, question=f"{question}\n{self.text}")


def _listed(question: str, options: tuple[str, ...]) -> str:
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([question, *lines])
