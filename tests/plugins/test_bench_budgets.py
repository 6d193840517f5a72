"""Budgets as options of methods: what is counted, what a sweep shares, and who refuses them."""

from __future__ import annotations

import numpy as np
import pytest

from sdrpn_bench import BenchModel, run_benchmark
from sdrpn_bench.cost import CostMeter
from sdrpn_bench.known_boxes import Oracle, RandomBox
from sdrpn_bench.measure import OpenedItem, measure
from sdrpn_bench.method import MethodContext
from sdrpn_bench.methods import RawAttention, TrainedRPN
from sdrpn_bench.sweep import Sweep, answer_alike
from sdrpn_core import Question, Record, RoIModel
from sdrpn_core.errors import ConfigError
from tests.plugins.test_bench_costs import images, make_rpn, records
from tests.tiny import tiny_image, tiny_llava
from tests.tiny_qwen2_5_vl import CELL, tiny_qwen2_5_vl

N_NEW = 2
LOOK, BUDGET = 12, 6


@pytest.fixture(scope="module")
def context():
    qwen = tiny_qwen2_5_vl(min_pixels=40 * CELL**2)
    return MethodContext(qwen, make_rpn(qwen), max_new_tokens=N_NEW)


@pytest.mark.parametrize("method", [TrainedRPN, RawAttention, Oracle, RandomBox])
def test_every_method_that_looks_twice_takes_both_budgets(context, method):
    asked = records(2)
    questions = [Question(one.question, one.images) for one in asked]
    limited = method(first_look_tokens=LOOK, max_crop_tokens=BUDGET)
    published, found = (
        one.answer(context, asked, images(asked)) for one in (method(), limited)
    )  # fmt: skip
    for prompt, answer, full in zip(
        context.backbone.with_visual_tokens(LOOK).encode(questions), found, published, strict=True
    ):
        assert prompt.n_visual_tokens <= LOOK
        crops = answer.n_visual_tokens - prompt.n_visual_tokens
        assert len(answer.boxes) <= crops <= BUDGET * len(answer.boxes)
        assert answer.n_visual_tokens < full.n_visual_tokens / 2
        assert answer.proposals[0].geometry.grid == prompt.images[0].grid
    assert any(one.boxes for one in found)


def test_a_budgeted_method_is_the_budgeted_model(context):
    asked = records(2)
    policy = {"max_crop_tokens": BUDGET, "threshold": 0.4}
    found = TrainedRPN(policy="mask", policy_options=policy, first_look_tokens=LOOK).answer(
        context, asked, images(asked)
    )
    model = RoIModel(
        context.backbone,
        context.rpn,
        context.rpn.config.crop_policy("mask", policy),
        first_look_tokens=LOOK,
    )
    for record, one in zip(asked, found, strict=True):
        expected = model.answer(record.images, record.question, max_new_tokens=N_NEW)
        assert (one.ids, one.boxes) == (expected.ids, expected.boxes)


def test_a_sweep_over_crop_budgets_shares_the_first_pass_and_is_charged_for_it(context):
    asked = records(2)
    budgets = (4, 9, None)
    methods = [TrainedRPN(max_crop_tokens=one, first_look_tokens=LOOK) for one in budgets]
    with CostMeter(context, asked) as together:
        swept = answer_alike(context, methods, asked, images(asked))
    alone = [answer_alike(context, [method], asked, images(asked))[0] for method in methods]
    for (answers, cost), (expected, own) in zip(swept, alone, strict=True):
        assert [one.ids for one in answers] == [one.ids for one in expected]
        assert [one.n_visual_tokens for one in answers] == [one.n_visual_tokens for one in expected]
        # A question behind a shared prefix runs apart from it, and its crops are the same.
        assert cost.token_layers == pytest.approx(own.token_layers, rel=0.25)
    assert together.share.token_layers < sum(cost.token_layers for _, cost in swept)
    costs = [cost.token_layers for _, cost in swept]
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]


def test_another_first_look_is_another_first_pass(context):
    asked = records(2)
    methods = [TrainedRPN(first_look_tokens=one) for one in (LOOK, 30, None)]
    swept = answer_alike(context, methods, asked, images(asked))
    for method, (answers, cost) in zip(methods, swept, strict=True):
        ((expected, own),) = answer_alike(context, [method], asked, images(asked))
        assert [one.ids for one in answers] == [one.ids for one in expected]
        assert cost.token_layers == own.token_layers
    assert len({cost.token_layers for _, cost in swept}) == len(methods)


def test_the_peak_is_looked_for_on_the_grid_of_the_first_look(context):
    class Metric:
        def counts(self, *_):
            return True

        def score(self, *_):
            return 1.0

        options = counts

    record = Record(
        "a", tiny_image(0, (400, 300)), "what color ?", answers="red", boxes=((0, 0, 400, 300),)
    )
    item = OpenedItem(0, record, record.images)
    methods = {"sdrpn": TrainedRPN(first_look_tokens=LOOK)}
    (row,) = measure(context, methods, [item], Metric())
    assert row["methods"]["sdrpn"]["map_hit"] is True


def test_runs_with_budgets(context, tmp_path):
    """Two families, one of which cannot have them; every variant is a point of the curve."""
    llava = tiny_llava()
    results = run_benchmark(
        [
            BenchModel(context.backbone, context.rpn, name="qwen"),
            BenchModel(llava, make_rpn(llava), name="llava"),
        ],
        ["baseline", "sdrpn", "oracle"],
        records(2),
        out=tmp_path,
        batch_size=2,
        max_new_tokens=1,
        method_options={"oracle": {"max_crop_tokens": 4}},
        sweeps=[
            Sweep("sdrpn", "max_crop_tokens", (4, 16)),
            Sweep("sdrpn", "first_look_tokens", (9,)),
        ],
    )  # fmt: skip
    qwen, other = (results["models"][name] for name in ("qwen", "llava"))
    reason = "the family's resolution is fixed: every image takes the same number of visual tokens"
    swept = ("sdrpn[max_crop_tokens=4]", "sdrpn[max_crop_tokens=16]", "sdrpn[first_look_tokens=9]")
    assert other["refused"] == dict.fromkeys((*swept, "oracle"), reason)
    costs = {name: values["cost"]["token_layers"] for name, values in qwen["methods"].items()}
    assert costs["sdrpn[max_crop_tokens=4]"] < costs["sdrpn[max_crop_tokens=16]"] < costs["sdrpn"]
    assert costs["sdrpn[first_look_tokens=9]"] < costs["sdrpn"]
    points = results["curves"]["qwen"]["points"]
    assert {point["label"] for point in points} >= set(swept)
    assert np.allclose(
        [p["cost"] for p in points if p["label"] in costs],
        [costs[p["label"]] for p in points if p["label"] in costs],
    )


def test_budgets_out_of_range_are_refused():
    for option in ("first_look_tokens", "max_crop_tokens"):
        for method in (TrainedRPN, RawAttention, Oracle, RandomBox):
            with pytest.raises(
                ConfigError, match=f"{option} must be a whole number of at least 1, not 0"
            ):
                method.from_options({option: 0})
