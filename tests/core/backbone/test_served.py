"""Models whose answers would not be the stock model's are refused at load, by name and reason."""

from __future__ import annotations

import pytest
from transformers import Florence2Config, Llama4Config, MllamaConfig, Qwen3_5Config

from sdrpn_core.backbone.loading import load_backbone, load_outline
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
