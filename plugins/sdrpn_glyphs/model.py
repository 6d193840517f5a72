"""The stock LLaVA classes at toy size: configuration, tokenizer, processor, and their folder."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
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

from .questions import vocabulary
from .views import INPUT_SIZE, PATCH_SIZE

PAD, BOS, EOS, UNK, IMAGE = "<pad>", "<s>", "</s>", "<unk>", "<image>"
SPECIAL_TOKENS = (PAD, BOS, EOS, UNK, IMAGE)
PROMPT_WORDS = ("user", "assistant", ":", "\n")
PROMPT = "USER: {images}\n{question} ASSISTANT:"

IMAGE_MEAN = (0.5, 0.5, 0.5)
IMAGE_STD = (0.25, 0.25, 0.25)
CHANNELS = 3
VISION_WIDTH = 96
WIDTH = 128
HEADS = 4
HEAD_DIM = WIDTH // HEADS
ROPE_THETA = 1e6
TURNING_PAIRS = 6
"""Fastest RoPE frequencies of a head, which turn by more than half a radian across a picture."""
MATCHING_GAIN = 1.7
ROTATION_SEED = 0
MAX_POSITIONS = 1024
MAX_NEW_TOKENS = 8

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


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per lower-cased word, punctuation mark or line break; BOS is put in front."""
    words = (*SPECIAL_TOKENS, *PROMPT_WORDS, *vocabulary())
    ids = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(WordLevel(ids, unk_token=UNK))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Split(Regex(r"\n|\w+|[^\w\s]"), behavior="removed", invert=True)
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, ids[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        additional_special_tokens=[IMAGE],
        padding_side="left",
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """The stock processor: pictures to INPUT_SIZE pixels, one ``<image>`` token per patch."""
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
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def _cosine_filters(count: int) -> torch.Tensor:
    """The ``count`` lowest two-dimensional cosine filters (count, PATCH_SIZE, PATCH_SIZE).

    Orthonormal, with the mean damped to the size of the rest. A small dot then stands out from
    the color of its patch from the first step, which saves most of the vision stage.
    """
    place = (torch.arange(PATCH_SIZE) + 0.5) * math.pi / PATCH_SIZE
    waves = torch.cos(torch.arange(PATCH_SIZE).unsqueeze(1) * place) * math.sqrt(2 / PATCH_SIZE)
    waves[0] /= math.sqrt(2)
    order = sorted(
        ((u, v) for u in range(PATCH_SIZE) for v in range(PATCH_SIZE)),
        key=lambda uv: (uv[0] ** 2 + uv[1] ** 2, uv),
    )
    filters = torch.stack([torch.outer(waves[u], waves[v]) for u, v in order[:count]])
    filters[0] /= PATCH_SIZE
    return filters


def init_patch_embedding(model: LlavaForConditionalGeneration) -> None:
    """Start the patch embedding as cosine filters on each color channel."""
    weight = model.model.vision_tower.embeddings.patch_embedding.weight
    filters = _cosine_filters(len(weight) // CHANNELS)
    with torch.no_grad():
        weight.zero_()
        for channel in range(CHANNELS):
            weight[channel * len(filters) : (channel + 1) * len(filters), channel] = filters


def word_rotation(width: int) -> torch.Tensor:
    """A fixed rotation (width, width): visual tokens are aligned with rotated color words.

    So a word can match the patches that show it without matching itself.
    """
    generator = torch.Generator().manual_seed(ROTATION_SEED)
    return torch.linalg.qr(torch.randn(width, width, generator=generator))[0]


def init_matching_attention(model: LlavaForConditionalGeneration) -> None:
    """Start each head so that a color word attends to the patches aligned with it.

    Keys are orthonormal projections, on those dimensions that RoPE hardly turns across a
    picture; queries are the same projections of rotated words. Attention that starts out
    uniform stays at guessing level for thousands of steps.
    """
    rotation = word_rotation(WIDTH)
    steady = (torch.arange(HEAD_DIM) % (HEAD_DIM // 2) >= TURNING_PAIRS).unsqueeze(1)
    for layer in model.model.language_model.layers:
        keys = torch.empty_like(layer.self_attn.k_proj.weight)
        torch.nn.init.orthogonal_(keys, gain=MATCHING_GAIN)
        keys *= steady.repeat(HEADS, 1)
        with torch.no_grad():
            layer.self_attn.k_proj.weight.add_(keys)
            layer.self_attn.q_proj.weight.add_(keys @ rotation)


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """A freshly initialised model; seed torch before."""
    vision = CLIPVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=4 * VISION_WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=INPUT_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=VISION_WIDTH,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=352,
        num_hidden_layers=6,
        num_attention_heads=HEADS,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        max_position_embeddings=MAX_POSITIONS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.get_vocab()[IMAGE],
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=(INPUT_SIZE // PATCH_SIZE) ** 2,
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config)
    init_patch_embedding(model)
    init_matching_attention(model)
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (n, 3, h, w) to the float32 input of the vision tower."""
    mean = torch.tensor(IMAGE_MEAN).view(3, 1, 1)
    std = torch.tensor(IMAGE_STD).view(3, 1, 1)
    return (pixels.float() / 255 - mean) / std


def save_folder(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    """Write an ordinary Hugging Face folder: weights, configs, tokenizer, processor, template."""
    model.save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
