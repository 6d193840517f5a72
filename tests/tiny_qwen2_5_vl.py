"""A small Qwen2.5-VL of the real classes with random weights; see :mod:`tests.tiny`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from sdrpn_qwen2_5_vl.backbone import Qwen2_5VLBackbone
from tests.tiny import WORDS, randomize

PAD, END, UNK, START, NEWLINE = "<|endoftext|>", "<|im_end|>", "<unk>", "<|im_start|>", "\n"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
_SPECIAL = (PAD, END, UNK, START, NEWLINE, VISION_START, VISION_END, IMAGE, VIDEO)
_PROMPT = ("system", "user", "assistant", "you", "are", "helpful")

#: Pixels of a visual token's side: two patches of 14.
CELL = 28
#: Default budget of the tiny processor, in visual tokens.
MIN_TOKENS, MAX_TOKENS = 4, 64

#: As the checkpoints on the Hub do it: a default system message, images between vision tokens.
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nyou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_qwen2_5_vl(
    seed: int = 0,
    attn_implementation: str = "sdpa",
    *,
    min_pixels: int = MIN_TOKENS * CELL**2,
    max_pixels: int = MAX_TOKENS * CELL**2,
    **text: Any,
) -> Qwen2_5VLBackbone:
    """A random Qwen2.5-VL with tokenizer and processor, float32, on the CPU.

    Args:
        seed: of the weights.
        attn_implementation: of the decoder and the vision encoder.
        min_pixels: images with fewer are enlarged.
        max_pixels: images with more are reduced.
        text: fields of the decoder's configuration to replace, e.g. ``num_hidden_layers=4``.
    """
    tokenizer = tiny_tokenizer()
    config = tiny_config(tokenizer, **text)
    config._attn_implementation = attn_implementation
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
        randomize(model)
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=_SPECIAL.index(END),
        pad_token_id=_SPECIAL.index(PAD),
    )
    processor = tiny_processor(tokenizer, min_pixels, max_pixels)
    return Qwen2_5VLBackbone(model, processor, name=f"tiny-qwen2.5-vl-{seed}")


def write_tiny_qwen2_5_vl(folder: str | Path, seed: int = 0, **options: Any) -> Path:
    """Save one as an ordinary Hugging Face folder; options as for :func:`tiny_qwen2_5_vl`."""
    backbone = tiny_qwen2_5_vl(seed, **options)
    backbone.model.save_pretrained(folder)
    backbone.processor.save_pretrained(folder)
    return Path(folder)


def tiny_config(tokenizer: PreTrainedTokenizerFast, **text: Any) -> Qwen2_5_VLConfig:
    """6 decoder layers of width 64, 4 heads on 2 key heads; 3 encoder layers, one of them global.

    The other two attend within windows of 4 x 4 visual tokens.
    """
    return Qwen2_5_VLConfig(
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "window_size": 4 * CELL,
            "fullatt_block_indexes": [1],
            "out_hidden_size": 64,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [2, 3, 3],
            },
            "bos_token_id": None,
            "eos_token_id": _SPECIAL.index(END),
            "pad_token_id": _SPECIAL.index(PAD),
            **text,
        },
        image_token_id=_SPECIAL.index(IMAGE),
        video_token_id=_SPECIAL.index(VIDEO),
        vision_start_token_id=_SPECIAL.index(VISION_START),
        vision_end_token_id=_SPECIAL.index(VISION_END),
        tie_word_embeddings=False,
    )


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, punctuation mark or line end; nothing in front of a text."""
    words = [*_SPECIAL, *"?:.,'!-", *WORDS.split(), *_PROMPT]
    ids = {word: index for index, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(WordLevel(ids, unk_token=UNK))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNK,
        additional_special_tokens=[START, NEWLINE, VISION_START, VISION_END, IMAGE, VIDEO],
        clean_up_tokenization_spaces=False,
    )


def tiny_processor(
    tokenizer: PreTrainedTokenizerFast, min_pixels: int, max_pixels: int
) -> Qwen2_5_VLProcessor:
    """The stock processor with a small budget of pixels."""
    size = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=size),
        chat_template=CHAT_TEMPLATE,
    )
