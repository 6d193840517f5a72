"""What the random models of the benchmarks share: a tokenizer that knows no word, and saving."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

VOCABULARY = 32_000
HEAD_WIDTH = 64
#: The vision encoder is small: what is measured is the decoder.
VISION_LAYERS = 4
VISION_WIDTH = 256


def random_tokenizer(special: Sequence[str], **roles: str) -> PreTrainedTokenizerFast:
    """One token per word; every word that is not special is unknown.

    What is asked does not matter to the cost, only how long it is.

    Args:
        special: the special tokens, in the order of their ids.
        roles: which of them is ``pad_token``, ``eos_token``, ``unk_token`` ...; those without a
            role are additional special tokens.
    """
    ids = {word: index for index, word in enumerate(special)}
    tokenizer = Tokenizer(WordLevel(ids, unk_token=roles["unk_token"]))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=[word for word in special if word not in roles.values()],
        **roles,
    )


def save_random_model(
    folder: Path, model: PreTrainedModel, processor: Any, *, shard_size: str
) -> None:
    """Save a model that decodes greedily as an ordinary Hugging Face folder.

    Args:
        folder: where to.
        model: any.
        processor: its processor, with a tokenizer of :func:`random_tokenizer`.
        shard_size: limit of a file, as transformers writes it.
    """
    tokenizer = processor.tokenizer
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder, max_shard_size=shard_size)
    processor.save_pretrained(folder)
