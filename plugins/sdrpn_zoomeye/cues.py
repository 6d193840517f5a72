"""What to look for: the model names it, by the example of other questions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.backbone.question import Question

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone

#: In front of what is looked for everywhere, to count it for example.
ALL = "all "

_MAX_NEW_TOKENS = 48

_INSTRUCTION = """\
Which objects have to be found in an image to answer a question about it? Write their names in one \
line, separated by commas. Write "all" in front of objects of which every single one has to be \
found, for instance to count them.

Question: What is the color of the woman's handbag?
Objects: handbag of the woman

Question: Is the dog to the left or to the right of the bench?
Objects: dog, bench

Question: How many red umbrellas are there?
Objects: all red umbrellas

Question: {}
Objects:"""

_SEPARATOR = re.compile(r",\s*(?:and\s+)?|\s+and\s+")
_PRONOUNS = frozenset(("he", "her", "him", "his", "it", "its", "she", "their", "them", "they"))


def name_cues(backbone: Backbone, questions: Sequence[str]) -> list[list[str]]:
    """Per question what the model says that one has to find; empty if it names nothing.

    Args:
        backbone: the model; it is asked without an image.
        questions: a batch.
    """
    asked = [Question(_INSTRUCTION.format(question.strip())) for question in questions]
    answers = answer_batch(backbone, asked, max_new_tokens=_MAX_NEW_TOKENS)
    return [parse_cues(answer.text) for answer in answers]


def parse_cues(text: str) -> list[str]:
    """The names in the first line of a response.

    Names with a pronoun are left out: who "his bag" belongs to is not said.
    """
    lines = text.strip().splitlines()
    if not lines:
        return []
    names = [name.strip() for name in _SEPARATOR.split(lines[0].strip().rstrip("."))]
    return [name for name in names if name and not _PRONOUNS & set(name.lower().split())]


def singular(cue: str) -> str:
    """What one of ``"all red umbrellas"`` is called: as published, without its last s."""
    return cue.removeprefix(ALL).removesuffix("s")
