"""The tokenizer of the embedded backbones: one token per word, whatever the family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from sdrpn_glyphs.questions import vocabulary

MAX_POSITIONS = 1024
UNK = "<unk>"


@dataclass(frozen=True)
class SpecialTokens:
    """A family's own tokens.

    Attributes:
        pad: the padding token.
        eos: the end of a response.
        image: the placeholder of an image.
        bos: starts every prompt, if given.
        others: other special tokens, by the name of the tokenizer's attribute.
    """

    pad: str
    eos: str
    image: str
    bos: str | None = None
    others: Mapping[str, str] = field(default_factory=dict)


def build_tokenizer(
    special: SpecialTokens, prompt_words: tuple[str, ...]
) -> PreTrainedTokenizerFast:
    """Build a tokenizer with one token per lower-case word, punctuation mark or line break.

    Args:
        special: the family's tokens; they get the first ids.
        prompt_words: words of the chat template.
    """
    named = [special.pad, special.bos, special.eos, UNK, special.image]
    named += special.others.values()
    specials = [token for token in named if token is not None]
    words = dict.fromkeys((*specials, *prompt_words, *vocabulary()))
    ids = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(WordLevel(ids, unk_token=UNK))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Split(Regex(r"\n|\w+|[^\w\s]"), behavior="removed", invert=True)
    if special.bos is not None:
        tokenizer.post_processor = TemplateProcessing(
            single=f"{special.bos} $A",
            pair=f"{special.bos} $A $B",
            special_tokens=[(special.bos, ids[special.bos])],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=special.bos,
        eos_token=special.eos,
        pad_token=special.pad,
        unk_token=UNK,
        extra_special_tokens={"image_token": special.image, **special.others},
        padding_side="left",
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )
