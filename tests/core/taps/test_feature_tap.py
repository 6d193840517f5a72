"""The tap reads what the decoder computes, stops there, and leaves nothing behind."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import DynamicCache

from sdrpn_core.backbone.question import Question
from sdrpn_core.errors import ConfigError
from sdrpn_core.runtime.generation import prompt_block
from sdrpn_core.runtime.kv_cache import cache_argument
from sdrpn_core.taps.attention_tap import AttentionTap
from sdrpn_core.taps.feature_tap import FeatureTap
from tests.tiny import tiny_image, tiny_llava

N_LAYERS = 6


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def backbone(request):
    return tiny_llava(attn_implementation=request.param)


@pytest.fixture(scope="module")
def inputs(backbone):
    """Three prompts of different length and number of images, left-padded."""
    questions = [
        Question("what color is the square ?", (tiny_image(0),)),
        Question("how many ?", (tiny_image(1), tiny_image(2, (30, 80)))),
        Question("which letter is on the left of the small circle ?"),
    ]
    block = prompt_block(backbone, backbone.encode(questions))
    assert block.mask.sum(1).unique().numel() == 3
    return {
        "inputs_embeds": block.embeds,
        "attention_mask": block.mask,
        "position_ids": block.positions,
        "use_cache": False,
    }


def layer_calls(decoder: nn.Module, run) -> Counter[int]:
    calls: Counter[int] = Counter()
    handles = [
        layer.register_forward_hook(lambda *_, i=i: calls.update([i]))
        for i, layer in enumerate(decoder.layers)
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return calls


def n_hooks(decoder: nn.Module) -> int:
    return sum(
        len(module._forward_pre_hooks) + len(module._forward_hooks) for module in decoder.modules()
    )


@pytest.mark.parametrize("layer", range(N_LAYERS))
@pytest.mark.parametrize("stop", [True, False])
@torch.no_grad()
def test_features_are_the_hidden_states_that_enter_the_layer(backbone, inputs, layer, stop):
    expected = backbone.decoder(**inputs, output_hidden_states=True).hidden_states[layer]
    with FeatureTap(backbone.decoder, layer, stop=stop) as tap:
        features = tap.run(**inputs)
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(features.hidden[real], expected[real], rtol=0, atol=0)


@pytest.mark.parametrize("layer", range(N_LAYERS))
@torch.no_grad()
def test_stopping_computes_no_layer_from_the_branch_on(backbone, inputs, layer):
    with FeatureTap(backbone.decoder, layer) as tap:
        calls = layer_calls(backbone.decoder, lambda: tap.run(**inputs))
    assert calls == Counter(range(layer))


@torch.no_grad()
def test_not_stopping_computes_every_layer(backbone, inputs):
    with FeatureTap(backbone.decoder, 2, stop=False) as tap:
        calls = layer_calls(backbone.decoder, lambda: tap.run(**inputs))
    assert calls == Counter(range(N_LAYERS))


@torch.no_grad()
def test_a_copy_of_the_layer_runs_on_the_features_as_the_decoder_does(backbone, inputs):
    hidden = backbone.decoder(**inputs, output_hidden_states=True).hidden_states
    with FeatureTap(backbone.decoder, 3) as tap:
        features = tap.run(**inputs)
    output = backbone.layers[3](features.hidden, **features.layer_kwargs)
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(output[real], hidden[4][real], rtol=0, atol=0)


@torch.no_grad()
def test_features_do_not_hold_the_cache_of_the_pass(backbone, inputs):
    cache = DynamicCache()
    with FeatureTap(backbone.decoder, 3, stop=False) as tap:
        features = tap.run(**inputs, **cache_argument(cache))
    assert cache.get_seq_length() == features.hidden.shape[1]
    held = [name for name, value in features.layer_kwargs.items() if value is cache]
    assert held == []


@torch.no_grad()
def test_the_model_is_unchanged_afterwards(backbone, inputs):
    before = backbone.decoder(**inputs).last_hidden_state
    hooks = n_hooks(backbone.decoder)
    with FeatureTap(backbone.decoder, 2) as tap:
        tap.run(**inputs)
        tap.run(**inputs)
        assert n_hooks(backbone.decoder) == hooks + 1
    assert n_hooks(backbone.decoder) == hooks
    after = backbone.decoder(**inputs).last_hidden_state
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_the_hook_goes_when_the_model_raises(backbone):
    hooks = n_hooks(backbone.decoder)
    with pytest.raises(ValueError, match="input_ids"), FeatureTap(backbone.decoder, 2) as tap:
        tap.run(inputs_embeds=None)
    assert n_hooks(backbone.decoder) == hooks


@torch.no_grad()
def test_nested_taps_that_do_not_stop_see_their_own_layers(backbone, inputs):
    hidden = backbone.decoder(**inputs, output_hidden_states=True).hidden_states
    with FeatureTap(backbone.decoder, 1, stop=False), FeatureTap(backbone.decoder, 4) as tap:
        features = tap.run(**inputs)
    torch.testing.assert_close(features.hidden[:, -1], hidden[4][:, -1], rtol=0, atol=0)


@torch.no_grad()
def test_a_tap_beyond_another_one_that_stops_says_so(backbone, inputs):
    too_deep = FeatureTap(backbone.decoder, 4)
    with FeatureTap(backbone.decoder, 1), too_deep, pytest.raises(RuntimeError, match="layer 4"):
        too_deep.run(**inputs)


class SkippingDecoder(nn.Module):
    """Three layers of two kinds; the first one is skipped on request."""

    def __init__(self) -> None:
        super().__init__()
        kinds = ["sliding_attention", "full_attention", "sliding_attention"]
        self.config = SimpleNamespace(layer_types=kinds)
        self.layers = nn.ModuleList(nn.Identity() for _ in kinds)

    def forward(self, hidden: torch.Tensor, skip: bool = False) -> None:
        for layer in self.layers[1 if skip else 0 :]:
            layer(hidden)


def test_a_run_knows_nothing_of_the_run_before():
    """Neither masks nor rotary embeddings of another batch pass for those of this one."""
    with FeatureTap(SkippingDecoder(), 1) as tap:
        assert tap.run(hidden=torch.zeros(1)).following == ({},)
        assert tap.run(hidden=torch.zeros(1), skip=True).following == (None,)


@pytest.mark.parametrize("layer", [-1, N_LAYERS])
def test_a_layer_out_of_range_is_a_config_error(backbone, layer):
    with pytest.raises(ConfigError, match="layers 0 to 5"):
        FeatureTap(backbone.decoder, layer)


@pytest.mark.parametrize("layer", ["2", 2.0, None, True])
def test_a_layer_that_is_no_whole_number_is_a_config_error(backbone, layer):
    with pytest.raises(ConfigError, match=f"must be a whole number, not {layer!r}"):
        FeatureTap(backbone.decoder, layer)


@pytest.mark.parametrize("tap", [FeatureTap, lambda decoder, _: AttentionTap(decoder, {0: None})])
def test_what_is_no_decoder_is_a_config_error(backbone, tap):
    with pytest.raises(ConfigError, match=r"a module, not LlavaBackbone: give backbone\.decoder$"):
        tap(backbone, 2)
    with pytest.raises(ConfigError, match=r"no list of layers to tap: give backbone\.decoder$"):
        tap(backbone.model, 2)


def test_a_decoder_without_layers_is_a_config_error():
    with pytest.raises(ConfigError, match="Linear has no list of layers"):
        FeatureTap(nn.Linear(2, 2), 0)


def test_running_outside_the_block_is_refused(backbone, inputs):
    tap = FeatureTap(backbone.decoder, 2)
    with pytest.raises(RuntimeError, match="context manager"):
        tap.run(**inputs)


@torch.no_grad()
def test_what_others_ran_is_taken_once_and_tapped_no_further(backbone, inputs):
    before = n_hooks(backbone.decoder)
    expected = backbone.decoder(**inputs, output_hidden_states=True).hidden_states[2]
    with FeatureTap(backbone.decoder, 2, stop=False) as tap:
        with pytest.raises(RuntimeError, match="no pass has reached layer 2"):
            tap.take()
        backbone.decoder(**inputs)
        backbone.decoder(**{**inputs, "inputs_embeds": inputs["inputs_embeds"] + 1})
        assert torch.equal(tap.take().hidden, expected)
        assert n_hooks(backbone.decoder) == before
        with pytest.raises(RuntimeError, match="no pass has reached layer 2"):
            tap.take()
