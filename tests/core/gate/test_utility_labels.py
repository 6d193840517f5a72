"""What a crop is worth, as the label of a question: the margins themselves."""

from __future__ import annotations

import pytest

from sdrpn_core.gate.utility_labels import UtilityMargins
from sdrpn_core.labels.pseudo import IGNORE


@pytest.mark.parametrize(
    ("utility", "label"),
    [(0.5, IGNORE), (0.5001, 1), (0.25, 0), (0.2501, IGNORE), (-3.0, 0), (9.0, 1)],
)
def test_more_than_the_margin_helps_and_up_to_the_indifference_does_not(utility, label):
    assert UtilityMargins(margin=0.5, indifference=0.25).label(utility) == label


def test_margins_that_are_equal_leave_nothing_undecided():
    alike = UtilityMargins(margin=0.5, indifference=0.5)
    assert [alike.label(utility) for utility in (0.4999, 0.5, 0.5001)] == [0, 0, 1]
