"""Small Idefics3 and SmolVLM of the real classes with random weights; see :mod:`tests.tiny`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from sdrpn_smolvlm.backbone import SmolVLMBackbone
from tests.tiny import randomize
from tests.tiny_words import word_tokenizer

#: Visual tokens per side, and pixels of one's side: 2 x 2 patches of 8 are shuffled into one.
SIDE, CELL = 4, 16
IMAGE, AROUND, TAG, END = (
    "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>",
)  # fmt: skip
_SPECIAL = ("<pad>", "<|im_start|>", "<unk>", IMAGE, AROUND, TAG, END, "\n")

CHAT_TEMPLATE = (
    "{{ '<|im_start|>' }}{% for message in messages %}{{ message['role'] | capitalize + ':' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{{ '<end_of_utterance>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def tiny_smolvlm(
    seed: int = 0, attn_implementation: str = "sdpa", *, idefics: bool = False, **text: Any
) -> SmolVLMBackbone:
    """A random SmolVLM with tokenizer and processor, float32, on the CPU.

    SmolVLM's own processor needs a package that spells out numbers, for videos; Idefics3's
    writes the same prompts.

    Args:
        seed: of the weights.
        attn_implementation: of the decoder and the vision encoder.
        idefics: an Idefics3 instead.
        text: fields of the decoder's configuration to replace.
    """
    tokenizer = word_tokenizer(
        _SPECIAL,
        ("User", "Assistant"),
        pad_token="<pad>",
        eos_token=END,
        bos_token="<|im_start|>",
    )
    config_class, model_class = (
        (Idefics3Config, Idefics3ForConditionalGeneration)
        if idefics
        else (SmolVLMConfig, SmolVLMForConditionalGeneration)
    )
    config = config_class(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE * CELL,
            "patch_size": CELL // 2,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "pad_token_id": _SPECIAL.index("<pad>"),
            **text,
        },
        scale_factor=2,
        image_token_id=_SPECIAL.index(IMAGE),
        tie_word_embeddings=False,
        pad_token_id=_SPECIAL.index("<pad>"),
    )
    config._attn_implementation = attn_implementation
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
        randomize(model)
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=_SPECIAL.index(END), pad_token_id=_SPECIAL.index("<pad>")
    )
    side = {"longest_edge": SIDE * CELL}
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessor(size=side, max_image_size=side),
        tokenizer=tokenizer,
        image_seq_len=SIDE * SIDE,
        chat_template=CHAT_TEMPLATE,
    )
    return SmolVLMBackbone(model, processor, name=f"tiny-smolvlm-{seed}")


def write_tiny_smolvlm(folder: str | Path, seed: int = 0, **options: Any) -> Path:
    """Save one as an ordinary Hugging Face folder; options as for :func:`tiny_smolvlm`."""
    backbone = tiny_smolvlm(seed, **options)
    backbone.model.save_pretrained(folder)
    backbone.processor.save_pretrained(folder)
    return Path(folder)
