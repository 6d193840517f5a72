"""Models whose answers would not be the stock model's are refused at load, by name and reason."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    Florence2Config,
    Gemma3Config,
    Gemma4Config,
    Llama4Config,
    MllamaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    Qwen3_5Config,
)

from sdrpn_core.backbone.loading import load_backbone, load_outline
from sdrpn_core.backbone.served import check_served
from sdrpn_core.errors import ConfigError

REASONS = {
    MllamaConfig: "'mllama' .*cross-attention",
    Florence2Config: "'florence2' .*encoder-decoder",
    Qwen3_5Config: "'qwen3_5' .*linear_attention",
    Llama4Config: "'llama4' .*chunked_attention",
}


@pytest.mark.parametrize("load", [load_backbone, load_outline])
@pytest.mark.parametrize("config", REASONS, ids=lambda config: config.model_type)
def test_a_family_that_cannot_be_served_is_refused_by_its_config(config, load, tmp_path):
    config().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=f"{REASONS[config]}") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


IMAGE, N_IMAGE_TOKENS = 4, 4


def tiny_paligemma():
    """The stock class with random weights: 2 decoder layers of width 32, images of 4 tokens."""
    config = PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 16,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "gemma",
            "vocab_size": 16,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
        },
        projection_dim=32,
        image_token_id=IMAGE,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = PaliGemmaForConditionalGeneration(config)
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.2)
    return model.eval()


@torch.no_grad()
def test_a_decoder_whose_text_attends_both_ways_is_refused(tmp_path):
    """As its prompt is read at once, its image's states are those of one question alone."""
    model = tiny_paligemma()

    def image_states(word):
        ids = torch.tensor([[IMAGE] * N_IMAGE_TOKENS + [5, word]])
        return model(
            input_ids=ids,
            pixel_values=torch.ones(1, 3, 32, 32),
            token_type_ids=torch.zeros_like(ids),
            output_hidden_states=True,
        ).hidden_states[-1][:, :N_IMAGE_TOKENS]

    assert not torch.allclose(image_states(6), image_states(7), atol=1e-2)
    model.save_pretrained(tmp_path)
    for load in (load_backbone, load_outline, lambda _: load_backbone(model)):
        with pytest.raises(
            ConfigError, match=r"'paligemma' cannot be served: its text attends both ways, so what"
        ) as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [(Gemma3Config, False), (Gemma3Config, None), (Gemma4Config, None), (Gemma4Config, "vision")],
)
def test_images_alone_may_attend_both_ways(kind, value):
    check_served(kind(text_config={"use_bidirectional_attention": value}))


@pytest.mark.parametrize(("kind", "value"), [(Gemma3Config, True), (Gemma4Config, "all")])
def test_text_may_not(kind, value):
    with pytest.raises(ConfigError, match="text attends both ways"):
        check_served(kind(text_config={"use_bidirectional_attention": value}))
