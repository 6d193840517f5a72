"""Numbers of things that callers give in Python, where nothing has checked their kind before."""

from __future__ import annotations

import numpy as np
import pytest

from sdrpn_core.errors import ConfigError
from sdrpn_core.util.whole_numbers import check_counts


@pytest.mark.parametrize("count", [1, 10**9, np.int64(3)])
def test_whole_numbers_from_1_up_are_taken(count):
    check_counts(batch_size=count)


@pytest.mark.parametrize("count", [0, -1, 2.5, 2.0, "8", True, None, np.float32(2), [1]])
def test_all_else_is_refused_by_name(count):
    with pytest.raises(
        ConfigError, match=r"^max_pixels must be a whole number of at least 1, not "
    ):
        check_counts(batch_size=1, max_pixels=count)
