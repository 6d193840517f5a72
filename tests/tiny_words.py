"""A tokenizer of two dozen words, with the special tokens of a family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from tests.tiny import WORDS


def word_tokenizer(
    special: Sequence[str], words: Sequence[str] = (), **options: Any
) -> PreTrainedTokenizerFast:
    """One token per word, punctuation mark or special token; nothing in front of a text.

    Args:
        special: special tokens, whose ids count from 0; ``<unk>`` is one of them.
        words: known beside :data:`tests.tiny.WORDS`.
        options: of the tokenizer class.
    """
    known = [*special, *"?:.,'!-", *WORDS.split(), *words]
    ids = {word: index for index, word in enumerate(dict.fromkeys(known))}
    tokenizer = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        additional_special_tokens=list(special),
        clean_up_tokenization_spaces=False,
        **options,
    )
