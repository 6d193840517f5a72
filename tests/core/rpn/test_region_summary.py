"""What gates read of an RPN's maps, against loops over images and cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdrpn_core.rpn.region_summary import region_summaries
from sdrpn_core.rpn.scores import RoIScores

GRIDS = ((2, 3), (3, 4), (1, 5))
#: The first two are images of question 0; question 1 has none.
ROWS, N_ROWS = (0, 0, 2), 3
HIDDEN = 4


def written_out(states, probabilities):
    squares = probabilities**2
    share = np.mean(probabilities > probabilities.max() / 2)
    equal = probabilities.sum() ** 2 / squares.sum() / len(probabilities)
    return [*(squares @ states / squares.sum()), share, equal, probabilities.max()]


@pytest.mark.parametrize("is_distribution", [False, True])
def test_a_question_has_the_mean_of_its_images(is_distribution):
    generator = torch.Generator().manual_seed(0)
    visual = torch.randn(3, 12, HIDDEN, generator=generator)
    scores = torch.randn(3, 12, generator=generator) * 2
    lengths = torch.tensor([h * w for h, w in GRIDS])
    valid = torch.arange(12) < lengths[:, None]
    if is_distribution:
        scores = scores.masked_fill(~valid, -torch.inf).softmax(dim=1)
    found = region_summaries(visual, RoIScores(scores, valid, GRIDS, is_distribution), ROWS, N_ROWS)
    images = []
    for own, values, n in zip(visual.numpy(), scores.double().numpy(), lengths, strict=True):
        cells = values[:n] if is_distribution else 1 / (1 + np.exp(-values[:n]))
        images.append(written_out(own[:n], cells))
    first, second, third = np.array(images)
    expected = np.stack([(first + second) / 2, np.zeros(HIDDEN + 3), third])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)
