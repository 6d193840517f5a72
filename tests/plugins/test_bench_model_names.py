"""What the models of a benchmark are called, if nobody names them."""

from __future__ import annotations

from itertools import product

import pytest

from sdrpn_bench import BenchModel
from sdrpn_bench.preparation import named_models
from sdrpn_core.errors import ConfigError


def labels(*texts, budgets=()):
    return [model.label for model in named_models([*map(BenchModel.parse, texts)], budgets)]


@pytest.mark.parametrize(
    ("given", "called"),
    [
        (["hub/llava=runs/rpn"], ["llava"]),
        (["hub/llava", "hub/qwen=rpn"], ["llava", "qwen"]),
        (["hub/llava=a/one", "hub/llava=b/two"], ["llava + one", "llava + two"]),
        (["hub/llava=rpn", "hub/llava"], ["llava + rpn", "llava + no RPN"]),
        (["old/llava=rpn", "new/llava"], ["llava + rpn", "llava + no RPN"]),
        (["m/llava=one/rpn", "m/llava=two/rpn"], ["llava + one/rpn", "llava + two/rpn"]),
        (
            ["m/llava=a/one/rpn", "m/llava=b/one/rpn", "m/llava"],
            ["llava + a/one/rpn", "llava + b/one/rpn", "llava + no RPN"],
        ),
        (["m/llava=rpn", "m/llava=runs/rpn"], ["llava + rpn", "llava + runs/rpn"]),
        (["m/llava=/rpn", "m/llava=/x/rpn"], ["llava + /rpn", "llava + x/rpn"]),
        (["old/llava", "new/llava"], ["old/llava", "new/llava"]),
        (["old/llava=rpn", "new/llava=rpn"], ["old/llava", "new/llava"]),
        (
            ["old/llava=rpn", "new/llava=rpn", "new/llava"],
            ["old/llava + rpn", "new/llava + rpn", "new/llava + no RPN"],
        ),
        (
            ["m/llava=a/rpn", "m/llava=b/rpn", "qwen=a/rpn"],
            ["llava + a/rpn", "llava + b/rpn", "qwen"],
        ),
    ],
)
def test_names_are_short_and_distinct(given, called):
    assert labels(*given) == called
    # The names of a run that goes on hang on what is given, not on its order.
    assert labels(*reversed(given)) == called[::-1]
    with_budgets = [f"{name} @{budget}" for name, budget in product(called, (64, 256))]
    assert labels(*given, budgets=(64, 256)) == with_budgets


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["m/llava=rpn", "m/llava=rpn"], "m/llava is given twice with the RPN rpn: leave one out"),
        (["m/llava=rpn", "./m/llava=./rpn"], "given twice with the RPN ./rpn: leave one out"),
        (["m/llava", "n/llava", "m/llava"], "m/llava is given twice without an RPN: leave one out"),
    ],
)
def test_what_nothing_tells_apart_is_refused(given, says):
    with pytest.raises(ConfigError, match=f"{says}$"):
        labels(*given)


def test_a_name_that_was_given_stays():
    one, two = named_models([BenchModel("m/llava", "rpn", name="mine"), BenchModel("m/llava")])
    assert (one.label, two.label) == ("mine", "llava")
    own = BenchModel("m/llava", name="mine")
    for models in ([own, own], [own, BenchModel("m/llava", name="mine")]):
        with pytest.raises(ConfigError, match="given twice without an RPN"):
            named_models(models)
    with pytest.raises(ConfigError, match=r"two models are called 'mine': .*BenchModel\(..., name"):
        named_models([own, BenchModel("m/qwen", name="mine")])
