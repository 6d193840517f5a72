"""Blocks: rows padded on the left, side by side."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from sdrpn_core.runtime.block import join, left_pad

lengths = st.lists(st.integers(1, 6), min_size=1, max_size=4)


def rows_of(counts: list[int], axes: int = 0):
    embeds = [torch.randn(n, 3) for n in counts]
    positions = [torch.arange(10, 10 + n).expand(*([axes] if axes else []), n) for n in counts]
    return embeds, positions


@given(lengths, st.sampled_from([0, 3]))
def test_rows_end_at_the_last_column(counts, axes):
    embeds, positions = rows_of(counts, axes)
    block = left_pad(embeds, positions)
    assert block.length == max(counts)
    assert block.mask.sum(1).tolist() == counts
    assert block.positions.shape == (*([axes] if axes else []), len(counts), max(counts))
    for row, n in enumerate(counts):
        start = max(counts) - n
        assert int(block.starts[row]) == start
        assert block.mask[row].tolist() == [0] * start + [1] * n
        assert torch.equal(block.embeds[row, start:], embeds[row])
        assert torch.equal(block.positions[..., row, start:], positions[row])
        assert not block.embeds[row, :start].any()


@given(lengths, st.data())
def test_joining_keeps_every_block_and_its_holes(counts, data):
    others = data.draw(st.lists(st.integers(1, 6), min_size=len(counts), max_size=len(counts)))
    first, second = left_pad(*rows_of(counts)), left_pad(*rows_of(others))
    whole = join(first, second)
    assert whole.length == first.length + second.length
    assert whole.mask.sum(1).tolist() == [a + b for a, b in zip(counts, others, strict=True)]
    assert torch.equal(whole.embeds[:, first.length :], second.embeds)
    assert torch.equal(whole.positions[:, : first.length], first.positions)
