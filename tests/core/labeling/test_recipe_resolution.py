"""The resolution of a label recipe: the stock processor's at that budget, in every stage."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sdrpn_core import find_heads
from sdrpn_core.cli.main import app
from sdrpn_core.data.record import Record
from sdrpn_core.errors import ConfigError
from sdrpn_core.labeling.run import LabelDataset
from sdrpn_core.labeling.stage import label
from sdrpn_core.labels.recipe import LabelRecipe
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_core.training.label_objective import LabelObjective
from sdrpn_core.training.settings import TrainingSettings
from sdrpn_core.training.stage import train
from tests.stage_data import RECIPE, records
from tests.tiny import tiny_image, tiny_llava
from tests.tiny_qwen2_5_vl import CELL, tiny_qwen2_5_vl, write_tiny_qwen2_5_vl

N_TOKENS = 12
COARSE = replace(RECIPE, visual_tokens=N_TOKENS)
CONFIG = RPNConfig(branch=2, n_layers=1)
SETTINGS = TrainingSettings(
    learning_rate=1e-3, max_steps=2, global_batch_size=2, micro_batch_size=2, num_workers=0
)
SIZES = ((300, 200), (90, 400))


@pytest.fixture(scope="module")
def backbone():
    return tiny_qwen2_5_vl()


@pytest.fixture(scope="module")
def set_up():
    """The same model behind a stock processor that was set to the budget."""
    return tiny_qwen2_5_vl(max_pixels=N_TOKENS * CELL**2)


def questions(response: str | None = "red dot") -> list[Record]:
    return [
        Record(f"r{index}", tiny_image(index, size), "what color?", response=response)
        for index, size in enumerate(SIZES)
    ]


@pytest.fixture(scope="module")
def coarse(backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("coarse")
    label(backbone, questions(), folder, recipe=COARSE)
    return folder


@pytest.mark.parametrize("response", ["red dot", None], ids=["given", "generated"])
def test_labels_are_made_at_the_recipes_resolution(backbone, set_up, tmp_path, response):
    for name, model, recipe in (("found", backbone, COARSE), ("expected", set_up, RECIPE)):
        label(model, questions(response), tmp_path / name, recipe=recipe, max_new_tokens=4)
    native = backbone.preprocess(questions()[0].images[0]).geometry.grid
    for found, expected in zip(
        LabelDataset(tmp_path / "found"), LabelDataset(tmp_path / "expected"), strict=True
    ):
        assert found.geometry == expected.geometry
        assert np.prod(found.geometry.grid) <= N_TOKENS < np.prod(native)
        assert found.response_ids == expected.response_ids
        np.testing.assert_allclose(found.grounding, expected.grounding, atol=1e-6)
        np.testing.assert_allclose(found.sink, expected.sink, atol=1e-6)


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "lazy"])
def test_training_sees_what_was_labeled(backbone, set_up, coarse, tmp_path, stored):
    data = coarse if stored else questions()
    recipe = None if stored else COARSE
    result = train(backbone, data, tmp_path / "found", SETTINGS, CONFIG, recipe=recipe)
    label(set_up, questions(), tmp_path / "labels", recipe=RECIPE)
    expected = train(
        set_up,
        tmp_path / "labels" if stored else questions(),
        tmp_path / "expected",
        SETTINGS,
        CONFIG,
        recipe=RECIPE,
    )
    for name, tensor in expected.rpn.state_dict().items():
        torch.testing.assert_close(result.rpn.state_dict()[name], tensor, rtol=0, atol=1e-5)
    assert result.rpn.config.recipe["visual_tokens"] == N_TOKENS


def test_training_on_stored_labels_may_look_closer(backbone, coarse):
    """Labels of one grid, features of another: the scores are resized."""
    objective = LabelObjective(CONFIG, recipe_options={"visual_tokens": 30})
    sample = objective.source(backbone, coarse, SETTINGS).samples[0]
    finer = tiny_qwen2_5_vl(max_pixels=30 * CELL**2)
    expected = finer.preprocess(questions()[0].images[0])
    assert sample.image.geometry == expected.geometry
    assert np.prod(sample.labels.shape) <= N_TOKENS < np.prod(sample.image.geometry.grid)


def test_options_replace_fields_of_whichever_recipe(backbone, coarse):
    default = LabelObjective(CONFIG).source(backbone, coarse, SETTINGS)
    assert default.labels["recipe"] == COARSE.to_dict()
    options = {"foreground": 0.999, "background": 0.99}
    changed = LabelObjective(CONFIG, recipe_options=options).source(backbone, coarse, SETTINGS)
    assert changed.labels["recipe"] == {**COARSE.to_dict(), **options}
    kept = [(source.samples[0].labels == 1).sum() for source in (default, changed)]
    assert kept[0] > kept[1] == 1  # the peak alone
    with pytest.raises(ConfigError, match="foregruond"):
        LabelObjective(CONFIG, recipe_options={"foregruond": 1}).source(backbone, coarse, SETTINGS)


def test_heads_are_found_at_the_recipes_resolution(backbone, set_up):
    asked = [replace(one, boxes=((0, 0, 40, 40),)) for one in questions() + questions()]
    asked = [replace(one, id=str(n), question=f"what {n}?") for n, one in enumerate(asked)]
    found = find_heads(backbone, asked, recipe_options={"visual_tokens": N_TOKENS}, progress=False)
    expected = find_heads(set_up, asked, progress=False)
    assert found.recipe == replace(expected.recipe, visual_tokens=N_TOKENS)
    assert found.chance == expected.chance
    other = find_heads(backbone, asked, progress=False)
    assert other.chance != expected.chance
    for one, same in zip(found.scores, expected.scores, strict=True):
        assert (one.layer, one.head) == (same.layer, same.head)
        assert one.mass == pytest.approx(same.mass, abs=1e-5)


def test_a_fixed_resolution_refuses_before_anything_runs(tmp_path):
    llava = tiny_llava()
    message = "visual_tokens=12"
    with pytest.raises(ConfigError, match=message):
        label(llava, records(2), tmp_path / "labels", recipe=COARSE)
    with pytest.raises(ConfigError, match=message):
        find_heads(llava, records(2), recipe_options={"visual_tokens": N_TOKENS}, progress=False)
    with pytest.raises(ConfigError, match="resolution is fixed"):
        train(llava, records(2), tmp_path / "run", SETTINGS, CONFIG, recipe=COARSE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [0, -1])
def test_impossible_numbers_are_refused(value):
    with pytest.raises(ConfigError, match="visual_tokens must be 1 or more, or None"):
        replace(RECIPE, visual_tokens=value)


def test_a_recipe_without_a_resolution_is_written_as_before():
    """The manifests of runs that are continued hold it."""
    assert "visual_tokens" not in RECIPE.to_dict()
    for recipe in (RECIPE, COARSE):
        assert LabelRecipe.from_json(recipe.to_json()) == recipe


def test_the_command_line_sets_fields_of_the_recipe(tmp_path):
    model = write_tiny_qwen2_5_vl(tmp_path / "model")
    tiny_image(0, (300, 200)).save(tmp_path / "a.png")
    line = {"image": "a.png", "question": "what color?", "response": "red dot"}
    (tmp_path / "data.jsonl").write_text(json.dumps(line))
    (tmp_path / "recipe.json").write_text(RECIPE.to_json())
    both = ("-m", model, "--recipe", tmp_path / "recipe.json")
    sdrpn(
        "label",
        tmp_path / "data.jsonl",
        "-o",
        tmp_path / "labels",
        *both,
        "--recipe-option",
        f"visual_tokens={N_TOKENS}",
    )
    (row,) = LabelDataset(tmp_path / "labels")
    assert np.prod(row.geometry.grid) <= N_TOKENS
    sdrpn(
        "train",
        tmp_path / "labels",
        "-m",
        model,
        "-o",
        tmp_path / "run",
        "--branch",
        2,
        "--layers",
        1,
        "--steps",
        1,
        "--recipe-option",
        "foreground=0.4",
    )
    saved = json.loads((tmp_path / "run/rpn/config.json").read_text())["recipe"]
    assert (saved["visual_tokens"], saved["foreground"]) == (N_TOKENS, 0.4)


def sdrpn(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
