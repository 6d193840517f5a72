"""Dataclasses from plain values: what fits is taken as annotated, what does not is one line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdrpn_core.errors import ConfigError
from sdrpn_core.util.dataclass_reader import read_dataclass


class Color(str, Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Inner:
    size: int
    name: str = "inner"


@dataclass(frozen=True)
class Outer:
    count: int
    rate: float = 0.5
    flag: bool = False
    text: str = ""
    limit: int | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    many: tuple[int, ...] = ()
    listed: list[str] = field(default_factory=list)
    ordered: Sequence[int] = ()
    mode: Literal["fast", "slow"] = "fast"
    color: Color = Color.RED
    heads: dict[int, tuple[int, ...] | Literal["all"]] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    inner: Inner | None = None


def read(**values: Any) -> Outer:
    return read_dataclass(Outer, {"count": 1, **values}, "settings")


def test_json_comes_out_as_annotated():
    values = json.loads(
        """{"count": 3, "rate": 1, "flag": true, "text": "x", "limit": null, "pair": [0.1, 2],
        "many": [1, 2], "listed": ["a"], "ordered": [4], "mode": "slow", "color": "blue",
        "heads": {"3": [0, 1], "4": "all"}, "extra": {"a": [null]}, "inner": {"size": 2}}"""
    )
    assert read_dataclass(Outer, values, "settings") == Outer(
        count=3,
        rate=1,
        flag=True,
        text="x",
        pair=(0.1, 2),
        many=(1, 2),
        listed=["a"],
        ordered=(4,),
        mode="slow",
        color=Color.BLUE,
        heads={3: (0, 1), 4: "all"},
        extra={"a": [None]},
        inner=Inner(2),
    )
    assert read() == Outer(1)
    assert read(inner=Inner(3)).inner == Inner(3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cuont": 2}, "settings: unknown field 'cuont'; did you mean 'count'? fields: count, "),
        ({"count": True}, "settings: count must be a whole number, not True"),
        ({"count": 1.0}, "settings: count must be a whole number, not 1.0"),
        ({"count": None}, "settings: count must be a whole number, not None"),
        ({"count": 2**63}, "settings: count must be a whole number, not 9223372036854775808"),
        ({"rate": float("nan")}, "settings: rate must be a finite number, not nan"),
        ({"rate": float("inf")}, "settings: rate must be a finite number, not inf"),
        ({"rate": 10**400}, "settings: rate must be a finite number, not 1000"),
        ({"rate": "1"}, "settings: rate must be a finite number, not '1'"),
        ({"rate": True}, "settings: rate must be a finite number, not True"),
        ({"flag": 1}, "settings: flag must be true or false, not 1"),
        ({"text": ["a"]}, "settings: text must be text, not ['a']"),
        ({"limit": "2"}, "settings: limit must be a whole number, not '2'"),
        ({"pair": [1]}, "settings: pair must be a list of 2 items, not [1]"),
        ({"pair": "ab"}, "settings: pair must be a list of 2 items, not 'ab'"),
        ({"pair": [1, None]}, "settings: pair[1] must be a finite number, not None"),
        ({"many": {"1": 2}}, "settings: many must be a list, not {'1': 2}"),
        ({"many": [1, [2]]}, "settings: many[1] must be a whole number, not [2]"),
        ({"listed": [1]}, "settings: listed[0] must be text, not 1"),
        ({"mode": "warp"}, "settings: mode must be 'fast' or 'slow', not 'warp'"),
        ({"mode": []}, "settings: mode must be 'fast' or 'slow', not []"),
        ({"color": "green"}, "settings: color must be 'red' or 'blue', not 'green'"),
        ({"heads": [3]}, "settings: heads must be an object, not [3]"),
        ({"heads": {"x": [1]}}, "settings: heads: key 'x' must be a whole number, not 'x'"),
        ({"heads": {"1": "some"}}, "settings: heads['1'] must be a list or 'all', not 'some'"),
        ({"heads": {"1": [0], 1: [2]}}, "settings: heads: key 1 is given twice"),
        ({"extra": {1: 2}}, "settings: extra: key 1 must be text, not 1"),
        ({"extra": None}, "settings: extra must be an object, not None"),
        ({"inner": {}}, "settings: inner: size is missing"),
        ({"inner": {"size": "2"}}, "settings: inner: size must be a whole number, not '2'"),
        ({"inner": 5}, "settings: inner must be an object, not 5"),
    ],
    ids=repr,
)
def test_what_does_not_fit_is_one_line(values, message):
    with pytest.raises(ConfigError) as caught:
        read(**values)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_missing_fields_are_named():
    with pytest.raises(ConfigError, match=r"^settings: count is missing$"):
        read_dataclass(Outer, {}, "settings")
    with pytest.raises(ConfigError, match=r"^settings must be an object, not \[\]$"):
        read_dataclass(Outer, [], "settings")


def test_huge_values_are_cut_short():
    with pytest.raises(ConfigError) as caught:
        read(count="long\n" * 1000)
    assert len(str(caught.value)) < 150
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="not a value of type int that is too large to show"):
        read(count=10**10000)


@given(
    st.dictionaries(
        st.sampled_from(list(Outer.__dataclass_fields__)) | st.text(max_size=3),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
            lambda leaf: st.lists(leaf, max_size=3) | st.dictionaries(st.text(max_size=2), leaf),
            max_leaves=6,
        ),
        max_size=4,
    )
)
def test_whatever_a_file_holds_is_taken_or_one_line(values):
    problem = ""
    found = None
    try:
        found = read_dataclass(Outer, values, "settings")
    except ConfigError as error:
        problem = str(error)
    assert "\n" not in problem
    assert bool(problem) == (found is None)
    if found is not None:
        assert type(found.count) is int
        assert type(found.flag) is bool
