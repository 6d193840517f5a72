"""The threshold of a gate: chosen by the stated loss, saved with the RPN, and true in answers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sdrpn_bench import calibrate_gate, intervals
from sdrpn_bench.operating_points import GatedQuestions
from sdrpn_core import RPN, RPNProposer
from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.backbone.question import Question
from sdrpn_core.cli.main import app
from sdrpn_core.crops.policy import Outcome
from sdrpn_core.data.record import Record
from sdrpn_core.errors import CheckpointError, ConfigError
from sdrpn_core.gate.config import GateConfig
from sdrpn_core.rpn.checkpoint import save_gate_threshold
from sdrpn_core.util import atomic_files
from tests.plugins.odd_length import odd_length
from tests.tiny import tiny_image, tiny_llava, write_tiny_llava
from tests.tiny_qwen2_5_vl import tiny_qwen2_5_vl, write_tiny_qwen2_5_vl

N = 12
ANSWERS = {"max_new_tokens": 3, "batch_size": 5}
QUESTIONS = ("what color ?", "why ?", "where is the red square in this image ?")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_llava(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava()


@pytest.fixture(scope="module")
def records():
    return [
        Record(f"r{i}", tiny_image(i), QUESTIONS[i % len(QUESTIONS)], answers=("red",))
        for i in range(N)
    ]


def questions(records):
    return [Question(one.question, tuple(one.images)) for one in records]


@pytest.fixture
def folder(backbone, records, tmp_path):
    """Of a saved RPN whose gate tells the questions apart."""
    torch.manual_seed(1)
    rpn = RPN.from_backbone(
        backbone, branch=1, n_layers=2, policy_options={"threshold": 1e-6, "max_area_fraction": 1.0}
    )
    gate = rpn.add_gate(backbone, GateConfig("decoder", {"n_layers": 1}))
    proposer = RPNProposer(rpn, gate_threshold=1e-30)
    with torch.no_grad():
        found = answer_batch(backbone, questions(records), proposer, max_new_tokens=1)
        logits = torch.tensor([one.proposals[0].gate for one in found]).logit()
        gate.head.bias.sub_(logits.median())
        for parameter in gate.head.parameters():
            parameter.div_(logits.std())
    return rpn.save_pretrained(tmp_path / "rpn")


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 6), st.booleans(), st.booleans()), min_size=1, max_size=12
    ),
    max_loss=st.sampled_from([0.0, 0.1, 0.3]),
)
def test_no_higher_threshold_costs_as_little(rows, max_loss):
    needs = [need / 6 for need, _, _ in rows]
    plain, cropped = ([float(row[place]) for row in rows] for place in (1, 2))
    found = GatedQuestions(needs, plain, cropped)
    best = found.best(max_loss)

    def accuracy(threshold):
        pairs = zip(needs, plain, cropped, strict=True)
        return sum(b if need >= threshold else a for need, a, b in pairs) / len(rows)

    always = sum(cropped) / len(rows)
    assert best.accuracy == pytest.approx(accuracy(best.threshold))
    assert best.n_skipped == sum(need < best.threshold for need in needs)
    assert best.accuracy >= always - max_loss - 1e-6
    higher = [need for need in needs if need > best.threshold]
    # A threshold at a probability skips all below it; beyond the highest one there is 1 itself.
    for threshold in {*higher, 1.0}:
        if sum(need < threshold for need in needs) > best.n_skipped:
            assert accuracy(threshold) < always - max_loss + 1e-6


def test_a_certain_threshold_keeps_its_promise_on_other_questions():
    """Twenty sets of questions of one kind, and a threshold from each."""
    draws = np.random.default_rng(0)

    def questions(n):
        needs = draws.random(n)
        plain = draws.random(n) > needs  # the gate's probabilities are true
        return GatedQuestions(needs.tolist(), plain.tolist(), (draws.random(n) < 0.9).tolist())

    others, broken = questions(20_000), {False: 0, True: 0}
    for _ in range(20):
        held_out = questions(400)
        chosen = {certain: held_out.best(0.02, certain=certain) for certain in (False, True)}
        assert chosen[True].n_skipped < chosen[False].n_skipped
        assert held_out.compared(chosen[True]).interval[0] >= -0.02
        for certain, point in chosen.items():
            broken[certain] += others.compared(point).value < -0.02
    assert broken[True] <= 1  # 95% intervals have two ends of 2.5%
    assert broken[False] >= 8


@pytest.mark.parametrize("max_loss", [0.0, 0.05, 0.3])
def test_graded_scores_are_resampled_for_all_thresholds_at_once(monkeypatch, max_loss):
    """The threshold is the one that is found by asking for each interval from the highest down."""
    draws = np.random.default_rng(1)
    needs, plain = draws.random(70), draws.random(70)
    looked = np.clip(plain + draws.uniform(-0.3, 0.4, 70) * needs, 0, 1)
    found = GatedQuestions(needs.tolist(), plain.tolist(), looked.tolist())
    always, *others = found.points()
    certain = [one for one in others if found.compared(one).interval[0] >= -max_loss - 1e-9]
    resampled, whole = [], intervals.bootstrap

    def counted(*args):
        resampled.append(args)
        return whole(*args)

    monkeypatch.setattr(intervals, "bootstrap", counted)
    assert found.best(max_loss, certain=True) == (certain[-1] if certain else always)
    assert len(resampled) <= 2


def test_the_loss_is_counted_from_always_cropping():
    """Where a closer look may end with the plain answer, looking at everything can cost, too."""
    scores = [0.1, 0.9], [1, 0], [1, 0]
    assert GatedQuestions(*scores).best(0.2).n_skipped == 2
    found = GatedQuestions(*scores, cropped=[1, 1])
    assert found.cropped_accuracy == 1
    assert (found.best(0.2).threshold, found.best(0.2).accuracy) == (0, 0.5)
    assert found.best(0.5).n_skipped == 2
    assert found.compared(found.best(0.5)).value == -0.5


def test_thresholds_lie_between_probabilities():
    found = GatedQuestions([0.2, 0.4, 0.4, 1.0], [1, 1, 0, 0], [1, 0, 1, 1])
    assert [(p.threshold, p.n_skipped) for p in found.points()] == [
        (0.0, 0),
        (pytest.approx(0.3), 1),
        (pytest.approx(0.7), 3),  # and none between equals, or above 1
    ]
    assert found.compared(found.points()[1]).value == 0
    low, high = found.compared(found.points()[2]).interval
    assert low < found.compared(found.points()[2]).value < high


@settings(max_examples=200, deadline=None)
@given(needs=st.lists(st.floats(0, 1), min_size=1, max_size=6, unique=True))
@example([0.00009, 0.00007, 0.00003, 0.00001])  # a sure model: with four digits all were the same
@example([0.5, 0.5 + 2**-53])
def test_a_threshold_that_is_read_and_typed_decides_the_same(needs):
    found = GatedQuestions(needs, [1.0] * len(needs), [1.0] * len(needs))
    for point in found.points():
        typed = float(str(point.threshold))
        assert [need < typed for need in needs] == [need < point.threshold for need in needs]


def test_thresholds_are_short_where_that_decides_the_same():
    found = GatedQuestions([0.12345678, 0.5432109876, 0.9998], [1] * 3, [1] * 3)
    assert [point.threshold for point in found.points()] == [0, 0.3, 0.8, 0.9999]


@pytest.mark.parametrize("max_loss", [0.0, 0.2])
def test_answers_behind_the_threshold_are_as_accurate_as_it_says(
    model, backbone, records, folder, tmp_path, max_loss
):
    found = calibrate_gate(
        folder,
        records,
        model=model,
        max_loss=max_loss,
        metric=odd_length,
        out=tmp_path / "run",
        **ANSWERS,
    )
    facts = found.calibration
    rpn = RPN.from_pretrained(folder, backbone=backbone)
    assert rpn.config.gate.threshold == found.threshold
    assert rpn.config.gate.calibration == facts
    scores = {}
    for name, proposer in {
        "never": None,
        "always": RPNProposer(rpn, gate_threshold=0),
        "gated": RPNProposer(rpn),
    }.items():
        answers = answer_batch(backbone, questions(records), proposer, max_new_tokens=3)
        scores[name] = sum(odd_length(one.text, records[0]) for one in answers) / N
    assert (facts.never, facts.always, facts.accuracy) == pytest.approx(tuple(scores.values()))
    assert facts.accuracy >= facts.always - max_loss - 1e-9
    assert facts.always != facts.never
    assert 0 < facts.skipped < 1
    assert {one.outcome for one in answers} <= {Outcome.OK, Outcome.NOT_NEEDED}
    skipped = [one.outcome is Outcome.NOT_NEEDED for one in answers]
    assert facts.skipped == sum(skipped) / N
    assert facts.n == N
    assert facts.difference[0] <= facts.accuracy - facts.always <= facts.difference[1]


def test_both_answers_have_the_same_first_look(tmp_path):
    """Where the gate is closed, the coarse look alone is what the answer comes from."""
    backbone = tiny_qwen2_5_vl()
    torch.manual_seed(1)
    policy = {"threshold": 1e-6, "max_area_fraction": 1.0}
    rpn = RPN.from_backbone(backbone, branch=1, n_layers=2, policy_options=policy)
    rpn.add_gate(backbone, GateConfig("decoder", {"n_layers": 1}))
    folder = rpn.save_pretrained(tmp_path / "rpn")
    records = [
        Record(f"r{i}", tiny_image(i, (200, 200)), text, answers=("red",))
        for i, text in enumerate(QUESTIONS * 2)
    ]
    seen = {}

    def remembered(prediction, record):
        seen.setdefault(record.id, []).append(prediction)
        return odd_length(prediction, record)

    found = calibrate_gate(
        folder,
        records,
        model=write_tiny_qwen2_5_vl(tmp_path / "qwen"),
        metric=remembered,
        first_look_tokens=9,
        **ANSWERS,
    )
    assert found.calibration.first_look_tokens == 9
    asked = [question.with_first_look(9) for question in questions(records)]
    plain = answer_batch(backbone, asked, max_new_tokens=3)
    scores = [odd_length(one.text, records[0]) for one in plain]
    assert found.calibration.never == pytest.approx(sum(scores) / len(scores))
    assert all(one.text in seen[record.id] for one, record in zip(plain, records, strict=True))


def test_a_gate_that_is_certain_is_calibrated_by_the_plain_answers_all_the_same(
    model, backbone, records, folder, tmp_path
):
    """Its probability is 1 to the last bit, which no threshold is above."""
    rpn = RPN.from_pretrained(folder, backbone=backbone)
    with torch.no_grad():
        rpn.gate.head.bias.fill_(1e4)
    certain = rpn.save_pretrained(tmp_path / "certain")
    found = calibrate_gate(certain, records, model=model, metric=odd_length, **ANSWERS)
    facts = found.calibration
    plain = answer_batch(backbone, questions(records), max_new_tokens=3)
    scores = [odd_length(one.text, records[0]) for one in plain]
    assert facts.never == pytest.approx(sum(scores) / N)
    assert facts.never != facts.always
    assert (found.threshold, facts.skipped) == (0, 0)


def test_another_loss_takes_no_answers(model, records, folder, tmp_path, monkeypatch):
    options = {"model": model, "metric": odd_length, "out": tmp_path / "run", **ANSWERS}
    first = calibrate_gate(folder, records, max_loss=0.0, **options)
    items = (tmp_path / "run/items.jsonl").read_bytes()
    second = calibrate_gate(folder, records, max_loss=0.5, **options)
    assert (tmp_path / "run/items.jsonl").read_bytes() == items
    assert second.threshold >= first.threshold
    assert second.shown[-1] == first.shown[-1]


def test_a_kill_while_saving_leaves_the_rpn_as_it_was(backbone, folder, monkeypatch):
    before = (folder / "config.json").read_bytes()

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(atomic_files.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            save_gate_threshold(folder, 0.5)
    assert (folder / "config.json").read_bytes() == before
    save_gate_threshold(folder, 0.5)
    assert RPN.from_pretrained(folder, backbone=backbone).config.gate.threshold == 0.5
    values = json.loads((folder / "config.json").read_text())
    values["gate"]["options"] = {"n_layers": 2}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError):
        RPN.from_pretrained(folder, backbone=backbone)


def test_the_command_saves_the_threshold(model, folder, tmp_path):
    lines = []
    for i in range(3):
        tiny_image(i).save(tmp_path / f"{i}.png")
        record = {"id": str(i), "image": f"{i}.png", "question": "why ?", "answers": ["red"]}
        lines.append(json.dumps(record))
    data = tmp_path / "held_out.jsonl"
    data.write_text("\n".join(lines))
    arguments = ["calibrate", "--rpn", str(folder), "--data", str(data), "--model", str(model)]
    arguments += ["--max-new-tokens", "2", "--device", "cpu"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    # A random model is never right: nothing is lost where no region is looked for.
    assert "never crops, chosen" in shown.stdout
    assert "exact_match, n = 3" in shown.stdout
    told = CliRunner().invoke(app, [*arguments, "--json"])
    values = json.loads(told.stdout)
    assert values["calibration"]["skipped"] == 1
    saved = json.loads((folder / "config.json").read_text())["gate"]
    assert saved["threshold"] == values["threshold"]
    assert saved["calibration"] == values["calibration"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"max_loss": 1.5}, ConfigError, "between 0 and 1, not 1.5"),
        ({"rpn": "owner/rpn"}, CheckpointError, "only a local one can be calibrated"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(folder, records, change, error, message):
    with pytest.raises(error, match=message):
        calibrate_gate(**{"rpn": folder, "data": records, **change})


def test_an_rpn_without_a_gate_is_refused(backbone, records, tmp_path):
    RPN.from_backbone(backbone, branch=1, n_layers=2).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="has no gate"):
        calibrate_gate(tmp_path, records)
    with pytest.raises(CheckpointError, match="has no gate"):
        save_gate_threshold(tmp_path, 0.5)
    with pytest.raises(CheckpointError, match="no such RPN folder"):
        save_gate_threshold(tmp_path / "nowhere", 0.5)
