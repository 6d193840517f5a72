"""Blocks: rows padded on the left, side by side."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

from sdrpn_core.backbone.prompt import ImageSegment, Prompt, TextSegment
from sdrpn_core.grid.geometry import Resized
from sdrpn_core.runtime.block import ImagePlace, image_places, join, left_pad
from sdrpn_core.runtime.kv_cache import CACHE_NAME

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


def test_inputs_of_a_pass_behind_a_cache_see_the_tokens_in_it():
    prefix, rest = left_pad(*rows_of([2, 4])), left_pad(*rows_of([3, 1]))
    alone = rest.model_inputs()
    assert alone.pop("inputs_embeds") is rest.embeds
    assert alone.pop("attention_mask") is rest.mask
    assert alone.pop("position_ids") is rest.positions
    assert alone == {"use_cache": False, CACHE_NAME: None}
    cache = DynamicCache()
    cached = rest.model_inputs(cache, prefix=prefix)
    assert cached["attention_mask"].tolist() == [[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 1]]
    assert cached["inputs_embeds"] is rest.embeds
    assert (cached["use_cache"], cached[CACHE_NAME]) == (True, cache)


def image_of(rows, columns):
    geometry = Resized((28 * columns, 28 * rows), (rows, columns), cell=28)
    return ImageSegment(torch.randn(rows * columns, 3), (rows, columns), geometry)


def test_places_of_images_in_whole_prompts_and_in_prefixes():
    """Counted by hand: the query is the last token before a response."""
    one = Prompt((TextSegment((1, 2)), image_of(1, 2), TextSegment((3, 4, 5)))).with_response((6,))
    two = Prompt((image_of(2, 2), TextSegment((7,)), image_of(1, 3), TextSegment((8, 9))))
    whole = left_pad(*rows_of([len(one), len(two)]))
    assert image_places([one, two], whole) == [
        ImagePlace(0, 4, (1, 2), query=8),
        ImagePlace(1, 0, (2, 2), query=9),
        ImagePlace(1, 5, (1, 3), query=9),
    ]
    prefixes = left_pad(*rows_of([one.prefix_length, two.prefix_length]))
    # Columns of the prefixes, then four more: what follows the first prompt's is the longer.
    places = image_places(
        [one, two], prefixes, n_following=4, wants_question=lambda _, g: g[0] == 1
    )
    assert places == [
        ImagePlace(0, 6, (1, 2), query=10, question=8),
        ImagePlace(1, 0, (2, 2), query=11),
        ImagePlace(1, 5, (1, 3), query=11, question=10),
    ]
