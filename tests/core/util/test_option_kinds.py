"""Options by their defaults: completed, and refused where they are unknown or of another kind."""

from __future__ import annotations

import pytest

from sdrpn_core.errors import ConfigError
from sdrpn_core.util.option_kinds import complete_options

DEFAULTS = {"n": 3, "share": 0.5, "is_on": False, "name": None}


def test_what_is_not_given_is_the_default():
    given = {"share": 1, "name": "x"}
    assert complete_options("thing", given, DEFAULTS) == {**DEFAULTS, **given}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"m": 1}, "the thing has no option m; its options: is_on, n, name, share"),
        ({"n": 2.7}, "n of the thing must be of the kind of its default 3, not float"),
        ({"n": True}, "default 3, not bool"),
        ({"n": None}, "default 3, not null"),
        ({"share": "0.5"}, r"default 0\.5, not str"),
        ({"is_on": 1}, "default False, not int"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        complete_options("thing", given, DEFAULTS)


def test_without_options_none_is_known():
    with pytest.raises(ConfigError, match="its options: none"):
        complete_options("thing", {"m": 1}, {})
