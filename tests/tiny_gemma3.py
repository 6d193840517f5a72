"""A small Gemma 3 of the real classes with random weights; see :mod:`tests.tiny`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    GenerationConfig,
)

from sdrpn_gemma3.backbone import Gemma3Backbone
from tests.tiny import randomize
from tests.tiny_words import word_tokenizer

#: Visual tokens of an image, and pixels of one's side: two patches of 14 are pooled.
TOKENS, CELL = 16, 28
#: Shorter than any prompt with an image.
WINDOW = 24
BOI, EOI, IMAGE = "<start_of_image>", "<end_of_image>", "<image_soft_token>"
_SPECIAL = (
    "<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", BOI, EOI, IMAGE,
    "\n", "\n\n", "\n\n\n\n",
)  # fmt: skip

CHAT_TEMPLATE = (
    "{{ '<bos>' }}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<start_of_image>' }}"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def tiny_gemma3(
    seed: int = 0, attn_implementation: str = "sdpa", *, window: int = WINDOW, **text: Any
) -> Gemma3Backbone:
    """A random Gemma 3 with tokenizer and processor, float32, on the CPU.

    Args:
        seed: of the weights.
        attn_implementation: of the decoder and the vision encoder.
        window: of the sliding layers, in tokens.
        text: fields of the decoder's configuration to replace.
    """
    tokenizer = word_tokenizer(
        _SPECIAL,
        ("user", "model"),
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        extra_special_tokens={"boi_token": BOI, "eoi_token": EOI, "image_token": IMAGE},
    )
    side = CELL * int(TOKENS**0.5)
    config = Gemma3Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": side,
            "patch_size": CELL // 2,
            "vision_use_head": False,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": window,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"] * 2,
            "max_position_embeddings": 1024,
            "bos_token_id": _SPECIAL.index("<bos>"),
            "eos_token_id": _SPECIAL.index("<end_of_turn>"),
            "pad_token_id": _SPECIAL.index("<pad>"),
            **text,
        },
        mm_tokens_per_image=TOKENS,
        boi_token_index=_SPECIAL.index(BOI),
        eoi_token_index=_SPECIAL.index(EOI),
        image_token_index=_SPECIAL.index(IMAGE),
        tie_word_embeddings=False,
    )
    config._attn_implementation = attn_implementation
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Gemma3ForConditionalGeneration(config)
        randomize(model)
        # Its norms multiply by one more than their weight.
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name and name.endswith("weight") and "vision_tower" not in name:
                    parameter.sub_(1)
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=_SPECIAL.index("<end_of_turn>"),
        pad_token_id=_SPECIAL.index("<pad>"),
    )
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size={"height": side, "width": side}),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
        image_seq_length=TOKENS,
    )
    return Gemma3Backbone(model, processor, name=f"tiny-gemma3-{seed}")


def write_tiny_gemma3(folder: str | Path, seed: int = 0, **options: Any) -> Path:
    """Save one as an ordinary Hugging Face folder; options as for :func:`tiny_gemma3`."""
    backbone = tiny_gemma3(seed, **options)
    backbone.model.save_pretrained(folder)
    backbone.processor.save_pretrained(folder)
    return Path(folder)
