"""What the embedded decoders have in common."""

from __future__ import annotations

from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

from sdrpn_glyphs.families.base import HEADS, LAYERS, MAX_NEW_TOKENS, MLP_WIDTH, ROPE_THETA, WIDTH
from sdrpn_glyphs.tokenizer import MAX_POSITIONS


def llama_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Llama with 6 layers of width 128."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=MLP_WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        max_position_embeddings=MAX_POSITIONS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )


def greedy(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    """Short greedy answers."""
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
