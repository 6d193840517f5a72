"""Small DeepSeek-VLs of the real classes with random weights; see :mod:`tests.tiny`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    DeepseekVLConfig,
    DeepseekVLForConditionalGeneration,
    DeepseekVLHybridConfig,
    DeepseekVLHybridForConditionalGeneration,
    DeepseekVLHybridImageProcessor,
    DeepseekVLHybridProcessor,
    DeepseekVLImageProcessor,
    DeepseekVLProcessor,
    GenerationConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    SamVisionConfig,
    SiglipVisionConfig,
)

from sdrpn_deepseek_vl.backbone import DeepseekVLBackbone
from tests.tiny import WORDS, randomize

BOS, EOS = "<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"
UNK, IMAGE = "<unk>", "<image_placeholder>"
_SPECIAL = (BOS, EOS, UNK, IMAGE)
_PROMPT = (
    "User Assistant You are a helpful language and vision assistant able to understand the visual "
    "content that user provides assist with variety of tasks using natural"
)

#: Width of a patch of either vision encoder in pixels, as in the checkpoints.
PATCH = 16
#: Visual tokens per side; the checkpoints have 24.
GRID = 6
SIDE = GRID * PATCH
#: Side of the second encoder's square. As with 24 and 1024, the grid does not divide it.
HIGH_RES_SIDE = 256

#: As the checkpoints on the Hub do it: a system message, blank lines between the turns.
CHAT_TEMPLATE = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language.\n\n"
    "{% for message in messages %}{{ message['role'] | capitalize + ': ' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image_placeholder>' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def tiny_deepseek_vl(
    seed: int = 0,
    attn_implementation: str = "sdpa",
    *,
    chat_template: str | None = CHAT_TEMPLATE,
    **text: Any,
) -> DeepseekVLBackbone:
    """A random DeepSeek-VL with one vision encoder, float32, on the CPU.

    Args:
        seed: of the weights.
        attn_implementation: of the decoder and the vision encoder.
        chat_template: of the processor; ``None`` for a processor without one.
        text: fields of the decoder's ``LlamaConfig`` to replace, e.g. ``num_key_value_heads=2``.
    """
    tokenizer = tiny_tokenizer()
    config = DeepseekVLConfig(**_shared_config(tokenizer, text))
    processor = DeepseekVLProcessor(
        image_processor=DeepseekVLImageProcessor(size=_square(SIDE)),
        tokenizer=tokenizer,
        chat_template=chat_template,
        num_image_tokens=GRID * GRID,
    )
    model = _random(DeepseekVLForConditionalGeneration, config, seed, attn_implementation)
    return DeepseekVLBackbone(model, processor, name=f"tiny-deepseek-vl-{seed}")


def tiny_deepseek_vl_hybrid(
    seed: int = 0,
    attn_implementation: str = "sdpa",
    *,
    chat_template: str | None = CHAT_TEMPLATE,
    **text: Any,
) -> DeepseekVLBackbone:
    """As :func:`tiny_deepseek_vl`, with a SAM encoder of 3 layers beside SigLIP."""
    tokenizer = tiny_tokenizer()
    config = DeepseekVLHybridConfig(
        **_shared_config(tokenizer, text),
        high_res_vision_config=SamVisionConfig(
            hidden_size=16,
            output_channels=8,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=HIGH_RES_SIDE,
            patch_size=PATCH,
            window_size=7,
            global_attn_indexes=[1],
        ),
    )
    processor = DeepseekVLHybridProcessor(
        image_processor=DeepseekVLHybridImageProcessor(
            size=_square(SIDE), high_res_size=_square(HIGH_RES_SIDE)
        ),
        tokenizer=tokenizer,
        chat_template=chat_template,
        num_image_tokens=GRID * GRID,
    )
    model = _random(DeepseekVLHybridForConditionalGeneration, config, seed, attn_implementation)
    return DeepseekVLBackbone(model, processor, name=f"tiny-deepseek-vl-hybrid-{seed}")


def write_tiny_deepseek_vl(
    folder: str | Path, seed: int = 0, *, hybrid: bool = False, **options: Any
) -> Path:
    """Save one as an ordinary Hugging Face folder; options as for :func:`tiny_deepseek_vl`."""
    backbone = (tiny_deepseek_vl_hybrid if hybrid else tiny_deepseek_vl)(seed, **options)
    backbone.model.save_pretrained(folder)
    backbone.processor.save_pretrained(folder)
    return Path(folder)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word or punctuation mark; BOS in front, unknown words become ``<unk>``."""
    words = [*_SPECIAL, *"?:.,'!-", *WORDS.split(), *_PROMPT.split()]
    ids = {word: index for index, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(WordLevel(ids, unk_token=UNK))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, ids[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        unk_token=UNK,
        extra_special_tokens={"image_token": IMAGE},
        clean_up_tokenization_spaces=False,
    )


def _shared_config(tokenizer: PreTrainedTokenizerFast, text: dict[str, Any]) -> dict[str, Any]:
    """6 decoder layers of width 64 with 4 heads; 2 encoder layers of width 32."""
    return {
        "vision_config": SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=SIDE,
            patch_size=PATCH,
        ),
        "text_config": LlamaConfig(
            **{
                "vocab_size": len(tokenizer),
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 6,
                "num_attention_heads": 4,
                "max_position_embeddings": 512,
                "bos_token_id": _SPECIAL.index(BOS),
                "eos_token_id": _SPECIAL.index(EOS),
                "pad_token_id": _SPECIAL.index(EOS),
                "tie_word_embeddings": False,
                **text,
            }
        ),
        "image_token_id": _SPECIAL.index(IMAGE),
        "tie_word_embeddings": False,
    }


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _random(model_class: Any, config: Any, seed: int, attn_implementation: str) -> Any:
    config._attn_implementation = attn_implementation
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
        randomize(model)
    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=_SPECIAL.index(BOS),
        eos_token_id=_SPECIAL.index(EOS),
        pad_token_id=_SPECIAL.index(EOS),
    )
    return model
