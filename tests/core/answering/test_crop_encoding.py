"""Tokens of crops that are resized to so many per cell."""

from __future__ import annotations

import torch

from sdrpn_core.answering.crop_encoding import _segment
from sdrpn_core.crops.policy import Crop


def test_half_as_many_tokens_are_the_means_of_their_neighbors():
    """Bilinear with corners that are not aligned, as published."""
    features = torch.arange(8.0).view(2, 4)  # row by row
    tokens = torch.stack([features.flatten(), -features.flatten()], dim=1)
    found = _segment(Crop((0, 0, 40, 20), (0, 0, 2, 1), max_ratio=1.0), tokens, (2, 4))
    assert found.grid == (1, 2)
    means = torch.tensor([(0.0 + 1 + 4 + 5) / 4, (2.0 + 3 + 6 + 7) / 4])
    torch.testing.assert_close(found.features, torch.stack([means, -means], dim=1))
