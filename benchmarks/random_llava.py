"""A LLaVA-shaped model with random weights, large enough that arithmetic decides what it costs."""

from __future__ import annotations

from pathlib import Path

import torch
from random_model import (
    HEAD_WIDTH,
    VISION_LAYERS,
    VISION_WIDTH,
    VOCABULARY,
    random_tokenizer,
    save_random_model,
)
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

PATCH = 14
_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")


def write_random_llava(
    folder: Path,
    *,
    n_layers: int,
    width: int,
    grid: int,
    context: int = 4096,
    shard_size: str = "50MB",
) -> None:
    """Save a model as an ordinary Hugging Face folder, its weights in several files.

    Args:
        folder: where to.
        n_layers: decoder layers.
        width: of the decoder; a multiple of 64.
        grid: visual tokens per side.
        context: the longest sequence, in tokens.
        shard_size: limit of a file, as transformers writes it.
    """
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=VISION_WIDTH,
            intermediate_size=4 * VISION_WIDTH,
            num_hidden_layers=VISION_LAYERS,
            num_attention_heads=VISION_WIDTH // HEAD_WIDTH,
            image_size=PATCH * grid,
            patch_size=PATCH,
            projection_dim=VISION_WIDTH,
        ),
        text_config=LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=width * 11008 // 4096,  # as in the 7B model
            num_hidden_layers=n_layers,
            num_attention_heads=width // HEAD_WIDTH,
            max_position_embeddings=context,
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
    save_random_model(folder, model, _processor(grid), shard_size=shard_size)


def _processor(grid: int) -> LlavaProcessor:
    side = PATCH * grid
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        ),
        tokenizer=random_tokenizer(
            _SPECIAL, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
        ),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
