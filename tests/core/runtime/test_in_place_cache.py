"""Caches that write in place, beside the stock ones that concatenate."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache, LlamaConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from sdrpn_core.runtime import in_place_cache
from sdrpn_core.runtime.generation import generate, prompt_block
from sdrpn_core.runtime.in_place_cache import (
    InPlaceLayer,
    InPlaceSlidingLayer,
    cache_for,
    full_cache,
)
from sdrpn_core.runtime.kv_cache import CACHE_NAME
from tests.scripted import GRID, QUESTIONS
from tests.tiny import tiny_llava
from tests.tiny_gemma3 import tiny_gemma3
from tests.tiny_qwen2_5_vl import tiny_qwen2_5_vl

HEADS, KEY_WIDTH, VALUE_WIDTH = 2, 3, 5
WINDOW = 6

steps = st.lists(
    st.one_of(
        st.tuples(st.just("update"), st.integers(1, 9)),
        st.tuples(st.just("crop"), st.integers(0, 4)),
        st.tuples(st.just("select"), st.integers(0, 1)),
        st.tuples(st.just("repeat"), st.integers(1, 2)),
        st.tuples(st.just("reset"), st.just(0)),
    ),
    max_size=12,
)


def states(batch, n):
    return torch.randn(batch, HEADS, n, KEY_WIDTH), torch.randn(batch, HEADS, n, VALUE_WIDTH)


def do_alike(layers, script):
    """Take a stock layer and ours through the same steps; both must be in the same state."""
    stock, ours = layers
    batch = 2
    for name, n in script:
        length = stock.get_seq_length()
        if name == "update":
            assert ours.get_mask_sizes(n) == stock.get_mask_sizes(n)
            new = states(batch, n)
            for one, other in zip(ours.update(*new), stock.update(*new), strict=True):
                assert torch.equal(one, other)
        elif name == "crop" and 0 < n < length and (not stock.is_sliding or length < WINDOW):
            stock.crop(-n), ours.crop(-n)
        elif name == "select" and length:
            rows = torch.tensor([min(n, batch - 1)])
            stock.batch_select_indices(rows), ours.batch_select_indices(rows)
            batch = 1
        elif name == "repeat" and length:
            stock.batch_repeat_interleave(n), ours.batch_repeat_interleave(n)
            batch *= n
        elif name == "reset":
            stock.reset(), ours.reset()
        assert ours.get_seq_length() == stock.get_seq_length()
        if stock.is_initialized:
            assert torch.equal(ours.keys, stock.keys)
            assert torch.equal(ours.values, stock.values)


@given(steps, st.integers(0, 40))
def test_full_attention_keeps_what_the_stock_layer_keeps(script, n_columns):
    do_alike((DynamicLayer(), InPlaceLayer(n_columns)), script)


@given(steps, st.integers(0, 40))
def test_a_window_keeps_what_the_stock_layer_keeps(script, n_columns):
    layers = (
        DynamicSlidingWindowLayer(sliding_window=WINDOW),
        InPlaceSlidingLayer(WINDOW, n_columns),
    )
    do_alike(layers, script)


@given(st.integers(1, 12), st.integers(0, 40))
def test_a_window_moves_on_token_by_token(n_prompt, n_columns):
    layers = (
        DynamicSlidingWindowLayer(sliding_window=WINDOW),
        InPlaceSlidingLayer(WINDOW, n_columns),
    )
    do_alike(layers, [("update", n_prompt), *[("update", 1)] * (4 * WINDOW)])


def test_a_window_that_records_its_past_can_be_cropped():
    stock, ours = layers = (
        DynamicSlidingWindowLayer(sliding_window=WINDOW),
        InPlaceSlidingLayer(WINDOW, 20),
    )
    do_alike(layers, [("update", 8), ("update", 1)])
    for layer in layers:
        layer.activate_past_recording()
    do_alike(layers, [("update", 1), ("update", 1)])
    stock.crop(-1), ours.crop(-1)
    do_alike(layers, [("update", 1)])


def memory_of(layer):
    return layer.keys.untyped_storage().data_ptr(), layer.values.untyped_storage().data_ptr()


def test_nothing_is_copied_as_long_as_there_is_room():
    layer = InPlaceLayer(12)
    layer.update(*states(2, 5))
    first, held = memory_of(layer), (layer.keys, layer.values)
    before = [part.clone() for part in held]
    for _ in range(7):
        layer.update(*states(2, 1))
        assert memory_of(layer) == first
    # What was taken from it stays what it was.
    assert all(torch.equal(one, other) for one, other in zip(held, before, strict=True))
    layer.update(*states(2, 1))
    assert memory_of(layer) != first


def test_without_a_plan_memory_is_replaced_rarely():
    layer = InPlaceLayer()
    layer.update(*states(1, 100))
    places = set()
    for _ in range(200):
        layer.update(*states(1, 1))
        places.add(layer.keys.untyped_storage().data_ptr())
    assert len(places) < 12


def test_an_exact_plan_takes_no_more_memory_than_its_columns():
    layer = InPlaceLayer(7)
    layer.update(*states(2, 7))
    assert layer.keys.untyped_storage().nbytes() == layer.keys.nbytes


def test_a_window_takes_little_more_memory_than_its_columns():
    layer = InPlaceSlidingLayer(100, n_columns=4000)
    layer.update(*states(1, 1000))
    for _ in range(300):
        layer.update(*states(1, 1))
    assert layer.keys.untyped_storage().nbytes() < 1.5 * layer.keys.nbytes


def test_tensors_of_somebody_else_are_only_read():
    """Even if there is room behind them: a second pass may be writing there."""
    whole = states(1, 9)
    before = [part.clone() for part in whole]
    layer = InPlaceLayer(9)
    layer.hold(*(part[..., :4, :] for part in whole))
    assert layer.keys.data_ptr() == whole[0].data_ptr()
    new = states(1, 2)
    keys, values = layer.update(*new)
    assert torch.equal(keys, torch.cat([whole[0][..., :4, :], new[0]], dim=-2))
    assert torch.equal(values, torch.cat([whole[1][..., :4, :], new[1]], dim=-2))
    assert all(torch.equal(one, other) for one, other in zip(whole, before, strict=True))


@pytest.mark.parametrize(
    "part",
    [np.s_[:1], np.s_[1:], np.s_[:, :1], np.s_[:, :, 2:], np.s_[:, :, :3], np.s_[:, :, ::2]],
    ids=["first row", "last row", "first head", "last columns", "first columns", "every other"],
)
def test_views_of_what_is_held_go_on_as_themselves(part):
    """Whichever rows, heads or columns a layer's tensors have been replaced by."""
    layer = InPlaceLayer(12)
    layer.update(*states(2, 5))
    layer.keys, layer.values = layer.keys[part], layer.values[part]
    held = layer.keys.clone(), layer.values.clone()
    new = [torch.randn(*one.shape[:2], 2, one.shape[-1]) for one in held]
    for found, old, added in zip(layer.update(*new), held, new, strict=True):
        assert torch.equal(found, torch.cat([old, added], dim=-2))


def test_memory_of_another_layer_is_only_read():
    """Though it is of the same shape, and has room."""
    layer, other = InPlaceLayer(12), InPlaceLayer(12)
    for one in (layer, other):
        one.update(*states(2, 5))
    layer.keys, layer.values = held = other.keys, other.values
    new = states(2, 2)
    for found, old, added in zip(layer.update(*new), held, new, strict=True):
        assert torch.equal(found, torch.cat([old, added], dim=-2))
        assert found.untyped_storage().data_ptr() != old.untyped_storage().data_ptr()


def test_layers_follow_the_configuration_and_unknown_ones_stay_stock(monkeypatch):
    config = LlamaConfig(num_hidden_layers=2)
    assert [type(layer) for layer in cache_for(config, 8).layers] == [InPlaceLayer] * 2
    sliding = tiny_gemma3().text_config
    kinds = [InPlaceSlidingLayer, InPlaceLayer, InPlaceSlidingLayer] * 2
    assert [type(layer) for layer in cache_for(sliding, 8).layers] == kinds

    class Compressed(DynamicLayer):
        """A kind that keeps more than keys and values."""

    mixed = SimpleNamespace(layers=[Compressed(), DynamicLayer()])
    monkeypatch.setattr(in_place_cache, "DynamicCache", lambda config: mixed)
    assert [type(layer) for layer in cache_for(config, 8).layers] == [Compressed, InPlaceLayer]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", [tiny_llava, tiny_qwen2_5_vl, tiny_gemma3])
@torch.no_grad()
def test_hidden_states_are_bit_for_bit_those_of_the_stock_cache(family, attention):
    """Padded batches included, well beyond the window."""
    backbone = family(attn_implementation=attention)
    prompts = backbone.encode([QUESTIONS["ok"], QUESTIONS["two crops"], QUESTIONS["both"]])
    block = prompt_block(backbone, prompts)
    last = replace(block, embeds=block.embeds[:, -1:], mask=block.mask[:, -1:], ids=None)

    def run(cache):
        hidden = [backbone.decoder(**block.model_inputs(cache)).last_hidden_state]
        before = block
        for step in range(1, 9):
            new = replace(last, positions=block.positions[..., -1:] + step)
            output = backbone.decoder(**new.model_inputs(cache, prefix=before))
            hidden.append(output.last_hidden_state)
            before = replace(before, mask=torch.cat([before.mask, new.mask], dim=1))
        return torch.cat(hidden, dim=1)

    config, length = backbone.text_config, block.length
    # One grows on the way, the other has room for all.
    assert torch.equal(run(cache_for(config, length + 4)), run(DynamicCache(config=config)))
    assert torch.equal(run(full_cache(backbone.n_layers, length + 40)), run(DynamicCache()))


def test_generate_makes_its_cache_in_place():
    backbone = tiny_llava(grid=GRID)
    block = prompt_block(backbone, backbone.encode([QUESTIONS["ok"]]))
    seen = []
    hook = backbone.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs[CACHE_NAME]), with_kwargs=True
    )
    try:
        generate(backbone, block, max_new_tokens=5, min_new_tokens=5)
    finally:
        hook.remove()
    (cache,) = set(seen)
    assert {type(layer) for layer in cache.layers} == {InPlaceLayer}
    planned = block.length + 5
    assert {layer.keys.untyped_storage().nbytes() for layer in cache.layers} == {
        planned * cache.layers[0].keys[:, :, :1].nbytes
    }
