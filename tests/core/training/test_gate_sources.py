"""Where a gate's labels come from: utilities by their margins, and budgets drawn by epoch."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sdrpn_core.backbone.identity import backbone_identity
from sdrpn_core.cli.main import app
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.crops.mask import MaskPolicy
from sdrpn_core.errors import ConfigError, ShardError
from sdrpn_core.gate.budget_labels import Difficulty
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
from sdrpn_core.utility.ladder_row import LadderRow
from sdrpn_core.utility.ladder_run import LadderManifest
from sdrpn_core.utility.ladder_run import open_run as open_ladder
from sdrpn_core.utility.row import UtilityRow, UtilityStatus
from sdrpn_core.utility.run import UtilityManifest, open_run
from tests.judged_data import QUESTION, write_judged
from tests.tiny import tiny_image, tiny_llava, write_tiny_llava
from tests.tiny_qwen2_5_vl import tiny_qwen2_5_vl

#: What the RPN's region is worth; ``None``: it was not judged.
UTILITIES = [2.0, 0.0, -1.0, 0.4, None, 0.71, 0.09]
EXPECTED = [1, 0, 0, IGNORE, None, 1, 0]
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


@pytest.fixture(scope="module")
def rpn(backbone):
    return new_rpn(backbone)


@pytest.fixture(scope="module")
def run(backbone, rpn, tmp_path_factory):
    return write_judged(backbone, rpn, tmp_path_factory.mktemp("judged") / "run", UTILITIES)


@pytest.fixture(scope="module")
def start(rpn, tmp_path_factory):
    return rpn.save_pretrained(tmp_path_factory.mktemp("start"))


def new_rpn(backbone, seed=0):
    torch.manual_seed(seed)
    rpn = RPN.from_backbone(backbone, branch=BRANCH, n_layers=2)
    with torch.no_grad():
        rpn.layers[0].mlp.up_proj.weight.add_(torch.randn(1))
    return rpn


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


def test_a_gate_sees_what_its_regions_were_judged_beside(qwen, qwen_start, tmp_path):
    rpn = RPN.from_pretrained(qwen_start, backbone=qwen)
    for name, n_tokens in (("coarse", 4), ("whole", None)):
        folder = write_judged(qwen, rpn, tmp_path / name, [1.0], first_look_tokens=n_tokens)
        item = GateObjective(qwen_start).source(qwen, folder, SETTINGS).samples[0]
        looking = qwen if n_tokens is None else qwen.with_visual_tokens(n_tokens)
        expected = looking.preprocess(tiny_image(0)).geometry
        assert item.image.geometry == expected
    assert expected != qwen.with_visual_tokens(4).preprocess(tiny_image(0)).geometry


def test_an_image_that_is_gone_is_skipped(backbone, rpn, start, tmp_path):
    folder = write_judged(backbone, rpn, tmp_path / "run", [1.0, 0.0])
    (tmp_path / "run-images/1.png").unlink()
    source = GateObjective(start).source(backbone, folder, SETTINGS)
    assert isinstance(source.samples[1], SkippedSample)
    assert "1.png" in source.samples[1].reason


@pytest.mark.parametrize(
    ("utilities", "said"),
    [
        ([2.0, 0.4, None, 1.0], "every labeled question needs a region: a gate can only learn to"),
        ([0.0, 0.4, -1.0], "every labeled question needs no region: a gate can only learn"),
        ([0.0, 0.4, 2.0], None),
        ([0.4, 0.5], None),  # without a label the run is refused
    ],
    ids=["always", "never", "both", "neither"],
)
def test_labels_that_are_all_the_same_are_warned_of(
    backbone, rpn, start, tmp_path, caplog, utilities, said
):
    folder = write_judged(backbone, rpn, tmp_path / "run", utilities)
    GateObjective(start).source(backbone, folder, SETTINGS)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (said is not None)
    assert said is None or said in messages[0]


@pytest.mark.parametrize(
    "margins", [{"margin": 0.1, "indifference": 0.2}, {"margin": float("nan")}], ids=str
)
def test_impossible_margins_are_refused(margins):
    with pytest.raises(ConfigError, match="indifference"):
        UtilityMargins(**margins)


def test_a_run_of_another_backbone_or_rpn_is_refused(backbone, run, start, tmp_path):
    other = tiny_llava(seed=3)
    new_rpn(other).save_pretrained(tmp_path / "rpn")
    objective = GateObjective(tmp_path / "rpn")
    own = write_judged(other, new_rpn(other), tmp_path / "own", UTILITIES)
    assert len(objective.source(other, own, SETTINGS).samples) == len(UTILITIES)
    judged = write_judged(backbone, new_rpn(other), tmp_path / "judged", UTILITIES)
    with pytest.raises(ShardError, match="belongs to another backbone"):
        train(other, judged, tmp_path / "run", SETTINGS, objective=objective)
    new_rpn(backbone, seed=1).save_pretrained(tmp_path / "second")
    with pytest.raises(ShardError, match="judges the regions of another RPN than"):
        GateObjective(tmp_path / "second").source(backbone, run, SETTINGS)
    manifest = UtilityManifest.read(run)
    without = replace(manifest, provenance={**manifest.provenance, "rpn": None})
    with pytest.raises(ShardError, match=r"no RPN's regions were judged: run it with --rpn"):
        GateObjective(start).source(backbone, skipped(tmp_path / "boxes", without), SETTINGS)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (
            BboxPolicy(threshold=0.4, margin=0.5),
            "margin is 0.5 there .*; threshold is 0.4",
        ),
        (MaskPolicy(), "policy is MaskPolicy there and BboxPolicy here: judge again without"),
    ],
    ids=["options", "policy"],
)
def test_regions_that_another_policy_crops_are_refused(
    backbone, rpn, start, tmp_path, policy, message
):
    judged = write_judged(backbone, rpn, tmp_path / "run", UTILITIES, policy=policy)
    with pytest.raises(ShardError, match=message):
        GateObjective(start).source(backbone, judged, SETTINGS)


def test_a_gate_can_be_trained_anew_on_the_same_judged_regions(backbone, run, start, tmp_path):
    gated = RPN.from_pretrained(start, backbone=backbone)
    gated.add_gate(backbone, GateConfig("linear"))
    gated.save_pretrained(tmp_path / "gated")
    source = GateObjective(tmp_path / "gated", GateConfig("linear")).source(backbone, run, SETTINGS)
    assert len(source.samples) == len(UTILITIES)


def test_a_run_without_rows_and_data_of_another_kind_are_refused(backbone, run, start, tmp_path):
    empty = skipped(tmp_path / "empty", UtilityManifest.read(run))
    with pytest.raises(ShardError, match="every record was skipped"):
        GateObjective(start).source(backbone, empty, SETTINGS)
    with pytest.raises(ConfigError, match="folder of a utility run or a ladder run"):
        GateObjective(start).source(backbone, [1, 2], SETTINGS)
    with pytest.raises(ShardError, match="is not a utility run"):
        GateObjective(start).source(backbone, tmp_path, SETTINGS)


def skipped(folder, manifest):
    """A run whose records were all skipped."""
    rows = [
        UtilityRow(index, f"r{index}", QUESTION, None, UtilityStatus.INVALID, "no image")
        for index in range(manifest.records)
    ]
    open_run(folder, manifest).write_shard(0, rows)
    return folder


# -- budgets -------------------------------------------------------------------------------------

#: Squares: a square image fills each of them.
BUDGETS = (4, 9, 16, 25, 36)
ANSWERS = {
    "easy": ("red", "red", "red", "red", "red"),
    "hard": ("blue", "green", "red", "red", "red"),
    "flips": ("blue", "red", "blue", "red", "red"),
}


@pytest.fixture(scope="module")
def qwen():
    return tiny_qwen2_5_vl()


def write_ladder(backbone, folder, kinds, budgets=BUDGETS):
    """A ladder run of one shard, all about one image."""
    path = folder.with_suffix(".png")
    tiny_image(0, (400, 400)).save(path)
    rows = [
        LadderRow(
            index=index,
            id=f"{kind}-{index}",
            question=QUESTION,
            image=path,
            resolutions=budgets,
            visual_tokens=budgets,
            answers=ANSWERS[kind][-len(budgets) :],
            truths=("red",),
        )
        for index, kind in enumerate(kinds)
    ]
    provenance = {
        "backbone": backbone_identity(backbone, branch=0),
        "resolutions": list(budgets),
    }
    manifest = LadderManifest(len(rows), "fingerprint", len(rows), provenance, "tiny")
    open_ladder(folder, manifest).write_shard(0, rows)
    return folder


@pytest.fixture(scope="module")
def ladder(qwen, tmp_path_factory):
    kinds = ["easy"] * 5 + ["hard"] * 3 + ["flips"]
    return write_ladder(qwen, tmp_path_factory.mktemp("ladder") / "run", kinds)


@pytest.fixture(scope="module")
def qwen_start(qwen, tmp_path_factory):
    return new_rpn(qwen).save_pretrained(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def drawn(qwen, ladder, qwen_start):
    return GateObjective(qwen_start).source(qwen, ladder, SETTINGS).samples


def test_the_mixture_is_that_of_the_rule(drawn):
    assert len(drawn) == 6
    kinds = Counter(drawn.ladders[place].difficulty for place in drawn.chosen)
    assert kinds == {Difficulty.HARD: 3, Difficulty.EASY: 3}
    other = DrawnBudgets(drawn.rows, drawn.ladders, drawn.preprocess, seed=1)
    assert drawn.chosen != other.chosen


def test_a_gate_is_trained_on_a_ladder(qwen, ladder, qwen_start, tmp_path):
    objective = GateObjective(qwen_start, GateConfig("decoder", {"n_layers": 1}))
    chosen = replace(SETTINGS, epochs=2)
    whole = train(qwen, ladder, tmp_path / "whole", chosen, objective=objective)
    assert (whole.steps, whole.samples, whole.skipped) == (4, 12, 0)
    assert whole.rpn.config.gate.labels == "budget"
    # The draws of an epoch are those of the step, whoever makes them.
    once = replace(chosen, micro_batch_size=1, num_workers=1)
    again = train(qwen, ladder, tmp_path / "again", once, objective=objective)
    for name, tensor in whole.rpn.state_dict().items():
        torch.testing.assert_close(again.rpn.state_dict()[name], tensor, rtol=0, atol=1e-5)


def test_a_gate_is_trained_on_several_ladders(qwen, ladder, qwen_start, tmp_path):
    other = write_ladder(qwen, tmp_path / "other", ["hard", "easy"])
    objective = GateObjective(qwen_start, GateConfig("linear"))
    result = train(qwen, [ladder, other], tmp_path / "gate", SETTINGS, objective=objective)
    assert (result.samples, result.skipped) == (8, 0)
    assert result.rpn.config.gate.labels == "budget"


@pytest.mark.parametrize(
    ("kinds", "budgets", "message"),
    [
        (["hard"], BUDGETS[-2:], "answers at 2 budgets: labels need at least 3"),
        (["easy", "flips"], BUDGETS, "none of its 2 questions fails at low budgets alone"),
    ],
)
def test_ladders_without_labels_are_refused(qwen, qwen_start, tmp_path, kinds, budgets, message):
    folder = write_ladder(qwen, tmp_path / "run", kinds, budgets)
    with pytest.raises(ShardError, match=message):
        GateObjective(qwen_start).source(qwen, folder, SETTINGS)


def test_a_family_of_fixed_resolution_has_no_budgets(backbone, start, tmp_path):
    folder = write_ladder(backbone, tmp_path / "run", ["hard"])
    with pytest.raises(ConfigError, match="of visual tokens"):
        GateObjective(start).source(backbone, folder, SETTINGS)


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
