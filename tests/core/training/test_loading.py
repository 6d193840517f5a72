"""What a training run starts from: everything in its turn, and no more layers than it needs."""

from __future__ import annotations

from dataclasses import replace

import pytest

import sdrpn_core.training.loading
from sdrpn_core import load_backbone, load_for_training
from sdrpn_core.backbone.identity import backbone_identity
from sdrpn_core.backbone.preset import Preset
from sdrpn_core.backbone.recipe_file import RecipeFile
from sdrpn_core.errors import ConfigError, InputError
from sdrpn_core.training.settings import TrainingSettings
from sdrpn_core.training.stage import train
from tests.stage_data import RECIPE, records
from tests.tiny import write_tiny_llava

SHAPE = {"branch": 2, "n_layers": 1, "head_options": {"rope": False}}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_llava(tmp_path_factory.mktemp("model"))


@pytest.fixture
def recipe_path(model, tmp_path):
    identity = backbone_identity(load_backbone(model, device="cpu"), branch=0)
    path = tmp_path / "recipe.json"
    RecipeFile(RECIPE, branch=1, n_layers=2, backbone=identity).write(path)
    return path


@pytest.fixture
def preset(model, fresh_plugins):
    preset = Preset(
        name="tiny",
        match={"text_config.num_hidden_layers": 6, "text_config.hidden_size": 64},
        branch=3,
        n_layers=2,
        recipes={"deep": replace(RECIPE, grounding={5: (0,)})},
        training={"learning_rate": 0.5, "epochs": 3},
    )
    fresh_plugins.presets.add("tiny", preset)
    return preset


def test_without_a_preset_the_shape_is_given_and_the_rest_is_default(model):
    inputs = load_for_training(model, settings={"epochs": 2}, config=SHAPE, device="cpu")
    assert inputs.settings == TrainingSettings(epochs=2)
    assert (inputs.config.branch, inputs.config.n_layers) == (2, 1)
    assert inputs.recipe is None
    assert len(inputs.backbone.layers) == 3
    with pytest.raises(ConfigError, match="no preset matches"):
        load_for_training(model, device="cpu")


def test_arguments_win_over_the_recipe_file_and_that_over_the_preset(model, preset, recipe_path):
    plain = load_for_training(model, device="cpu")
    assert (plain.config.branch, plain.config.n_layers) == (3, 2)
    assert (plain.settings.learning_rate, plain.settings.epochs) == (0.5, 3)
    assert len(plain.backbone.layers) == 5
    planned = load_for_training(model, recipe=recipe_path, settings={"epochs": 1}, device="cpu")
    assert (planned.config.branch, planned.config.n_layers) == (1, 2)
    assert (planned.settings.learning_rate, planned.settings.epochs) == (0.5, 1)
    assert planned.recipe == RECIPE
    assert len(planned.backbone.layers) == 3
    chosen = load_for_training(model, recipe=recipe_path, config={"branch": 0}, device="cpu")
    assert (chosen.config.branch, chosen.config.n_layers) == (0, 2)
    named = load_for_training(model, recipe="deep", device="cpu")
    assert named.recipe == preset.recipes["deep"]


def test_labels_made_while_training_need_the_layers_that_they_are_read_from(
    model, preset, recipe_path, tmp_path
):
    assert len(load_for_training(model, lazy=True, device="cpu").backbone.layers) == 6
    inputs = load_for_training(
        model,
        recipe=recipe_path,
        lazy=True,
        settings={"max_steps": 1, "global_batch_size": 4},
        config={"head_options": {"rope": False}, "branch": 1, "n_layers": 1},
        device="cpu",
    )
    assert len(inputs.backbone.layers) == 4
    result = train(
        inputs.backbone,
        records(4),
        tmp_path / "run",
        inputs.settings,
        inputs.config,
        recipe=inputs.recipe,
    )
    assert (result.steps, result.skipped) == (1, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"settings": {"epoch": 1}}, "training settings: unknown field 'epoch'"),
        ({"config": {**SHAPE, "loss": "l1"}}, "unknown loss 'l1'"),
        ({"config": SHAPE, "recipe": "none.json"}, "cannot read the label recipe none.json"),
        ({}, "no preset matches"),
    ],
    ids=["settings", "config", "recipe", "preset"],
)
def test_mistakes_are_found_before_any_weight_is_read(model, monkeypatch, arguments, message):
    def never(*args):
        raise AssertionError("weights were read")

    monkeypatch.setattr(sdrpn_core.training.loading, "load_for_process", never)
    with pytest.raises(ConfigError, match=message):
        load_for_training(model, **arguments)


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        load_for_training(tmp_path / "nowhere")
