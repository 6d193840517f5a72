"""The recipe file: a round trip, and one line for each way it can be wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sdrpn_core.backbone.identity import backbone_identity
from sdrpn_core.backbone.recipe_file import RecipeFile
from sdrpn_core.errors import ConfigError, SdrpnError
from tests.stage_data import RECIPE
from tests.tiny import tiny_llava


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava()


@pytest.fixture
def recipe_file(backbone):
    return RecipeFile(
        RECIPE, branch=3, n_layers=2, backbone=backbone_identity(backbone, 0), provenance={"n": 4}
    )


def test_what_was_written_is_read(recipe_file, backbone, tmp_path):
    recipe_file.write(tmp_path / "recipe.json")
    text = (tmp_path / "recipe.json").read_text()
    assert RecipeFile.recognizes(text)
    found = RecipeFile.from_json(text)
    assert found == recipe_file
    found.check_fits(backbone)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.json"]


@pytest.mark.parametrize("text", [RECIPE.to_json(), "[]", "{", '"recipe"'])
def test_a_bare_recipe_is_none(text):
    assert not RecipeFile.recognizes(text)
    with pytest.raises(ConfigError, match=r"no field recipe|not JSON|JSON object, found"):
        RecipeFile.from_json(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "version is 2, this sdrpn reads 1"),
        ({"branch": None}, "branch must be a whole number, not None"),
        ({"branch": -1}, "a branch of 0 or more .* not branch -1"),
        ({"n_layers": True}, "n_layers must be a whole number, not True"),
        ({"backbone": []}, "backbone must be an object"),
        ({"recipe": {"grounding": {}}}, "names no head"),
        ({"recipe": 7}, "recipe must be an object"),
    ],
)
def test_a_broken_file_says_what_is_wrong(recipe_file, change, message):
    with pytest.raises(ConfigError, match=message):
        RecipeFile.from_dict({**recipe_file.to_dict(), **change})


def test_another_backbone_is_refused(recipe_file):
    with pytest.raises(
        ConfigError, match=r"made for another backbone \(tiny-llava-0\) than tiny-llava-1: .*differ"
    ):
        recipe_file.check_fits(tiny_llava(1))
    with pytest.raises(ConfigError, match="num_hidden_layers is 4, expected 6"):
        recipe_file.check_fits(tiny_llava(num_hidden_layers=4))


def test_heads_that_do_not_exist_are_named(recipe_file, backbone):
    wrong = replace(recipe_file, recipe=replace(RECIPE, grounding={2: (1, 9)}))
    with pytest.raises(ConfigError, match="head 9 of layer 2, but its heads are 0 to 3"):
        wrong.check_fits(backbone)


def test_a_folder_that_does_not_exist_is_one_line(recipe_file, tmp_path):
    with pytest.raises(SdrpnError, match=r"cannot write .*missing"):
        recipe_file.write(tmp_path / "missing" / "recipe.json")
