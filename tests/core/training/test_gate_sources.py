"""Where a gate's labels come from: utilities by their margins, and budgets drawn by epoch."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sdrpn_core.backbone.identity import backbone_identity
from sdrpn_core.backbone.preprocessing import Preprocessor
from sdrpn_core.cli.main import app
from sdrpn_core.errors import ConfigError, ShardError
from sdrpn_core.gate.budget_labels import AnswerLadder, Difficulty
from sdrpn_core.gate.config import GateConfig
from sdrpn_core.gate.utility_labels import UtilityMargins
from sdrpn_core.labels.pseudo import IGNORE
from sdrpn_core.rpn.model import RPN
from sdrpn_core.training.batches import StoredLabelBatcher
from sdrpn_core.training.feature_cache import FeatureCache
from sdrpn_core.training.gate_objective import GateObjective
from sdrpn_core.training.gate_samples import DrawnBudgets
from sdrpn_core.training.samples import EveryEpoch, SkippedSample
from sdrpn_core.training.settings import TrainingSettings
from sdrpn_core.training.sources import TrainingSource
from sdrpn_core.training.stage import train
from sdrpn_core.utility.row import Candidate, UtilityRow, UtilityStatus
from sdrpn_core.utility.run import UtilityManifest, open_run
from tests.tiny import tiny_image, tiny_llava, write_tiny_llava
from tests.tiny_qwen2_5_vl import tiny_qwen2_5_vl

#: What the RPN's region is worth; ``None``: it was not judged.
UTILITIES = [2.0, 0.0, -1.0, 0.4, None, 0.71, 0.09]
EXPECTED = [1, 0, 0, IGNORE, None, 1, 0]
QUESTION = "what color ?"
SETTINGS = TrainingSettings(
    optimizer="sgd", learning_rate=1e-3, global_batch_size=4, micro_batch_size=2, log_every=1
)
BRANCH = 1


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_llava(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava()


def judged(backbone, folder: Path, *, utilities=UTILITIES) -> Path:
    """A utility run whose other candidates are worth the opposite."""
    images = folder.with_name(f"{folder.name}-images")
    images.mkdir(parents=True)
    rows = []
    for index, utility in enumerate(utilities):
        path = images / f"{index}.png"
        image = tiny_image(index)
        image.save(path)
        box = ((0, 0, 9, 9),)
        candidates = [Candidate("sampled", box, box, 4, -3.0 - (utility or 0.0))]
        if utility is not None:
            candidates.append(Candidate("rpn", box, box, 4, -3.0 + utility))
        rows.append(
            UtilityRow(
                index=index,
                id=f"r{index}",
                question=QUESTION,
                image=path,
                response="red",
                response_ids=(5,),
                plain=-3.0,
                candidates=tuple(candidates),
                geometry=backbone.preprocess(image).geometry,
            )
        )
    provenance = {"backbone": backbone_identity(backbone, branch=0)}
    manifest = UtilityManifest(len(rows), "fingerprint", len(rows), provenance, "tiny")
    open_run(folder, manifest).write_shard(0, rows)
    return folder


@pytest.fixture(scope="module")
def run(backbone, tmp_path_factory):
    return judged(backbone, tmp_path_factory.mktemp("judged") / "run")


@pytest.fixture(scope="module")
def start(backbone, tmp_path_factory):
    torch.manual_seed(0)
    rpn = RPN.from_backbone(backbone, branch=BRANCH, n_layers=2)
    return rpn.save_pretrained(tmp_path_factory.mktemp("start"))


# -- utilities -----------------------------------------------------------------------------------


def test_the_rpns_region_decides_by_the_margins(backbone, run, start):
    source = GateObjective(start).source(backbone, run, SETTINGS)
    items = [source.samples[index] for index in range(len(source.samples))]
    for item, expected in zip(items, EXPECTED, strict=True):
        if expected is None:
            assert isinstance(item, SkippedSample)
        else:
            assert item.labels.tolist() == [[expected]]
            assert item.question == QUESTION
    wide = GateObjective(start, margins=UtilityMargins(margin=2.5, indifference=-0.5))
    labels = [wide.source(backbone, run, SETTINGS).samples[index].labels for index in (0, 1, 2)]
    assert [label.item() for label in labels] == [IGNORE, IGNORE, 0]


def test_a_gate_is_trained_on_a_run(backbone, run, start, tmp_path):
    objective = GateObjective(start, GateConfig("linear"))
    result = train(backbone, run, tmp_path, SETTINGS, objective=objective)
    assert (result.steps, result.samples, result.skipped) == (2, 6, 1)
    assert result.rpn.config.gate.labels == "utility"
    facts = json.loads((tmp_path / "run.json").read_text())
    assert facts["objective"]["margins"] == {"indifference": 0.1, "margin": 0.7}
    assert facts["data"]["kind"] == "utility"
    entries = [json.loads(line) for line in (tmp_path / "train_log.jsonl").read_text().splitlines()]
    assert sum(entry["labeled_questions"] for entry in entries) == 5
    assert sum(entry["needing_region"] for entry in entries) == 2


def test_an_image_that_is_gone_is_skipped(backbone, start, tmp_path):
    folder = judged(backbone, tmp_path / "run", utilities=[1.0, 0.0])
    (tmp_path / "run-images/1.png").unlink()
    source = GateObjective(start).source(backbone, folder, SETTINGS)
    assert isinstance(source.samples[1], SkippedSample)
    assert "1.png" in source.samples[1].reason


@pytest.mark.parametrize(
    "margins", [{"margin": 0.1, "indifference": 0.2}, {"margin": float("nan")}], ids=str
)
def test_impossible_margins_are_refused(margins):
    with pytest.raises(ConfigError, match="indifference"):
        UtilityMargins(**margins)


def test_a_run_of_another_backbone_or_without_rows_is_refused(backbone, run, start, tmp_path):
    other = tiny_llava(seed=3)
    torch.manual_seed(0)
    RPN.from_backbone(other, branch=BRANCH, n_layers=2).save_pretrained(tmp_path / "rpn")
    objective = GateObjective(tmp_path / "rpn")
    with pytest.raises(ShardError, match="belongs to another backbone"):
        train(other, run, tmp_path / "run", SETTINGS, objective=objective)
    row = UtilityRow(0, "r0", QUESTION, None, UtilityStatus.INVALID, "no image")
    manifest = UtilityManifest(
        1, "fingerprint", 1, {"backbone": backbone_identity(backbone, branch=0)}, "tiny"
    )
    open_run(tmp_path / "empty", manifest).write_shard(0, [row])
    with pytest.raises(ShardError, match="every record was skipped"):
        GateObjective(start).source(backbone, tmp_path / "empty", SETTINGS)
    with pytest.raises(ConfigError, match="folder of a utility run"):
        GateObjective(start).source(backbone, [1, 2], SETTINGS)
    with pytest.raises(ShardError, match="is not a"):
        GateObjective(start).source(backbone, tmp_path, SETTINGS)


# -- budgets -------------------------------------------------------------------------------------

#: Squares: a square image fills each of them.
BUDGETS = (4, 9, 16, 25, 36)
ANSWERS = {
    "easy": ("red", "red", "red", "red", "red"),
    "hard": ("blue", "green", "red", "red", "red"),
    "flips": ("blue", "red", "blue", "red", "red"),
}


@dataclass
class Row:
    id: str
    question: str
    image: Path | bytes | None


@pytest.fixture(scope="module")
def qwen():
    return tiny_qwen2_5_vl()


@pytest.fixture(scope="module")
def drawn(qwen, tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "image.png"
    tiny_image(0, (400, 400)).save(path)
    kinds = ["easy"] * 5 + ["hard"] * 3 + ["flips"]
    rows = [Row(f"{kind}-{index}", QUESTION, path) for index, kind in enumerate(kinds)]
    ladders = [AnswerLadder(BUDGETS, ANSWERS[kind], "red") for kind in kinds]
    preprocess = {n: Preprocessor(qwen.with_visual_tokens(n)) for n in BUDGETS}
    return DrawnBudgets(rows, ladders, preprocess, seed=0)


def test_the_mixture_is_that_of_the_rule(drawn):
    assert len(drawn) == 6
    kinds = Counter(drawn.ladders[place].difficulty for place in drawn.chosen)
    assert kinds == {Difficulty.HARD: 3, Difficulty.EASY: 3}
    other = DrawnBudgets(drawn.rows, drawn.ladders, drawn.preprocess, seed=1)
    assert drawn.chosen != other.chosen


def test_each_epoch_draws_a_budget_and_its_label(drawn):
    numbers = range(3 * len(drawn))
    found = [EveryEpoch(drawn)[number] for number in numbers]
    again = [EveryEpoch(drawn)[number] for number in numbers]
    seen = {}
    for number, item, same in zip(numbers, found, again, strict=True):
        kind, _, index = item.id.partition("-")
        n_tokens = int(np.prod(item.image.geometry.grid))
        assert (same.id, int(np.prod(same.image.geometry.grid))) == (item.id, n_tokens)
        assert n_tokens in BUDGETS[:-2]  # never one of the two oracles
        assert int(item.labels[0, 0]) == (1 if kind == "hard" and n_tokens <= 9 else 0)
        seen.setdefault(index, set()).add(number // len(drawn))
    assert all(epochs == {0, 1, 2} for epochs in seen.values())
    first, second = (
        [int(np.prod(item.image.geometry.grid)) for item in found[start : start + len(drawn)]]
        for start in (0, len(drawn))
    )
    assert first != second
    assert drawn[0].id == found[0].id


def test_what_is_drawn_anew_is_not_cached(qwen, drawn, tmp_path):
    source = TrainingSource(drawn, StoredLabelBatcher(qwen, 1), {"kind": "budget"}, 1, {}, "")
    with pytest.raises(ConfigError, match="drawn anew in each epoch"):
        FeatureCache(tmp_path, qwen, 1, source, SETTINGS)


# -- the command ---------------------------------------------------------------------------------


def sdrpn(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_trains_a_gate(model, run, start, tmp_path):
    words = ["train", run, "--objective", "gate", "--rpn", start, "--model", model]
    words += ["--out", tmp_path, "--gate", "decoder", "--gate-option", "n_layers=1", "--lr", "1e-3"]
    words += ["--global-batch-size", "4", "--margin", "0.3", "--device", "cpu", "--json"]
    result = sdrpn(*words)
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert (values["steps"], values["samples"], values["skipped"]) == (2, 6, 1)
    rpn = RPN.from_pretrained(tmp_path / "rpn", backbone=tiny_llava())
    assert rpn.config.gate.options == {"n_layers": 1}
    facts = json.loads((tmp_path / "run.json").read_text())
    assert facts["objective"]["margins"]["margin"] == 0.3
    assert json.loads(sdrpn(*words).stdout)["resumed_from"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--objective", "gates"), "'gate'"),
        (("--objective", "gate"), "goes on from a trained RPN: give --rpn"),
        (("--margin", "1"), "--margin is for --objective gate"),
        (("--objective", "gate", "--rpn", "x/y", "--loss", "mse"), "--loss is for --objective lab"),
        (("--objective", "gate", "--rpn", "./gone"), "no such RPN folder"),
        (("--objective", "gate", "--rpn", "RPN", "--gate", "linaer"), "'linear'"),
        (
            ("--objective", "gate", "--rpn", "RPN", "--gate-option", "n_layer=1"),
            "options: n_layers",
        ),
        (("--objective", "gate", "--rpn", "RPN", "--margin", "0"), "must not exceed the margin"),
    ],
    ids=" ".join,
)
def test_errors_are_one_line(model, run, start, tmp_path, words, message):
    words = [start if word == "RPN" else word for word in words]
    result = sdrpn("train", run, "--model", model, "--out", tmp_path / "out", *words)
    assert result.exit_code == 1
    assert message in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()
