"""The stock Qwen2.5-VL classes at toy size: dynamic resolution, M-RoPE, GQA, window attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from sdrpn_glyphs.families.base import (
    CELL_PIXELS,
    HEADS,
    IMAGE_MEAN,
    IMAGE_STD,
    INPUT_SIZE,
    LAYERS,
    MLP_WIDTH,
    ROPE_THETA,
    WIDTH,
    Budget,
    Family,
)
from sdrpn_glyphs.families.decoder import greedy
from sdrpn_glyphs.families.inheritance import inherit_decoder, inherit_words
from sdrpn_glyphs.initial_weights import init_patch_embedding
from sdrpn_glyphs.tokenizer import MAX_POSITIONS, SpecialTokens, build_tokenizer
from sdrpn_qwen2_5_vl.backbone import Qwen2_5VLBackbone

if TYPE_CHECKING:
    from sdrpn_core import Backbone

MERGE = 2
VISION_WIDTH = 64
VISION_LAYERS = 3
WINDOW_PIXELS = 40
FULL_ATTENTION_LAYERS = (1,)
KEY_VALUE_HEADS = 2
MROPE_SECTION = (4, 6, 6)
"""RoPE pairs of a head that rotate with time, row and column."""

START, END = "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
VIDEO = "<|video_pad|>"
SPECIAL = SpecialTokens(
    pad="<|endoftext|>",
    eos=END,
    image="<|image_pad|>",
    others={
        "start_token": START,
        "vision_start_token": VISION_START,
        "vision_end_token": VISION_END,
        "video_token": VIDEO,
    },
)
PROMPT_WORDS = ("user", "assistant", "system", "\n")

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part['type'] == 'text' -%}
{{- part['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def build() -> Qwen2_5VLBackbone:
    """A vision encoder with 3 layers of width 64, a decoder with 6 layers of width 128."""
    tokenizer = build_tokenizer(SPECIAL, PROMPT_WORDS)
    model = Qwen2_5_VLForConditionalGeneration(_config(tokenizer))
    init_patch_embedding(model.model.visual.patch_embed.proj.weight)
    model.generation_config = greedy(tokenizer)
    processor = Qwen2_5_VLProcessor(
        image_processor=_image_processor(),
        tokenizer=tokenizer,
        video_processor=_video_processor(),
        chat_template=CHAT_TEMPLATE,
    )
    return Qwen2_5VLBackbone(model, processor, name="glyphs-qwen2.5-vl")


def _image_processor() -> Qwen2VLImageProcessor:
    """About ``INPUT_SIZE ** 2`` pixels for every image, whatever its shape."""
    return Qwen2VLImageProcessor(
        size={"shortest_edge": INPUT_SIZE**2, "longest_edge": INPUT_SIZE**2},
        patch_size=CELL_PIXELS // MERGE,
        merge_size=MERGE,
        image_mean=list(IMAGE_MEAN),
        image_std=list(IMAGE_STD),
    )


def _video_processor() -> Qwen2VLVideoProcessor:
    """Required by the stock processor; no video is ever used."""
    return Qwen2VLVideoProcessor(
        size={"shortest_edge": INPUT_SIZE**2, "longest_edge": INPUT_SIZE**2},
        patch_size=CELL_PIXELS // MERGE,
        merge_size=MERGE,
        image_mean=list(IMAGE_MEAN),
        image_std=list(IMAGE_STD),
    )


def _config(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    ids = tokenizer.get_vocab()
    return Qwen2_5_VLConfig(
        vision_config={
            "depth": VISION_LAYERS,
            "hidden_size": VISION_WIDTH,
            "intermediate_size": 3 * VISION_WIDTH,
            "num_heads": 4,
            "patch_size": CELL_PIXELS // MERGE,
            "spatial_merge_size": MERGE,
            "window_size": WINDOW_PIXELS,
            "fullatt_block_indexes": list(FULL_ATTENTION_LAYERS),
            "out_hidden_size": WIDTH,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": WIDTH,
            "intermediate_size": MLP_WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KEY_VALUE_HEADS,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": ROPE_THETA,
                "mrope_section": list(MROPE_SECTION),
            },
            "max_position_embeddings": MAX_POSITIONS,
            "bos_token_id": None,
            "eos_token_id": ids[END],
            "pad_token_id": ids[SPECIAL.pad],
            "tie_word_embeddings": False,
        },
        image_token_id=ids[SPECIAL.image],
        video_token_id=ids[VIDEO],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        tie_word_embeddings=False,
    )


def _inherit(new: Backbone, old: Backbone) -> None:
    """Words and decoder; the vision encoder has nothing in common with the teacher's."""
    inherit_words(new, old)
    inherit_decoder(new, old)


FAMILY = Family(
    "qwen2_5_vl",
    build,
    teacher="llava",
    inherit=_inherit,
    budget=Budget(cell_steps=1100, align_steps=400, question_steps=950),
)
