"""Batches of similar lengths: nothing lost, nothing twice, and never more padding than allowed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdrpn_core.runtime.buckets import DEFAULT_MAX_PADDING, buckets, nearest, padding

pairs = st.lists(st.tuples(st.integers(0, 700), st.integers(1, 700)), min_size=1, max_size=20)
shares = st.floats(0, 0.9)


@given(pairs, st.integers(1, 9), shares)
def test_all_sequences_in_batches_within_the_limits(lengths, size, share):
    batches = buckets(lengths, size, share)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= size
        assert batch == sorted(batch)
        assert len(batch) == 1 or padding([lengths[index] for index in batch]) <= share


@given(pairs, st.integers(1, 9), shares, st.data())
def test_a_batch_around_a_sequence_holds_it(lengths, size, share, data):
    first = data.draw(st.integers(0, len(lengths) - 1))
    batch = nearest(lengths, size, share, first=first)
    assert first in batch
    assert len(set(batch)) == len(batch) <= size


def test_padding_counts_block_by_block():
    assert padding([(10, 1), (1, 10)]) == 1 - 22 / 40
    assert padding([(5, 5)]) == 0
    assert padding([(0, 0)]) == 0


def test_equal_lengths_stay_together():
    assert buckets([(4, 4)] * 5, 5, 0.0) == [[0, 1, 2, 3, 4]]
    assert buckets([(4, 4)] * 5, 2, 0.0) == [[0, 1], [2, 3], [4]]


def test_cropped_and_plain_prompts_part():
    """A prompt with a crop of 576 tokens beside seven without."""
    lengths = [(600, 30)] * 7 + [(600, 606)]
    assert buckets(lengths, 8, DEFAULT_MAX_PADDING) == [[7], [0, 1, 2, 3, 4, 5, 6]]


@pytest.mark.parametrize("first", [0, 3])
def test_the_nearest_come_first(first):
    lengths = [(10, 10), (10, 100), (10, 11), (10, 90)]
    assert nearest(lengths, 2, 0.9, first=first) == {0: [0, 2], 3: [1, 3]}[first]
