"""One item at fault: the others go through, each exactly once."""

from __future__ import annotations

import pytest

from sdrpn_core.errors import AttentionError, ConfigError, InputError, SdrpnError
from sdrpn_core.util.isolate_failures import isolate_failures


def work(bad: dict[int, Exception], calls: list[list[int]]):
    def run(batch):
        calls.append(list(batch))
        for item in batch:
            if item in bad:
                raise bad[item]
        return [10 * item for item in batch]

    return run


def test_a_batch_without_fault_runs_once():
    calls: list[list[int]] = []
    assert list(isolate_failures([1, 2, 3], work({}, calls))) == [([1, 2, 3], [10, 20, 30])]
    assert calls == [[1, 2, 3]]


def test_those_at_fault_are_named_and_the_others_go_through():
    calls: list[list[int]] = []
    bad = {2: InputError("two"), 4: AttentionError("four")}
    found = list(isolate_failures([1, 2, 3, 4], work(bad, calls)))
    assert found == [([1], [10]), ([2], bad[2]), ([3], [30]), ([4], bad[4])]
    assert calls == [[1, 2, 3, 4], [1], [2], [3], [4]]
    assert list(isolate_failures([2], work(bad, []))) == [([2], bad[2])]


def test_other_errors_are_not_caught():
    with pytest.raises(ConfigError):
        list(isolate_failures([1, 2], work({1: ConfigError("no")}, [])))
    with pytest.raises(AttentionError):
        list(isolate_failures([1], work({1: AttentionError("nan")}, []), (InputError,)))
    found = list(isolate_failures([1], work({1: SdrpnError("any")}, []), (SdrpnError,)))
    assert str(found[0][1]) == "any"
