"""Training on several runs together: each with labels of its own, and the weights of one run."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from sdrpn_core.cli.main import app
from sdrpn_core.errors import CheckpointError, ConfigError, ShardError
from sdrpn_core.gate.config import GateConfig
from sdrpn_core.labeling.run import LabelDataset
from sdrpn_core.labeling.stage import label
from sdrpn_core.labels.pseudo import IGNORE, ThresholdLabeler
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_core.rpn.model import RPN
from sdrpn_core.training.gate_objective import GateObjective
from sdrpn_core.training.label_objective import LabelObjective
from sdrpn_core.training.samples import DrawnSamples, EveryEpoch, TrainingSample
from sdrpn_core.training.settings import TrainingSettings
from sdrpn_core.training.several_runs import JoinedDraws, training_source
from sdrpn_core.training.stage import train
from tests.core.training.killed import killed_at
from tests.judged_data import write_judged
from tests.stage_data import RECIPE, records
from tests.tiny import tiny_image, tiny_llava, write_tiny_llava

CONFIG = RPNConfig(branch=2, n_layers=2, head_options={"rope": False})
SETTINGS = TrainingSettings(
    learning_rate=1e-3, epochs=2, global_batch_size=4, micro_batch_size=2, log_every=1
)
#: Reads other heads, and takes other cells of a map than RECIPE does.
OTHER_RECIPE = replace(RECIPE, grounding={1: (3,)}, sink={}, foreground=0.6, background=0.3)
N_FIRST, N = 4, 7


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava()


@pytest.fixture(scope="module")
def runs(backbone, tmp_path_factory):
    """Label runs: of all records, of the first and of the last; the last by another recipe, too."""
    folder = tmp_path_factory.mktemp("runs")
    everything = records(N)
    parts = {
        "all": (everything, RECIPE),
        "first": (everything[:N_FIRST], RECIPE),
        "last": (everything[N_FIRST:], RECIPE),
        "other": (everything[N_FIRST:], OTHER_RECIPE),
    }
    for name, (part, recipe) in parts.items():
        # One at a time: the maps of a record do not depend on what else is in its batch.
        label(backbone, part, folder / name, recipe=recipe, batch_size=1)
    return folder


def weights(folder):
    return load_file(folder / "rpn/model.safetensors")


def assert_identical(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("cached", [False, True], ids=["features", "feature cache"])
def test_two_runs_give_the_weights_of_one_run_about_all_their_records(
    backbone, runs, tmp_path, cached
):
    one, two = (tmp_path / name for name in ("one", "two"))
    caches = [{"feature_cache": tmp_path / f"cache-{n}"} if cached else {} for n in (1, 2)]
    train(backbone, runs / "all", one, SETTINGS, CONFIG, **caches[0])
    result = train(backbone, [runs / "first", runs / "last"], two, SETTINGS, CONFIG, **caches[1])
    assert (result.samples, result.steps) == (2 * N, 4)
    assert_identical(weights(two), weights(one))
    # A run that is left out would be noticed.
    train(backbone, [runs / "first"], tmp_path / "part", SETTINGS, CONFIG)
    assert not torch.equal(*(next(iter(weights(f).values())) for f in (one, tmp_path / "part")))


def test_each_run_keeps_its_own_recipe(backbone, runs, tmp_path):
    chosen = [runs / "first", runs / "other"]
    source = training_source(LabelObjective(CONFIG), backbone, chosen, SETTINGS)
    assert len(source.samples) == N
    expected = [
        ThresholdLabeler(recipe)(row.grounding, row.sink, row.geometry.content()).labels
        for folder, recipe in zip(chosen, (RECIPE, OTHER_RECIPE), strict=True)
        for row in LabelDataset(folder)
    ]
    for index, labels in enumerate(expected):
        sample = source.samples[index]
        assert sample.id == f"r{index}"
        np.testing.assert_array_equal(sample.labels, labels)
    by_first = [
        ThresholdLabeler(RECIPE)(row.grounding, row.sink, row.geometry.content()).labels
        for row in LabelDataset(runs / "other")
    ]
    assert any(np.any(a != b) for a, b in zip(by_first, expected[N_FIRST:], strict=True))

    train(backbone, chosen, tmp_path, replace(SETTINGS, max_steps=1), CONFIG)
    saved = json.loads((tmp_path / "rpn/config.json").read_text())
    assert saved["recipe"] == RECIPE.to_dict()
    labels = json.loads((tmp_path / "rpn/training.json").read_text())["labels"]
    assert [run["recipe"] for run in labels["runs"]] == [RECIPE.to_dict(), OTHER_RECIPE.to_dict()]


def test_a_killed_run_on_several_goes_on_and_other_runs_are_another_run(backbone, runs, tmp_path):
    chosen = [str(runs / "first"), LabelDataset(runs / "other")]
    often = replace(SETTINGS, checkpoint_every=1)
    train(backbone, chosen, tmp_path / "whole", often, CONFIG)
    with killed_at(2):
        train(backbone, chosen, tmp_path / "killed", often, CONFIG)
    with pytest.raises(CheckpointError, match=r"holds another training run: data\.\w+ is"):
        train(backbone, runs / "first", tmp_path / "killed", often, CONFIG)
    with pytest.raises(CheckpointError, match=r"holds another training run: data\.runs is"):
        train(backbone, [chosen[0], runs / "last"], tmp_path / "killed", often, CONFIG)
    result = train(backbone, chosen, tmp_path / "killed", often, CONFIG)
    assert result.resumed_from == 1
    assert_identical(weights(tmp_path / "killed"), weights(tmp_path / "whole"))


def test_the_same_run_twice_and_lists_of_other_things_are_refused(backbone, runs, tmp_path):
    twice = [runs / "first", runs / "last", LabelDataset(runs / "first")]
    with pytest.raises(ConfigError, match=r"first and .*first are the same run: give it once"):
        train(backbone, twice, tmp_path, SETTINGS, CONFIG)
    with pytest.raises(ConfigError, match="a list of runs holds Record: give folders of runs"):
        train(backbone, [runs / "first", *records(1)], tmp_path, SETTINGS, CONFIG)
    with pytest.raises(ConfigError, match="other was labeled with heads"):
        train(backbone, [runs / "first", runs / "other"], tmp_path, SETTINGS, CONFIG, recipe=RECIPE)
    with pytest.raises(ShardError, match="nothing is not a label run"):
        train(backbone, [runs / "first", runs / "nothing"], tmp_path, SETTINGS, CONFIG)
    assert not list(tmp_path.iterdir())


def test_records_are_still_records(backbone, tmp_path):
    result = train(
        backbone, records(2), tmp_path, replace(SETTINGS, epochs=1), CONFIG, recipe=RECIPE
    )
    assert result.samples == 2


def test_a_gate_learns_from_several_utility_runs(backbone, tmp_path):
    torch.manual_seed(0)
    rpn = RPN.from_backbone(backbone, branch=1, n_layers=2)
    start = rpn.save_pretrained(tmp_path / "start")
    utilities = ([2.0, 0.0, 0.4], [-1.0, 3.0])
    folders = [
        write_judged(backbone, rpn, tmp_path / str(number), part)
        for number, part in enumerate(utilities)
    ]
    objective = GateObjective(start, GateConfig("linear"))
    source = training_source(objective, backbone, folders, SETTINGS)
    found = [source.samples[index].labels.item() for index in range(len(source.samples))]
    assert found == [1, 0, IGNORE, 0, 1]
    result = train(backbone, folders, tmp_path / "gate", SETTINGS, objective=objective)
    assert (result.samples, result.rpn.config.gate.labels) == (10, "utility")


class Budgets(DrawnSamples):
    """Answers with its name, the index and the epoch."""

    def __init__(self, name, n):
        self.name, self.n = name, n

    def __len__(self):
        return self.n

    def draw(self, index, epoch):
        assert 0 <= index < self.n
        return TrainingSample(f"{self.name}{index}", f"epoch {epoch}", None)


def test_samples_that_are_drawn_anew_are_so_in_every_run():
    joined = JoinedDraws([Budgets("a", 2), Budgets("b", 1), Budgets("c", 3)])
    every = EveryEpoch(joined)
    for epoch in range(3):
        found = [every[epoch * len(joined) + index] for index in range(len(joined))]
        assert [item.id for item in found] == ["a0", "a1", "b0", "c0", "c1", "c2"]
        assert {item.question for item in found} == {f"epoch {epoch}"}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A model and two label runs of it, made by the command line."""
    folder = tmp_path_factory.mktemp("stored")
    model = write_tiny_llava(folder / "model")
    for name, recipe in (("natural", RECIPE), ("text", OTHER_RECIPE)):
        image = folder / f"{name}.png"
        tiny_image(random.Random(name).randrange(100), (60, 60)).save(image)
        line = {"image": str(image), "question": "read the sign", "response": "yes"}
        (folder / f"{name}.jsonl").write_text(json.dumps(line))
        (folder / f"{name}.json").write_text(recipe.to_json())
        data, how = folder / f"{name}.jsonl", folder / f"{name}.json"
        sdrpn("label", data, "-m", model, "-o", folder / name, "--recipe", how)
    return folder


def sdrpn(*words, fails=False):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert (result.exit_code != 0) == fails, result.output
    return result


def test_the_command_line_takes_several_runs(stored, tmp_path):
    shape = ("--branch", 2, "--layers", 2, "--steps", 1)
    runs = (stored / "natural", stored / "text")
    printed = sdrpn("train", *runs, "-m", stored / "model", "-o", tmp_path, *shape, "--json")
    values = json.loads(printed.stdout)
    assert (values["samples"], values["skipped"]) == (2, 0)
    lazy = sdrpn("train", *runs, "-m", stored / "model", "-o", tmp_path, "--lazy", fails=True)
    assert "--lazy takes one data set, not 2" in lazy.stderr


def test_options_of_a_recipe_are_not_for_other_objectives(backbone, tmp_path):
    torch.manual_seed(0)
    start = RPN.from_backbone(backbone, branch=1, n_layers=2).save_pretrained(tmp_path / "start")
    objective = GateObjective(start, GateConfig("linear"))
    given = {"objective": objective, "recipe_options": {"foreground": 0.5}}
    with pytest.raises(ConfigError, match="recipe_options are for training on labels"):
        train(backbone, [tmp_path / "judged"], tmp_path / "run", SETTINGS, **given)
