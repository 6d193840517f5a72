"""A small Qwen3-VL of the real classes with random weights; see :mod:`tests.tiny`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from sdrpn_qwen3_vl.backbone import Qwen3VLBackbone
from tests.tiny import randomize
from tests.tiny_qwen2_5_vl import (
    CHAT_TEMPLATE,
    END,
    IMAGE,
    MAX_TOKENS,
    MIN_TOKENS,
    PAD,
    VIDEO,
    VISION_END,
    VISION_START,
    tiny_tokenizer,
)

#: Pixels of a visual token's side: two patches of 16.
CELL = 32
#: Encoder layers whose features the first decoder layers get.
DEEPSTACK = [0, 1]


def tiny_qwen3_vl(seed: int = 0, attn_implementation: str = "sdpa", **text: Any) -> Qwen3VLBackbone:
    """A random Qwen3-VL with tokenizer and processor, float32, on the CPU.

    Args:
        seed: of the weights.
        attn_implementation: of the decoder and the vision encoder.
        text: fields of the decoder's configuration to replace, e.g. ``num_hidden_layers=4``.
    """
    tokenizer = tiny_tokenizer()
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in tokenizer.all_special_tokens}
    config = Qwen3VLConfig(
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 64,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": DEEPSTACK,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": 1024,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
            "eos_token_id": ids[END],
            "pad_token_id": ids[PAD],
            **text,
        },
        image_token_id=ids[IMAGE],
        video_token_id=ids[VIDEO],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        tie_word_embeddings=False,
    )
    config._attn_implementation = attn_implementation
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration(config)
        randomize(model)
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=ids[END], pad_token_id=ids[PAD]
    )
    size = {"shortest_edge": MIN_TOKENS * CELL**2, "longest_edge": MAX_TOKENS * CELL**2}
    pixels = {"patch_size": CELL // 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size, **pixels),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(size=size),
        chat_template=CHAT_TEMPLATE,
    )
    return Qwen3VLBackbone(model, processor, name=f"tiny-qwen3-vl-{seed}")


def write_tiny_qwen3_vl(folder: str | Path, seed: int = 0, **options: Any) -> Path:
    """Save one as an ordinary Hugging Face folder; options as for :func:`tiny_qwen3_vl`."""
    backbone = tiny_qwen3_vl(seed, **options)
    backbone.model.save_pretrained(folder)
    backbone.processor.save_pretrained(folder)
    return Path(folder)
