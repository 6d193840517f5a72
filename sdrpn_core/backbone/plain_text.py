"""Tokenize what a user wrote as text, whatever special tokens it spells.

A tokenizer looks for its special tokens in the whole prompt. Those of the chat template are meant;
``</s>`` or the placeholder of an image in a question is not. Of texts that spell none, which are
nearly all, nothing here changes the ids.
"""

from __future__ import annotations

import copy
import re
import uuid
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PlainText"]


class PlainText:
    """A tokenizer for which special tokens are text, except where a template put them.

    Args:
        tokenizer: The backbone's tokenizer, which is not changed.
        image_token_id: Of the image placeholder, which not every tokenizer counts as special.
    """

    def __init__(self, tokenizer: Any, image_token_id: int) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        self._special: Mapping[str, int] = {
            token.content: number
            for number, token in added.items()
            if token.special or number == image_token_id
        }
        # A line break that counts as special is text all the same.
        spelled = [content for content in self._special if content.strip()]
        self._spelled = _any_of(spelled)

    def spells_special(self, text: str) -> bool:
        """Whether a text spells a special token."""
        return self._spelled.search(text) is not None

    def tokenize(self, head: str, text: str, tail: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of ``head + text + tail``, in which only those of head and tail are special.

        Args:
            head: Of the template.
            text: What the user wrote.
            tail: Of the template.
            add_special_tokens: Whether the tokenizer puts its own around the prompt.
        """
        marked = self._mark(head) + self._mark_spaces(text) + self._mark(tail)
        tokenizer, ids = self._marked
        found = tokenizer(
            marked, add_special_tokens=add_special_tokens, split_special_tokens=True
        ).input_ids
        return [ids.get(number, number) for number in found]

    @cached_property
    def _marked(self) -> tuple[Any, Mapping[int, int]]:
        """A copy that knows the marks, and the ids of the tokens that they stand for.

        The marks are ordinary added tokens: with ``split_special_tokens`` they are found where the
        special ones no longer are, and cut the prompt in the same places.
        """
        from tokenizers import AddedToken

        tokenizer = copy.deepcopy(self._tokenizer)
        ids: dict[int, int] = {}
        for content, number in self._special.items():
            token = self._tokenizer.added_tokens_decoder[number]
            if not token.special:
                tokenizer.add_tokens([AddedToken(content, special=True)], special_tokens=True)
            mark = AddedToken(
                self._marks[content],
                single_word=token.single_word,
                lstrip=token.lstrip,
                rstrip=token.rstrip,
                normalized=False,
                special=False,
            )
            tokenizer.add_tokens([mark])
            ids[tokenizer.convert_tokens_to_ids(mark.content)] = number
        return tokenizer, ids

    @cached_property
    def _marks(self) -> Mapping[str, str]:
        """What stands for each special token, and cannot be guessed: no question spells it."""
        secret = uuid.uuid4().hex
        return {content: f"<{secret}:{number}>" for content, number in self._special.items()}

    def _mark(self, text: str) -> str:
        return _any_of(self._special).sub(lambda found: self._marks[found.group()], text)

    def _mark_spaces(self, text: str) -> str:
        spaces = [content for content in self._special if not content.strip()]
        return _any_of(spaces).sub(lambda found: self._marks[found.group()], text)


def _any_of(contents: Any) -> re.Pattern[str]:
    """Matches the longest of some texts; of none, nothing."""
    longest_first = sorted(contents, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
