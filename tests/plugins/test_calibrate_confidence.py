"""The confidence threshold: chosen by the stated loss, and true in answers."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from sdrpn_bench import calibrate_confidence
from sdrpn_core import RPN, RPNProposer
from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.backbone.question import Question
from sdrpn_core.cli.main import app
from sdrpn_core.crops.policy import Outcome
from sdrpn_core.data.record import Record
from sdrpn_core.errors import ConfigError, InputError
from tests.plugins.odd_length import odd_length
from tests.tiny import tiny_image, tiny_llava, write_tiny_llava

N = 18
ANSWERS = {"max_new_tokens": 3, "batch_size": 5}
QUESTIONS = ("what color ?", "why ?", "where is the red square in this image ?")


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava()


@pytest.fixture(scope="module")
def rpn(backbone):
    policy = {"threshold": 1e-6, "max_area_fraction": 1.0}
    return RPN.from_backbone(backbone, branch=1, n_layers=2, policy_options=policy)


@pytest.fixture(scope="module")
def how(rpn, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrated")
    model = write_tiny_llava(folder / "model")
    return {"rpn": rpn.save_pretrained(folder / "rpn"), "model": model, **ANSWERS}


@pytest.fixture(scope="module")
def records():
    return [
        Record(f"r{i}", tiny_image(i), QUESTIONS[i % len(QUESTIONS)], answers=("red",))
        for i in range(N)
    ]


def scores(backbone, records, proposer, **options):
    asked = [Question(one.question, tuple(one.images)) for one in records]
    answers = answer_batch(backbone, asked, proposer, max_new_tokens=3, **options)
    return answers, sum(odd_length(one.text, records[0]) for one in answers) / len(answers)


@pytest.mark.parametrize("max_loss", [0.0, 0.1, 0.9])
def test_answers_behind_the_threshold_are_as_accurate_as_it_says(
    backbone, rpn, records, how, max_loss
):
    found = calibrate_confidence(data=records, max_loss=max_loss, metric=odd_length, **how)
    facts, proposer = found.calibration, RPNProposer(rpn)
    plain, never = scores(backbone, records, None)
    _, always = scores(backbone, records, proposer)
    _, looking = scores(backbone, records, proposer, confidence_threshold=1.0)
    assert looking != always  # of two answers the surer one stays
    answers, chosen = scores(backbone, records, proposer, confidence_threshold=found.threshold)
    assert (facts.never, facts.always, facts.accuracy) == pytest.approx((never, always, chosen))
    assert chosen >= always - max_loss - 1e-9 or found.threshold == 1
    skipped = [one.outcome is Outcome.NOT_NEEDED for one in answers]
    assert facts.skipped == sum(skipped) / N
    assert found.threshold in [point.threshold for point in found.shown]
    # What is shown goes from always looking to never.
    thresholds = [point.threshold for point in found.shown]
    assert thresholds == sorted(thresholds, reverse=True)
    assert thresholds[0] == 1
    # A lower threshold among those shown costs more.
    below = [point.accuracy for point in found.shown if point.threshold < found.threshold]
    assert all(accuracy < always - max_loss for accuracy in below)
    if max_loss == 0.9:
        # An empty answer never stays.
        assert facts.skipped == sum(bool(one.ids) for one in plain) / N < 1


def test_a_certain_threshold_looks_more_often(how, records):
    chosen = [
        calibrate_confidence(data=records, max_loss=0.3, certain=one, metric=odd_length, **how)
        for one in (False, True)
    ]
    assert [one.calibration.certain for one in chosen] == [False, True]
    assert chosen[1].threshold > chosen[0].threshold
    assert chosen[1].calibration.difference[0] >= -0.3 or chosen[1].threshold == 1


def test_the_command_says_what_to_give(how, tmp_path):
    tiny_image(0).save(tmp_path / "0.png")
    data = tmp_path / "held_out.jsonl"
    data.write_text(json.dumps({"image": "0.png", "question": "why ?", "answers": ["red"]}))
    before = (how["rpn"] / "config.json").read_bytes()
    arguments = ["calibrate", "--confidence", "--rpn", str(how["rpn"]), "--data", str(data)]
    arguments += ["--model", str(how["model"]), "--max-new-tokens", "2", "--device", "cpu"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "never crops, chosen" in shown.stdout
    assert "nothing is saved: give confidence_threshold=" in shown.stdout
    assert "no threshold" not in shown.stdout
    # One question shows nothing for certain.
    shown = CliRunner().invoke(app, [*arguments, "--certain"])
    assert "always looks, chosen" in shown.stdout
    assert "no threshold that skips a region is certain to keep within that" in shown.stdout
    told = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert told["calibration"]["skipped"] == 1
    assert 0 < told["threshold"] < 1
    assert (how["rpn"] / "config.json").read_bytes() == before


def test_the_command_tells_of_questions_that_are_left_out(how, tmp_path):
    tiny_image(0).save(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes(b"no image")
    data = tmp_path / "held_out.jsonl"
    rows = [
        {"id": f"q{i}", "image": f"{i}.png", "question": "why ?", "answers": ["red"]}
        for i in range(2)
    ]
    data.write_text("\n".join(json.dumps(row) for row in rows))
    arguments = ["calibrate", "--confidence", "--rpn", str(how["rpn"]), "--data", str(data)]
    arguments += ["--model", str(how["model"]), "--max-new-tokens", "2", "--device", "cpu"]
    shown = CliRunner().invoke(app, arguments)
    assert "n = 1" in shown.stdout
    assert "1 of 2 questions are left out, such as q1: " in shown.stdout
    (left_out,) = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)["left_out"]
    assert left_out.startswith("q1: ")
    assert "1.png" in left_out


def test_what_cannot_be_calibrated_is_refused(how, records):
    with pytest.raises(ConfigError, match="between 0 and 1, not 1"):
        calibrate_confidence(data=records, max_loss=1.0, **how)
    nothing = [Record("r", (), "why ?", answers=("red",))]
    with pytest.raises(InputError, match="comes without an image"):
        calibrate_confidence(data=nothing, **how)
