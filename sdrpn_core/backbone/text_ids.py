"""Token ids of what is asked and answered: with the chat template around it, or alone."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from sdrpn_core.backbone.plain_text import PlainText
from sdrpn_core.errors import InputError

__all__ = ["TextIds"]


class TextIds:
    """A tokenizer for questions in a chat template and for responses.

    Args:
        tokenizer: the backbone's tokenizer.
        image_token_id: of the image placeholder.
    """

    def __init__(self, tokenizer: Any, image_token_id: int) -> None:
        self._tokenizer = tokenizer
        self._plain_text = PlainText(tokenizer, image_token_id)

    def of_question(
        self, question: str, chat_text: Callable[[str], str], *, special_tokens: bool
    ) -> list[int]:
        """Ids of a prompt that asks a question.

        Args:
            question: what is asked.
            chat_text: the chat template around it.
            special_tokens: whether special tokens that the question spells are meant as such; else
                they are text.

        Raises:
            InputError: special tokens of the question cannot be told from those of the template.
        """
        if special_tokens or not self._plain_text.spells_special(question):
            text = chat_text(question)
            found = self._tokenizer(text, add_special_tokens=self._adds_special(text)).input_ids
            return list(found)
        head, tail = _around(question, chat_text)
        return self._plain_text.tokenize(
            head, question.strip(), tail, add_special_tokens=self._adds_special(head)
        )

    def of_response(self, response: str, *, special_tokens: bool) -> list[int]:
        """Ids of a response, as they follow the prompt.

        Args:
            response: the text.
            special_tokens: whether special tokens that it spells are meant as such.
        """
        if special_tokens or not self._plain_text.spells_special(response):
            return list(self._tokenizer(response, add_special_tokens=False).input_ids)
        return self._plain_text.tokenize("", response, "", add_special_tokens=False)

    def _adds_special(self, prompt: str) -> bool:
        """Whether the tokenizer has to begin the prompt, because the chat template does not."""
        bos = self._tokenizer.bos_token
        return not (bos and prompt.startswith(bos))


def _around(question: str, chat_text: Callable[[str], str]) -> tuple[str, str]:
    """What the chat template puts before and after a question.

    Only the question's outer white space goes through the template, which may remove it.
    """
    stand_in = uuid.uuid4().hex
    text = chat_text(question.replace(question.strip(), stand_in))
    head, found, tail = text.partition(stand_in)
    if not found or stand_in in tail:
        raise InputError(
            "the question spells a special token, and the chat template does not show it exactly "
            "once, so that it cannot be told from those of the template"
        )
    return head, tail
