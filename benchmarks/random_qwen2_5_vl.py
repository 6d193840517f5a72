"""A Qwen2.5-VL-shaped model with random weights: any grid, M-RoPE, GQA, window attention.

An image of ``CELL * columns`` by ``CELL * rows`` pixels has a grid of that many visual tokens.
"""

from __future__ import annotations

from pathlib import Path

import torch
from random_model import (
    HEAD_WIDTH,
    VISION_LAYERS,
    VOCABULARY,
    random_tokenizer,
    save_random_model,
)
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

#: Pixels of a visual token's side: two patches of 14.
CELL = 28
#: The processor enlarges images below, and reduces those above, in visual tokens.
MIN_TOKENS, MAX_TOKENS = 4, 16_384

_PAD, _END, _UNKNOWN, _START = "<|endoftext|>", "<|im_end|>", "<|unk|>", "<|im_start|>"
_VISION_START, _VISION_END = "<|vision_start|>", "<|vision_end|>"
_IMAGE, _VIDEO = "<|image_pad|>", "<|video_pad|>"
_SPECIAL = (_PAD, _END, _UNKNOWN, _START, _VISION_START, _VISION_END, _IMAGE, _VIDEO)
#: A visual token is four patches, so the encoder is narrower than LLaVA's, or it would cost as much
#: as the decoder.
_VISION_WIDTH = 128
#: Of the 7B model.
_QUERY_HEADS_PER_KEY_HEAD = 4
_MLP_RATIO = 18944 / 3584
_WINDOW_CELLS = 4
#: Of a head's 32 RoPE pairs, those that turn with time, row and column: a quarter, then 3 in 8.
_MROPE_SECTION = [8, 12, 12]

_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|> ' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|> assistant\n' }}{% endif %}"
)


def write_random_qwen2_5_vl(
    folder: Path,
    *,
    n_layers: int,
    width: int,
    context: int = 32_768,
    max_tokens: int = MAX_TOKENS,
    shard_size: str = "50MB",
) -> None:
    """Save a model as an ordinary Hugging Face folder, its weights in several files.

    Args:
        folder: where to.
        n_layers: decoder layers.
        width: of the decoder; a multiple of 256, four query heads of 64 to a key head.
        context: the longest sequence, in tokens.
        max_tokens: most visual tokens of an image, which is made smaller if it would have more.
        shard_size: limit of a file, as transformers writes it.
    """
    heads = width // HEAD_WIDTH
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": VISION_LAYERS,
            "hidden_size": _VISION_WIDTH,
            "intermediate_size": 4 * _VISION_WIDTH,
            "num_heads": _VISION_WIDTH // HEAD_WIDTH,
            "window_size": _WINDOW_CELLS * CELL,
            "fullatt_block_indexes": [VISION_LAYERS - 1],  # as 1 in 8 of the 32 published layers
            "out_hidden_size": width,
        },
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": width,
            "intermediate_size": int(width * _MLP_RATIO),
            "num_hidden_layers": n_layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads // _QUERY_HEADS_PER_KEY_HEAD,
            "max_position_embeddings": context,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": _MROPE_SECTION,
            },
            "bos_token_id": None,
            "eos_token_id": _SPECIAL.index(_END),
            "pad_token_id": _SPECIAL.index(_PAD),
        },
        image_token_id=_SPECIAL.index(_IMAGE),
        video_token_id=_SPECIAL.index(_VIDEO),
        vision_start_token_id=_SPECIAL.index(_VISION_START),
        vision_end_token_id=_SPECIAL.index(_VISION_END),
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    save_random_model(folder, model, _processor(max_tokens), shard_size=shard_size)


def _processor(max_tokens: int) -> Qwen2_5_VLProcessor:
    size = {"shortest_edge": MIN_TOKENS * CELL**2, "longest_edge": max_tokens * CELL**2}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=random_tokenizer(_SPECIAL, pad_token=_PAD, eos_token=_END, unk_token=_UNKNOWN),
        video_processor=Qwen2VLVideoProcessor(size=size),
        chat_template=_CHAT_TEMPLATE,
    )
