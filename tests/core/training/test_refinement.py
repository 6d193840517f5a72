"""Rounds of refinement: each judges the map of the last one, and a kill loses no round."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.backbone.question import Question
from sdrpn_core.cli.main import app
from sdrpn_core.data.record import Record
from sdrpn_core.errors import ConfigError, ShardError
from sdrpn_core.labels.judged import BestRegion
from sdrpn_core.rpn.model import RPN
from sdrpn_core.training import refinement
from sdrpn_core.training.refinement import refine
from sdrpn_core.training.settings import TrainingSettings
from sdrpn_core.training.step import TrainingStep
from sdrpn_core.util.checksums import tensor_checksum
from sdrpn_core.utility.reference import Reference, ReferenceKind
from sdrpn_core.utility.run import UtilityDataset
from sdrpn_core.utility.stage import UtilityMaker
from tests.tiny import CHAT_TEMPLATE, tiny_image, tiny_llava, write_tiny_llava

N = 6
ANSWERS = Reference(ReferenceKind.ANSWER)
#: A random backbone gains little by any crop.
TARGETS = BestRegion(margin=0.0, tolerance=0.0)
SETTINGS = TrainingSettings(
    optimizer="adamw",
    learning_rate=1e-2,
    max_steps=2,
    global_batch_size=4,
    micro_batch_size=4,
    checkpoint_every=1,
    log_every=1,
)
POLICY = {"threshold": 0.5, "relative": True, "min_area": 1, "keep_single": True}


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava(chat_template=CHAT_TEMPLATE)


@pytest.fixture(scope="module")
def start(backbone, tmp_path_factory):
    torch.manual_seed(0)
    rpn = RPN.from_backbone(
        backbone, branch=1, n_layers=1, policy="bbox", policy_options=POLICY, loss="mse"
    )
    return rpn.save_pretrained(tmp_path_factory.mktemp("start"))


def records():
    return [
        Record(
            f"r{index}",
            tiny_image(index, (60, 48)),
            f"which color is {index} ?",
            answers=("a red square",),
        )
        for index in range(N)
    ]


def run(backbone, start, folder, rounds=2, **options):
    return refine(
        backbone,
        records(),
        start,
        folder,
        rounds=rounds,
        targets=TARGETS,
        settings=SETTINGS,
        judging={"reference": ANSWERS, "batch_size": 3, "shard_size": 3},
        progress=False,
        **{"n_candidates": 4, **options},
    )


@pytest.fixture(scope="module")
def whole(backbone, start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(backbone, start, folder)


def contents(folder: Path) -> dict[str, bytes]:
    """The judged rows and the trained weights of all rounds."""
    paths = [*folder.glob("round-*/utility/*.parquet"), *folder.glob("round-*/train/rpn/*.saf*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(paths)}


def judged_rpn(folder: Path) -> str:
    return json.loads((folder / "utility/utility.json").read_text())["provenance"]["rpn"]


def test_each_round_judges_the_map_of_the_last_one_and_trains_it_on(backbone, start, whole):
    folder, rounds = whole
    assert [one.folder.name for one in rounds] == ["round-1", "round-2"]
    before = RPN.from_pretrained(start, backbone=backbone)
    for one in rounds:
        assert judged_rpn(one.folder) == tensor_checksum(before.state_dict())
        facts = json.loads((one.folder / "train/run.json").read_text())
        assert facts["objective"]["start"] == tensor_checksum(before.state_dict())
        assert len(UtilityDataset(one.folder / "utility")) == N
        before = RPN.from_pretrained(one.training.folder, backbone=backbone)
    first, second = (
        json.loads((one.folder / "utility/utility.json").read_text())["provenance"]["candidates"]
        for one in rounds
    )
    assert (first["sampled"]["seed"], second["sampled"]["seed"]) == (1, 2)
    assert len(contents(folder)) == 2 * (2 + 1)


def test_the_backbone_stays_as_it_is(backbone, whole):
    _, rounds = whole
    fresh = tiny_llava(chat_template=CHAT_TEMPLATE)
    for name, tensor in fresh.model.state_dict().items():
        assert torch.equal(backbone.model.state_dict()[name], tensor)
    question = Question("which color is 1 ?", (tiny_image(1, (60, 48)),))
    assert answer_batch(backbone, [question], RPNProposer(rounds[-1].training.rpn))


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def killed_in_round(number: int, stage: str):
    """A method that ends the process, as it were, in the given round of the given stage."""
    owner, name = {"judging": (UtilityMaker, "make"), "training": (TrainingStep, "__call__")}[stage]
    original = getattr(owner, name)
    calls = []

    def method(self, *args):
        calls.append(args)
        # Two shards, or two steps, a round: the second one of the round does not come to pass.
        if len(calls) == 2 * number:
            raise Killed
        return original(self, *args)

    return owner, name, method


@pytest.mark.parametrize("stage", ["judging", "training"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_kill_at_any_point_loses_no_finished_work(
    backbone, start, whole, tmp_path, monkeypatch, number, stage
):
    with monkeypatch.context() as patch:
        patch.setattr(*killed_in_round(number, stage))
        with pytest.raises(Killed):
            run(backbone, start, tmp_path)
    made, steps = [], []
    make, step = UtilityMaker.make, TrainingStep.__call__

    def make_and_count(self, *args):
        made.append(args)
        return make(self, *args)

    def step_and_count(self, *args):
        steps.append(args)
        return step(self, *args)

    monkeypatch.setattr(UtilityMaker, "make", make_and_count)
    monkeypatch.setattr(TrainingStep, "__call__", step_and_count)
    run(backbone, start, tmp_path)
    left = 2 * (2 - number)
    expected = (left + 1, left + 2) if stage == "judging" else (left, left + 1)
    assert (len(made), len(steps)) == expected
    assert contents(tmp_path) == contents(whole[0])


def test_a_finished_refinement_does_nothing_and_can_be_extended(
    backbone, start, whole, tmp_path, monkeypatch
):
    run(backbone, start, tmp_path, rounds=1)
    rounds = run(backbone, start, tmp_path, rounds=2)
    assert [one.training.resumed_from for one in rounds] == [2, 0]
    assert contents(tmp_path) == contents(whole[0])

    def refused(self, *args):
        raise AssertionError("done already")

    monkeypatch.setattr(UtilityMaker, "make", refused)
    monkeypatch.setattr(TrainingStep, "__call__", refused)
    run(backbone, start, tmp_path)
    assert contents(tmp_path) == contents(whole[0])


def test_other_settings_start_over_if_that_is_said(backbone, start, whole, tmp_path):
    run(backbone, start, tmp_path, rounds=1, n_candidates=3)
    with pytest.raises(ShardError, match="or --overwrite"):
        run(backbone, start, tmp_path)
    run(backbone, start, tmp_path, overwrite=True)
    assert contents(tmp_path) == contents(whole[0])


def test_no_round_is_refused(backbone, start, tmp_path):
    with pytest.raises(ConfigError, match="rounds must be a whole number of at least 1, not 0"):
        run(backbone, start, tmp_path, rounds=0)
    assert refinement.UTILITY_FOLDER not in [path.name for path in tmp_path.iterdir()]


def test_the_command_refines_round_by_round(start, tmp_path):
    model = write_tiny_llava(tmp_path / "model", chat_template=CHAT_TEMPLATE)
    lines = []
    for record in records():
        record.images[0].save(tmp_path / f"{record.id}.png")
        line = {"id": record.id, "image": f"{record.id}.png", "question": record.question}
        lines.append(json.dumps({**line, "answer": "a red square"}))
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    words = ["refine", tmp_path / "data.jsonl", "--model", model, "--rpn", start, "--rounds", "1"]
    words += ["--out", tmp_path / "out", "--reference", "answer", "--margin", "0", "--form"]
    words += ["policy", "--candidates", "3", "--epochs", "1", "--lr", "1e-3", "--device", "cpu"]
    result = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert result.exit_code == 0, result.output
    (one,) = json.loads(result.stdout)["rounds"]
    assert one["judged"]["ok"] == N
    assert one["steps"] == 1
    assert RPN.from_pretrained(one["rpn"], backbone=tiny_llava(chat_template=CHAT_TEMPLATE))
    again = CliRunner().invoke(app, list(map(str, words)))
    assert f"{one['rpn']}: 1 steps" in again.output.replace("\n", "")
