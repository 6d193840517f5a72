"""A small Mistral 3 of the real classes with random weights; see :mod:`tests.tiny`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessor,
    PixtralProcessor,
)

from sdrpn_mistral3.backbone import Mistral3Backbone
from tests.tiny import randomize
from tests.tiny_words import word_tokenizer

#: Pixels of a visual token's side: two patches of 14; of an image's longest edge.
CELL, LONGEST = 28, 28 * 8
#: Shorter than most prompts with an image.
WINDOW = 20
IMAGE, BREAK, IMAGE_END = "[IMG]", "[IMG_BREAK]", "[IMG_END]"
_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", IMAGE, BREAK, IMAGE_END, "[INST]", "[/INST]")

CHAT_TEMPLATE = (
    "{{ '<s>' }}{% for message in messages %}{{ '[INST]' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '[IMG]' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{{ '[/INST]' }}{% endfor %}"
)


def tiny_mistral3(
    seed: int = 0, attn_implementation: str = "sdpa", *, window: int | None = WINDOW, **text: Any
) -> Mistral3Backbone:
    """A random Mistral 3 with tokenizer and processor, float32, on the CPU.

    Args:
        seed: of the weights.
        attn_implementation: of the decoder and the vision encoder.
        window: of all decoder layers, in tokens; ``None``: full attention.
        text: fields of the decoder's configuration to replace.
    """
    tokenizer = word_tokenizer(_SPECIAL, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    config = Mistral3Config(
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "head_dim": 16,
            "image_size": LONGEST,
            "patch_size": CELL // 2,
        },
        text_config={
            "model_type": "mistral",
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "sliding_window": window,
            "max_position_embeddings": 1024,
            "pad_token_id": _SPECIAL.index("<pad>"),
            "bos_token_id": _SPECIAL.index("<s>"),
            "eos_token_id": _SPECIAL.index("</s>"),
            **text,
        },
        image_token_index=_SPECIAL.index(IMAGE),
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    config._attn_implementation = attn_implementation
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Mistral3ForConditionalGeneration(config)
        randomize(model)
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=_SPECIAL.index("</s>"), pad_token_id=_SPECIAL.index("<pad>")
    )
    processor = PixtralProcessor(
        image_processor=PixtralImageProcessor(
            size={"longest_edge": LONGEST}, patch_size={"height": CELL // 2, "width": CELL // 2}
        ),
        tokenizer=tokenizer,
        patch_size=CELL // 2,
        spatial_merge_size=2,
        chat_template=CHAT_TEMPLATE,
    )
    return Mistral3Backbone(model, processor, name=f"tiny-mistral3-{seed}")


def write_tiny_mistral3(folder: str | Path, seed: int = 0, **options: Any) -> Path:
    """Save one as an ordinary Hugging Face folder; options as for :func:`tiny_mistral3`."""
    backbone = tiny_mistral3(seed, **options)
    backbone.model.save_pretrained(folder)
    backbone.processor.save_pretrained(folder)
    return Path(folder)
