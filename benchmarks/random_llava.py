"""A LLaVA-shaped model with random weights, large enough that arithmetic decides what it costs."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

PATCH = 14
_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
_VOCABULARY = 32_000
_HEAD_WIDTH = 64
_VISION_LAYERS = 4
_VISION_WIDTH = 256


def write_random_llava(
    folder: Path, *, n_layers: int, width: int, grid: int, shard_size: str = "50MB"
) -> None:
    """Save a model as an ordinary Hugging Face folder, its weights in several files.

    Args:
        folder: where to.
        n_layers: decoder layers.
        width: of the decoder; a multiple of 64.
        grid: visual tokens per side.
        shard_size: limit of a file, as transformers writes it.
    """
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=_VISION_WIDTH,
            intermediate_size=4 * _VISION_WIDTH,
            num_hidden_layers=_VISION_LAYERS,
            num_attention_heads=_VISION_WIDTH // _HEAD_WIDTH,
            image_size=PATCH * grid,
            patch_size=PATCH,
            projection_dim=_VISION_WIDTH,
        ),
        text_config=LlamaConfig(
            vocab_size=_VOCABULARY,
            hidden_size=width,
            intermediate_size=width * 11008 // 4096,  # as in the 7B model
            num_hidden_layers=n_layers,
            num_attention_heads=width // _HEAD_WIDTH,
            max_position_embeddings=4096,
            bos_token_id=_SPECIAL.index("<s>"),
            eos_token_id=_SPECIAL.index("</s>"),
            pad_token_id=_SPECIAL.index("<pad>"),
        ),
        image_token_id=_SPECIAL.index("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=grid * grid,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=2, pad_token_id=0)
    model.save_pretrained(folder, max_shard_size=shard_size)
    _processor(grid).save_pretrained(folder)


def _processor(grid: int) -> LlavaProcessor:
    """Every word that is not special is unknown: what is asked does not matter here."""
    tokenizer = Tokenizer(
        WordLevel({word: index for index, word in enumerate(_SPECIAL)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = Whitespace()
    side = PATCH * grid
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        ),
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token="<pad>",
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
            additional_special_tokens=["<image>"],
        ),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
