"""Caches taken apart into sequences, and put together again."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from sdrpn_core.runtime.kv_cache import join_cache, left_padded, n_bytes, split_cache, unpadded

HEADS, WIDTH, N_LAYERS = 2, 3, 2
STARTS = (2, 0, 4)
LENGTH = 5


@pytest.fixture
def cache():
    made = DynamicCache()
    for layer in range(N_LAYERS):
        made.update(*torch.randn(2, len(STARTS), HEADS, LENGTH, WIDTH), layer)
    return made


def tensors(kept):
    return [part for pair in kept.values() for part in pair]


def test_rows_are_those_of_the_batch_without_padding(cache):
    for row, (start, kept) in enumerate(zip(STARTS, split_cache(cache, STARTS), strict=True)):
        assert list(kept) == list(range(N_LAYERS))
        for layer, (keys, values) in kept.items():
            assert torch.equal(keys, cache.layers[layer].keys[row, :, start:])
            assert torch.equal(values, cache.layers[layer].values[row, :, start:])


def test_a_row_holds_no_memory_but_its_own(cache):
    """A view would hold the batch for as long as any of its rows is kept."""
    for start, kept in zip(STARTS, split_cache(cache, STARTS), strict=True):
        held = [part.untyped_storage().nbytes() for part in tensors(kept)]
        expected = HEADS * (LENGTH - start) * WIDTH * 4  # float32
        assert held == [expected] * 2 * N_LAYERS
        assert n_bytes(kept) == sum(held)


def test_the_only_row_of_a_batch_is_copied_only_if_it_is_padded():
    batch = torch.randn(1, HEADS, LENGTH, WIDTH)
    assert unpadded(batch, 0, 0).data_ptr() == batch.data_ptr()
    padded = unpadded(batch, 0, 1)
    assert padded.untyped_storage().nbytes() == padded.nbytes < batch.nbytes


def test_joined_rows_are_left_padded_and_stay_as_they_are(cache):
    rows = split_cache(cache, STARTS)
    before = [part.clone() for row in rows for part in tensors(row)]
    joined = join_cache(rows)
    for layer, found in zip(cache.layers, joined.layers, strict=True):
        for row, start in enumerate(STARTS):
            assert torch.equal(found.keys[row, :, start:], layer.keys[row, :, start:])
            assert not found.keys[row, :, :start].any()
    joined.update(*torch.randn(2, len(STARTS), HEADS, 1, WIDTH), 0)
    assert joined.get_seq_length() == LENGTH + 1
    after = [part for row in rows for part in tensors(row)]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_the_first_tokens_and_layers_alone(cache):
    rows = split_cache(cache, STARTS)
    joined = join_cache(rows, lengths=[2, 4, 0], n_layers=1)
    assert len(joined.layers) == 1
    keys = joined.layers[0].keys
    assert keys.shape == (len(STARTS), HEADS, 4, WIDTH)
    assert torch.equal(keys[0, :, 2:], rows[0][0][0][:, :2])
    assert torch.equal(keys[1], rows[1][0][0][:, :4])
    assert not keys[2].any()


def test_a_row_that_occurs_several_times_is_held_once(cache):
    (row, *_) = split_cache(cache, STARTS)
    keys = row[0][0]
    assert left_padded([keys] * 3).untyped_storage().nbytes() == keys.nbytes
