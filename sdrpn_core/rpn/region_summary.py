"""What the RPN found for each question, as a vector: for gates that read it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sdrpn_core.rpn.scores import RoIScores

_HALF = 0.5


def region_summaries(
    visual: torch.Tensor, scores: RoIScores, rows: Sequence[int], n_rows: int
) -> torch.Tensor:
    """Summarize the map of each question, and what the trunk knows of the tokens that it names.

    Args:
        visual: ``(images, n, hidden)``, the trunk's states of the visual tokens.
        scores: of the same images.
        rows: per image the question that it belongs to.
        n_rows: questions.

    Returns:
        ``(n_rows, hidden + 3)`` float32: the mean state of the visual tokens, weighted by the
        square of the map; the share of cells above half of the map's maximum; the share that as
        many equal cells would have; and the maximum. Means over a question's images, zeros where it
        has none.
    """
    weights = scores.scores if scores.is_distribution else scores.scores.sigmoid()
    weights = weights.masked_fill(~scores.valid, 0.0).float()
    n_cells = scores.valid.sum(dim=1)
    squares = weights.square()
    total = squares.sum(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    states = torch.einsum("in,ind->id", squares / total[:, None], visual.float())
    highest = weights.amax(dim=1)
    above = (weights > _HALF * highest[:, None]).sum(dim=1) / n_cells
    alike = weights.sum(dim=1).square() / total / n_cells
    found = torch.cat([states, torch.stack([above, alike, highest], dim=1)], dim=1)
    index = torch.tensor(list(rows), device=found.device)
    sums = found.new_zeros(n_rows, found.shape[1]).index_add(0, index, found)
    counts = found.new_zeros(n_rows).index_add(0, index, torch.ones_like(highest))
    return sums / counts.clamp_min(1)[:, None]
