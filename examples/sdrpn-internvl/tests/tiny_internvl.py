"""A small InternVL of the stock classes with random weights, and its stock processor."""

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    GenerationConfig,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    PreTrainedTokenizerFast,
)

from sdrpn_internvl.backbone import InternVLBackbone

#: Ids 0 to 7. The first two end sequences and fill batches up.
PAD, END, UNK, START, IMAGE_START, IMAGE_END, IMAGE, VIDEO = SPECIAL = (
    "<|endoftext|>",
    "<|im_end|>",
    "<unk>",
    "<|im_start|>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
    "<video>",
)
WORDS = (
    "user assistant what which color letter number is the a of on in it and how many there "
    "red green blue left right square circle small"
)

#: As the checkpoints on the Hub do it: no default system message, a line end after each image.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

PATCH = 14
#: Visual tokens per side: each stands for 2 x 2 patches.
GRID = 4
SIDE = 2 * PATCH * GRID


def tiny_internvl(attn_implementation="sdpa", seed=0):
    """A random InternVL, float32, on the CPU."""
    processor = tiny_processor()
    config = InternVLConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": SIDE,
            "patch_size": PATCH,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(processor.tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "bos_token_id": None,
            "eos_token_id": SPECIAL.index(END),
            "pad_token_id": SPECIAL.index(PAD),
        },
        image_token_id=SPECIAL.index(IMAGE),
        image_seq_length=GRID * GRID,
        tie_word_embeddings=False,
    )
    config._attn_implementation = attn_implementation
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = InternVLForConditionalGeneration(config)
        for name, parameter in model.named_parameters():
            # Wide, so that attention is peaked and logits lie apart, as in a trained model.
            parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.2)
        model.get_input_embeddings().weight.normal_()
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=SPECIAL.index(END),
        pad_token_id=SPECIAL.index(PAD),
        suppress_tokens=[SPECIAL.index(IMAGE)],  # which a trained model never says
    )
    return InternVLBackbone(model, processor, name=f"tiny-internvl-{seed}")


def tiny_processor():
    """The stock processor with a tokenizer of one token per word."""
    ids = {word: index for index, word in enumerate((*SPECIAL, *"?:.,\n", *WORDS.split()))}
    words = Tokenizer(WordLevel(ids, unk_token=UNK))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNK,
        extra_special_tokens={
            "turn_token": START,
            "start_image_token": IMAGE_START,
            "end_image_token": IMAGE_END,
            "context_image_token": IMAGE,
            "video_token": VIDEO,
        },
    )
    return InternVLProcessor(
        GotOcr2ImageProcessor(size={"height": SIDE, "width": SIDE}),
        tokenizer,
        InternVLVideoProcessor(),
        image_seq_length=GRID * GRID,
        chat_template=CHAT_TEMPLATE,
    )
