"""Every policy takes a crop budget, and puts it on the crops that it plans."""

from __future__ import annotations

import numpy as np
import pytest

from sdrpn_core.crops.policy import make_policy
from sdrpn_core.errors import ConfigError
from sdrpn_core.grid.geometry import Resized
from sdrpn_core.grid.roi_map import RoIMap

GRID = (12, 12)
GEOMETRY = Resized((240, 240), GRID, 28)
OPTIONS = {"bbox": {}, "mask": {"min_regions": 1}, "window": {"side": 60}}


def roi():
    scores = np.full(GRID, -20.0)
    scores[2:6, 3:7] = 20.0
    return RoIMap(scores)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_crops_of_a_policy_have_its_budget(name):
    published = make_policy(name, OPTIONS[name])
    assert published.options()["max_crop_tokens"] is None
    (free,) = published.plan(roi(), GEOMETRY).crops
    limited = make_policy(name, {**OPTIONS[name], "max_crop_tokens": 30})
    (crop,) = limited.plan(roi(), GEOMETRY).crops
    assert (free.max_tokens, crop.max_tokens) == (None, 30)
    assert (crop.box, crop.grid_box) == (free.box, free.grid_box)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize(
    ("value", "message"),
    [(0, "max_crop_tokens must be a whole number of at least 1, not 0"), (2.5, "whole number")],
)
def test_no_budget_of_nothing(name, value, message):
    with pytest.raises(ConfigError, match=message):
        make_policy(name, {"max_crop_tokens": value})
