"""A benchmark says for which share of the questions a gate had no region looked for."""

from __future__ import annotations

import json

import pytest
import torch

from sdrpn_bench import BenchModel, run_benchmark
from sdrpn_bench.method import MethodContext
from sdrpn_bench.methods import TrainedRPN
from sdrpn_bench.sweep import answer_alike
from sdrpn_core import RPN, RPNProposer
from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.backbone.question import Question
from sdrpn_core.crops.policy import Outcome
from sdrpn_core.data.record import Record
from sdrpn_core.errors import ConfigError
from sdrpn_core.gate.config import GateConfig
from tests.plugins.odd_length import odd_length
from tests.tiny import tiny_image, tiny_llava

N = 6
ANSWERS = {"max_new_tokens": 3, "batch_size": 4}


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava()


@pytest.fixture(scope="module")
def records():
    return [Record(f"r{i}", tiny_image(i), "why ?", answers=("red",)) for i in range(N)]


@pytest.fixture(scope="module")
def answers(backbone, records):
    """Plain ones, and those of an RPN whose gate is always asked and never closed."""
    torch.manual_seed(0)
    policy = {"threshold": 1e-6, "max_area_fraction": 1.0}
    rpn = RPN.from_backbone(backbone, branch=1, n_layers=2, policy_options=policy)
    rpn.add_gate(backbone, GateConfig("decoder", {"n_layers": 1}))
    questions = [Question(one.question, tuple(one.images)) for one in records]
    proposer = RPNProposer(rpn, gate_threshold=0, always_asks=True)
    plain = answer_batch(backbone, questions, max_new_tokens=3)
    return rpn, plain, answer_batch(backbone, questions, proposer, max_new_tokens=3)


@pytest.mark.parametrize("options", [{"gate_threshold": 0.3}, {"always_ask_gate": True}])
def test_a_gate_that_an_rpn_lacks_leaves_that_model_out(backbone, records, answers, options):
    rpn = RPN.from_backbone(backbone, branch=1, n_layers=2)
    method = TrainedRPN(**options)
    reason = "the gate is to be asked, but this RPN has no gate"
    assert method.unserved(MethodContext(backbone, rpn)) == reason
    with pytest.raises(ConfigError, match="this RPN has no gate"):  # what it would end with
        method.proposer(MethodContext(backbone, rpn), records)
    assert method.unserved(MethodContext(backbone, answers[0])) is None
    assert TrainedRPN(gate_threshold=0).unserved(MethodContext(backbone, rpn)) is None


def test_the_share_is_in_results_and_report(backbone, records, answers, tmp_path):
    rpn, plain, asked = answers
    assert {one.outcome for one in asked} == {Outcome.OK}
    needs = [one.proposals[0].gate for one in asked]
    threshold = sum(sorted(needs)[1:3]) / 2  # two of the six are skipped
    results = run_benchmark(
        BenchModel(backbone, rpn, name="tiny"),
        ["baseline", "sdrpn"],
        records,
        out=tmp_path,
        metric=odd_length,
        method_options={"sdrpn": {"gate_threshold": threshold}},
        **ANSWERS,
    )
    gate = results["methods"]["sdrpn"]["gate"]
    assert (gate["skipped"]["share"], gate["skipped"]["n"]) == (2 / N, N)
    low, high = gate["skipped"]["interval"]
    assert low < 2 / N < high
    right = [odd_length(one.text, record) for one, record in zip(plain, records, strict=True)]
    for name, wanted in (("skipped_of_right", True), ("skipped_of_wrong", False)):
        group = [need for need, is_right in zip(needs, right, strict=True) if is_right == wanted]
        if group:
            share = sum(need < threshold for need in group) / len(group)
            assert (gate[name]["share"], gate[name]["n"]) == (pytest.approx(share), len(group))
        else:
            assert name not in gate
    assert "gate" not in results["methods"]["baseline"]
    items = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    found = [row["methods"]["sdrpn"]["gate"] for row in items]
    assert found == pytest.approx(needs, abs=1e-5)
    report = (tmp_path / "report.md").read_text()
    assert "region skipped (95%)" in report
    assert "| sdrpn | 33.3% (" in report


def test_variants_of_a_sweep_pay_for_a_closed_gate_and_tell_what_it_said(
    backbone, records, answers
):
    """Prefix and question go through the gate's one layer, and nothing through the trunk."""
    rpn, plain, asked = answers
    context = MethodContext(backbone, rpn, max_new_tokens=1)  # no token is fed back
    methods = [TrainedRPN(gate_threshold=1.0, threshold=value) for value in (0.3, 0.6)]
    images = [record.images for record in records]
    (prompt,) = backbone.encode([Question(records[0].question, records[0].images)])
    rest = len(prompt) - prompt.prefix_length
    plainly = len(prompt) * backbone.n_layers
    # The question runs to the branch layer first: its prefix is kept apart.
    expected = plainly + rest * rpn.branch + len(prompt) * len(rpn.gate.layers)
    for found, cost in answer_alike(context, methods, records, images):
        assert {one.outcome for one in found} == {Outcome.NOT_NEEDED}
        assert [one.ids for one in found] == [one.ids[:1] for one in plain]
        needs = [one.proposals[0].gate for one in found]
        assert needs == pytest.approx([one.proposals[0].gate for one in asked], abs=1e-5)
        assert cost.token_layers == expected
