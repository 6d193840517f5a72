"""Small models of the real classes with random weights: what a test runs in place of a checkpoint.

Nothing is trained and nothing is downloaded. The weights are scaled so that attention is peaked and
logits are far apart, as in a trained model: with the usual initialization every row would be nearly
uniform, and most mistakes would hide below the tolerances.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from sdrpn_llava.backbone import SYSTEM_MESSAGE, LlavaBackbone

PAD, BOS, EOS, UNK, IMAGE = "<pad>", "<s>", "</s>", "<unk>", "<image>"
_SPECIAL = (PAD, BOS, EOS, UNK, IMAGE)
#: What tiny tokenizers know beside their special tokens.
WORDS = (
    "USER ASSISTANT what which is the of in on a an there how many color hue shape letter "
    "number left right top bottom middle near and or not red green blue yellow black white "
    "gray square circle triangle small large dot yes no zero one two three four five six "
    "seven eight nine ten read see image word text sign price name under above "
)

#: Width of a patch of the vision encoder in pixels.
PATCH = 14

#: Standard deviation of random weights; 0.02 is usual.
_SPREAD = 0.2
_NORM_SPREAD = 0.3

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

#: As the checkpoints on the Hub do it: roles in capitals, images first, a space after every text.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'] | upper }}: {% endif %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }} {% endfor %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def tiny_llava(
    seed: int = 0,
    attn_implementation: str = "sdpa",
    *,
    grid: int = 4,
    chat_template: str | None = None,
    decoder: type[PreTrainedConfig] = LlamaConfig,
    **text: Any,
) -> LlavaBackbone:
    """A random LLaVA with tokenizer and processor, float32, on the CPU.

    Args:
        seed: of the weights.
        attn_implementation: of the decoder and the vision encoder.
        grid: visual tokens per side; images are ``14 * grid`` pixels.
        chat_template: of the processor, e.g. :data:`CHAT_TEMPLATE`.
        decoder: configuration class of the decoder.
        text: fields of the decoder's configuration to replace, e.g. ``num_key_value_heads=2``.
    """
    tokenizer = tiny_tokenizer()
    config = tiny_config(len(tokenizer), grid=grid, decoder=decoder, **text)
    config._attn_implementation = attn_implementation
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
        randomize(model)
    model.generation_config = GenerationConfig(
        do_sample=False, bos_token_id=1, eos_token_id=2, pad_token_id=0
    )
    processor = tiny_processor(tokenizer, grid, chat_template)
    return LlavaBackbone(model, processor, name=f"tiny-llava-{seed}")


def write_tiny_llava(folder: str | Path, seed: int = 0, **options: Any) -> Path:
    """Save a tiny LLaVA as an ordinary Hugging Face folder; options as for :func:`tiny_llava`."""
    backbone = tiny_llava(seed, **options)
    backbone.model.save_pretrained(folder)
    backbone.processor.save_pretrained(folder)
    return Path(folder)


def tiny_config(
    vocabulary: int, *, grid: int = 4, decoder: type[PreTrainedConfig] = LlamaConfig, **text: Any
) -> LlavaConfig:
    """6 decoder layers of width 64 with 4 heads; 3 encoder layers of width 32."""
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=PATCH * grid,
            patch_size=PATCH,
            projection_dim=32,
        ),
        text_config=decoder(
            **{
                "vocab_size": vocabulary,
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 6,
                "num_attention_heads": 4,
                "max_position_embeddings": 512,
                "bos_token_id": 1,
                "eos_token_id": 2,
                "pad_token_id": 0,
                "tie_word_embeddings": False,
                **text,
            }
        ),
        image_token_id=_SPECIAL.index(IMAGE),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=grid * grid,
        tie_word_embeddings=False,
    )


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word or punctuation mark; BOS in front, unknown words become ``<unk>``."""
    prompt = SYSTEM_MESSAGE.replace("'", " ' ").replace(".", " . ").replace(",", " , ")
    words = [*_SPECIAL, *"?:.,'!-", *WORDS.split(), *prompt.split()]
    ids = {word: index for index, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(WordLevel(ids, unk_token=UNK))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, ids[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        additional_special_tokens=[IMAGE],
        clean_up_tokenization_spaces=False,
    )


def tiny_processor(
    tokenizer: PreTrainedTokenizerFast, grid: int = 4, chat_template: str | None = None
) -> LlavaProcessor:
    """The stock processor with CLIP's colors."""
    side = PATCH * grid
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=list(CLIP_MEAN),
        image_std=list(CLIP_STD),
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template,
    )


def tiny_image(seed: int = 0, size: tuple[int, int] = (90, 60)) -> Image.Image:
    """An image of colored blocks, ``size`` (width, height), the same for the same arguments."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST)


def randomize(model: PreTrainedModel) -> None:
    """Peaked attention, separated logits, no norm weight like another, no special token spoken."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.normal_(1.0, _NORM_SPREAD)
            elif parameter.ndim == 1:
                parameter.normal_(0.0, _NORM_SPREAD)
            else:
                parameter.normal_(0.0, _SPREAD)
        model.get_input_embeddings().weight.normal_(0.0, 1.0)


@torch.no_grad()
def prefer_padding(backbone: LlavaBackbone, token: int) -> None:
    """Make the id that padding has a little likelier than a token, wherever that is likely."""
    weight = backbone.model.get_output_embeddings().weight
    weight[0] = 1.2 * weight[token]
