"""The stock DeepSeek-VL classes (SigLIP and Llama) at toy size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import (
    DeepseekVLConfig,
    DeepseekVLForConditionalGeneration,
    DeepseekVLImageProcessor,
    DeepseekVLProcessor,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)

from sdrpn_deepseek_vl.backbone import DeepseekVLBackbone
from sdrpn_glyphs.families.base import (
    CELL_PIXELS,
    IMAGE_MEAN,
    IMAGE_STD,
    INPUT_SIZE,
    Budget,
    Family,
)
from sdrpn_glyphs.families.decoder import greedy, llama_config
from sdrpn_glyphs.families.inheritance import inherit_decoder, inherit_words
from sdrpn_glyphs.initial_weights import init_patch_embedding
from sdrpn_glyphs.tokenizer import SpecialTokens, build_tokenizer

if TYPE_CHECKING:
    from sdrpn_core import Backbone

VISION_WIDTH = 96
VISION_LAYERS = 4
SPECIAL = SpecialTokens(
    pad="<｜▁pad▁｜>",
    bos="<｜begin▁of▁sentence｜>",
    eos="<｜end▁of▁sentence｜>",
    image="<image_placeholder>",
)
PROMPT_WORDS = ("user", "assistant", ":", "\n")

CHAT_TEMPLATE = """\
{%- for message in messages if message['role'] != 'system' -%}
{{- message['role'] | capitalize }}:{{ ' ' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] if part['type'] == 'image' -%}
{{- '<image_placeholder>' -}}
{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{- part['text'] -}}{%- endfor -%}
{%- endif -%}
{%- if message['role'] == 'assistant' -%}{{- eos_token -}}{%- else -%}{{- '\\n\\n' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}
"""


def build() -> DeepseekVLBackbone:
    """SigLIP with 4 layers of width 96, Llama with 6 layers of width 128."""
    tokenizer = build_tokenizer(SPECIAL, PROMPT_WORDS)
    model = DeepseekVLForConditionalGeneration(_config(tokenizer))
    init_patch_embedding(model.model.vision_model.embeddings.patch_embedding.weight)
    model.generation_config = greedy(tokenizer)
    size = {"height": INPUT_SIZE, "width": INPUT_SIZE}
    image_processor = DeepseekVLImageProcessor(
        size=size, min_size=CELL_PIXELS, image_mean=list(IMAGE_MEAN), image_std=list(IMAGE_STD)
    )
    processor = DeepseekVLProcessor(
        image_processor,
        tokenizer,
        chat_template=CHAT_TEMPLATE,
        num_image_tokens=(INPUT_SIZE // CELL_PIXELS) ** 2,
    )
    return DeepseekVLBackbone(model, processor, name="glyphs-deepseek-vl")


def _config(tokenizer: PreTrainedTokenizerFast) -> DeepseekVLConfig:
    vision = SiglipVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=4 * VISION_WIDTH,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=4,
        image_size=INPUT_SIZE,
        patch_size=CELL_PIXELS,
        vision_use_head=False,
    )
    return DeepseekVLConfig(
        vision_config=vision,
        text_config=llama_config(tokenizer),
        image_token_id=tokenizer.get_vocab()[SPECIAL.image],
        tie_word_embeddings=False,
    )


@torch.no_grad()
def _inherit(new: Backbone, old: Backbone) -> None:
    """Copy the whole decoder, and the encoder layers, which are the same in SigLIP and CLIP."""
    inherit_words(new, old)
    inherit_decoder(new, old)
    ours, theirs = new.model.model.vision_model, old.model.model.vision_tower
    ours.encoder.load_state_dict(theirs.encoder.state_dict())
    ours.embeddings.patch_embedding.weight.copy_(theirs.embeddings.patch_embedding.weight)
    ours.embeddings.patch_embedding.bias.zero_()
    # CLIP counts its class token as position 0.
    ours.embeddings.position_embedding.weight.copy_(theirs.embeddings.position_embedding.weight[1:])
    ours.post_layernorm.load_state_dict(theirs.post_layernorm.state_dict())
    aligner, projector = new.model.model.aligner, old.model.model.multi_modal_projector
    aligner.linear1.load_state_dict(projector.linear_1.state_dict())
    aligner.linear2.load_state_dict(projector.linear_2.state_dict())


FAMILY = Family(
    "deepseek_vl",
    build,
    teacher="llava",
    inherit=_inherit,
    budget=Budget(cell_steps=0, align_steps=200, question_steps=300),
)
