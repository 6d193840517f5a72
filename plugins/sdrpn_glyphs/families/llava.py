"""The stock LLaVA classes at toy size."""

from __future__ import annotations

from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from sdrpn_glyphs.families.base import (
    CELL_PIXELS,
    HEAD_DIM,
    IMAGE_MEAN,
    IMAGE_STD,
    INPUT_SIZE,
    WIDTH,
    Family,
)
from sdrpn_glyphs.families.decoder import greedy, llama_config
from sdrpn_glyphs.initial_weights import init_matching_attention, init_patch_embedding
from sdrpn_glyphs.tokenizer import SpecialTokens, build_tokenizer
from sdrpn_llava.backbone import LlavaBackbone

VISION_WIDTH = 96
VISION_LAYERS = 4
SPECIAL = SpecialTokens(pad="<pad>", bos="<s>", eos="</s>", image="<image>")
PROMPT_WORDS = ("user", "assistant", ":", "\n")

CHAT_TEMPLATE = """\
{%- for message in messages if message['role'] != 'system' -%}
{%- if not loop.first %}{{ ' ' }}{% endif -%}
{{- message['role'] | upper }}:{{ ' ' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] if part['type'] == 'image' -%}{{- '<image>\\n' -}}{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{- part['text'] -}}{%- endfor -%}
{%- endif -%}
{%- if message['role'] == 'assistant' -%}{{- '</s>' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- ' ASSISTANT:' -}}{%- endif -%}
"""


def build() -> LlavaBackbone:
    """CLIP with 4 layers of width 96, Llama with 6 layers of width 128."""
    tokenizer = build_tokenizer(SPECIAL, PROMPT_WORDS)
    model = LlavaForConditionalGeneration(_config(tokenizer))
    init_patch_embedding(model.model.vision_tower.embeddings.patch_embedding.weight)
    init_matching_attention(model.model.language_model.layers, WIDTH, HEAD_DIM)
    model.generation_config = greedy(tokenizer)
    return LlavaBackbone(model, build_processor(tokenizer), name="glyphs-llava")


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """The stock processor: images to INPUT_SIZE pixels, one ``<image>`` token per patch."""
    size = {"height": INPUT_SIZE, "width": INPUT_SIZE}
    image_processor = CLIPImageProcessor(
        size=size,
        crop_size=size,
        do_center_crop=False,
        resample=3,
        image_mean=list(IMAGE_MEAN),
        image_std=list(IMAGE_STD),
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=CELL_PIXELS,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def _config(tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    vision = CLIPVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=4 * VISION_WIDTH,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=4,
        image_size=INPUT_SIZE,
        patch_size=CELL_PIXELS,
        projection_dim=VISION_WIDTH,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=llama_config(tokenizer),
        image_token_index=tokenizer.get_vocab()[SPECIAL.image],
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=(INPUT_SIZE // CELL_PIXELS) ** 2,
        tie_word_embeddings=False,
    )


FAMILY = Family("llava", build)
