"""Heads on made-up hidden states: grids of any shape, and what a convolution can learn."""

from __future__ import annotations

import pytest
import torch

from sdrpn_core.errors import ConfigError
from sdrpn_core.rpn.head import HeadInputs, masked_softmax
from sdrpn_core.rpn.model import RPN
from tests.tiny import tiny_llava

WIDTH = 64
GRIDS = ((2, 3), (4, 4), (1, 5), (4, 4))


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava()


def head_of(backbone, name, **options):
    torch.manual_seed(0)
    rpn = RPN.from_backbone(backbone, branch=1, n_layers=2, head=name, head_options=options)
    if name == "conv":
        torch.nn.init.normal_(rpn.head.score.weight)
    return rpn.head


def inputs_for(backbone, grids, seed=0) -> HeadInputs:
    generator = torch.Generator().manual_seed(seed)
    counts = [h * w for h, w in grids]
    visual = torch.randn(len(grids), max(counts), WIDTH, generator=generator)
    valid = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    visual = torch.where(valid[..., None], visual, 1e3)  # padding that would be noticed
    places = torch.arange(3, 3 + max(counts)).expand(len(grids), -1)
    rotary = backbone.decoder.rotary_emb(visual, places)
    query_rotary = backbone.decoder.rotary_emb(visual, torch.full((len(grids), 1), 60))
    query = torch.randn(len(grids), WIDTH, generator=generator)
    return HeadInputs(visual, valid, query, grids, rotary, query_rotary)


def row(inputs: HeadInputs, index: int) -> HeadInputs:
    """One image alone, without padding."""
    n = inputs.grids[index][0] * inputs.grids[index][1]

    def cut(rotary, n=None):
        return tuple(part[index : index + 1, :n] for part in rotary)

    return HeadInputs(
        inputs.visual[index : index + 1, :n],
        inputs.valid[index : index + 1, :n],
        inputs.query[index : index + 1],
        inputs.grids[index : index + 1],
        cut(inputs.visual_rotary, n),
        cut(inputs.query_rotary),
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("qk", {}),
        ("qk", {"rope": False, "multi_head": False}),
        ("qk", {"source": "hidden_states"}),
        ("conv", {}),
        ("conv", {"channels": 8, "depth": 1}),
    ],
)
@pytest.mark.parametrize("distribution", [False, True])
@torch.no_grad()
def test_ragged_grids_equal_one_by_one(backbone, name, options, distribution):
    head = head_of(backbone, name, **options)
    inputs = inputs_for(backbone, GRIDS)
    scores = head(inputs, distribution)
    assert scores.shape == (4, 16)
    assert scores.dtype == torch.float32
    for index, (h, w) in enumerate(GRIDS):
        alone = head(row(inputs, index), distribution)
        torch.testing.assert_close(scores[index, : h * w], alone[0], rtol=1e-4, atol=1e-4)
    if distribution:
        torch.testing.assert_close((scores * inputs.valid).sum(1), torch.ones(4))


@torch.no_grad()
def test_rotary_embeddings_matter_only_where_they_are_asked_for(backbone):
    inputs = inputs_for(backbone, GRIDS[1:2])
    moved = HeadInputs(
        inputs.visual,
        inputs.valid,
        inputs.query,
        inputs.grids,
        tuple(part.flip(1) for part in inputs.visual_rotary),
        inputs.query_rotary,
    )
    with_rope, without = (head_of(backbone, "qk", rope=rope) for rope in (True, False))
    assert not torch.allclose(with_rope(inputs, False), with_rope(moved, False), atol=1e-2)
    assert torch.equal(without(inputs, False), without(moved, False))


def test_a_convolution_learns_what_a_query_asks_of_neighbors(backbone):
    """Cells to the left of a marked one, if the query says so: no product of two tokens knows."""
    generator = torch.Generator().manual_seed(1)
    n, (h, w) = 48, (3, 4)
    marked = torch.rand(n, h, w, generator=generator) < 0.3
    mark, ask = torch.randn(2, WIDTH, generator=generator)
    visual = torch.randn(n, h, w, WIDTH, generator=generator) * 0.1 + marked[..., None] * mark
    asked = torch.arange(n) % 2 == 0
    query = torch.where(asked[:, None], ask, -ask)
    labels = torch.zeros(n, h, w)
    labels[:, :, :-1] = (marked[:, :, 1:] & asked[:, None, None]).float()
    inputs = HeadInputs(
        visual.flatten(1, 2), torch.ones(n, h * w, dtype=torch.bool), query, [(h, w)] * n
    )
    head = head_of(backbone, "conv", channels=16)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            head(inputs, False), labels.flatten(1)
        )
        loss.backward()
        optimizer.step()
    right = (head(inputs, False) > 0) == labels.flatten(1).bool()
    assert right.float().mean() > 0.98
    assert labels.mean() > 0.08  # "nothing" everywhere would not be enough


def test_softmax_leaves_padding_out():
    valid = torch.tensor([[True, True, False]])
    weights = masked_softmax(torch.tensor([[0.0, 0.0, 99.0]]), valid)
    torch.testing.assert_close(weights, torch.tensor([[0.5, 0.5, 0.0]]))


@pytest.mark.parametrize("options", [{"channels": 0}, {"depth": 0}])
def test_a_convolution_needs_channels_and_depth(backbone, options):
    with pytest.raises(ConfigError, match="must be 1 or more"):
        head_of(backbone, "conv", **options)
