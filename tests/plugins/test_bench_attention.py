"""The method `attention` crops where the map is high, whatever the crop policy of its RPN."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sdrpn_bench import BenchModel, run_benchmark
from sdrpn_bench.method import MethodContext
from sdrpn_bench.methods import RawAttention
from sdrpn_core import RPN, LabelRecipe
from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.attention_proposer import AttentionProposer
from sdrpn_core.answering.prefill import prefill
from sdrpn_core.backbone.identity import backbone_identity
from sdrpn_core.backbone.preset import Preset
from sdrpn_core.backbone.question import Question
from sdrpn_core.backbone.recipe_file import RecipeFile
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.crops.mask import MaskPolicy
from sdrpn_core.data.record import Record
from sdrpn_core.errors import ConfigError
from tests.tiny import prefer_padding, tiny_image, tiny_llava

RECIPE = LabelRecipe(grounding={2: (0, 1)}, foreground=0.3)
GRID = (12, 12)
#: A random model's attention is spread over the image: only a high share singles places out.
SHARE = 0.9


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava(grid=GRID[0])


def context(backbone, policy, **options):
    rpn = RPN.from_backbone(
        backbone,
        branch=3,
        n_layers=2,
        recipe=RECIPE.to_dict(),
        policy=policy,
        policy_options=options,
    )
    return MethodContext(backbone, rpn, max_new_tokens=3)


def proposer(method, backbone, policy, **options) -> AttentionProposer:
    made = method.proposer(context(backbone, policy, **options), [])
    assert isinstance(made, AttentionProposer)
    return made


@pytest.mark.parametrize("whole_grid", [False, True])
def test_under_a_mask_it_crops_only_where_the_map_is_high(backbone, whole_grid):
    """Also where the RPN's own policy, of a published model, looks at the whole image again."""
    attention = proposer(
        RawAttention(threshold=SHARE),
        backbone,
        "mask",
        threshold=0.15,
        relative=whole_grid,
        whole_grid=whole_grid,
        min_regions=1,
        blur=False,
    )
    question = Question("which color ?", (tiny_image(0, (120, 120)),))
    (found,) = answer_batch(backbone, [question], attention, max_new_tokens=3)
    (proposal,) = found.proposals
    assert proposal.roi is not None
    scores = proposal.roi.scores
    high = scores > SHARE * scores.max()
    assert 0 < high.sum() < high.size / 4, "a map that singles nothing out"
    (crop,) = proposal.plan.crops
    x0, y0, x1, y1 = crop.grid_box
    kept = np.zeros(GRID, dtype=bool)
    assert crop.keep is not None
    kept[y0:y1, x0:x1] = crop.keep == 1
    np.testing.assert_array_equal(kept, high)
    assert (y1 - y0) * (x1 - x0) < high.size


@pytest.mark.parametrize("options", [{"repetition_penalty": 1.5}, {"no_repeat_ngram_size": 1}])
def test_padding_is_no_part_of_what_options_read_of_a_prompt(options):
    """Nor are the holes behind shorter prefixes: maps are those of each question alone."""
    backbone = tiny_llava()
    prefer_padding(backbone, 11)
    backbone.model.generation_config.update(**options)
    questions = [
        Question(text, (tiny_image(seed, (150, 150)),))
        for seed, text in enumerate(("what color is the small dot ?", "how many ?", "which ?"))
    ]
    attention = AttentionProposer(RECIPE, "bbox", max_new_tokens=4)
    together = attention.maps(prefill(backbone, questions))
    for question, found in zip(questions, together, strict=True):
        (alone,) = attention.maps(prefill(backbone, [question]))
        assert (found is None) == (alone is None)
        if found is not None:
            np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)


def test_other_images_are_cropped_elsewhere(backbone):
    attention = proposer(
        RawAttention(threshold=SHARE), backbone, "mask", threshold=0.15, min_regions=1
    )
    images = [tiny_image(seed, (120, 120)) for seed in range(3)]
    with torch.no_grad():
        found = answer_batch(
            backbone,
            [Question("which color ?", (image,)) for image in images],
            attention,
            max_new_tokens=3,
        )
    assert len({tuple(answer.boxes) for answer in found}) > 1


@pytest.mark.parametrize(
    ("method", "options", "threshold"),
    [
        (RawAttention(), {"threshold": 0.15}, RECIPE.foreground),
        (RawAttention(), {"threshold": 0.15, "relative": True}, 0.15),
        (RawAttention(threshold=0.7), {"threshold": 0.15, "relative": True}, 0.7),
    ],
)
def test_the_threshold_is_a_share_of_the_maximum(backbone, method, options, threshold):
    assert proposer(method, backbone, "mask", min_regions=1, **options).policy == MaskPolicy(
        threshold=threshold, relative=True, min_regions=1
    )
    assert proposer(method, backbone, "bbox", **options).policy == BboxPolicy(
        threshold=threshold, relative=True
    )


def test_a_policy_that_crops_one_box_has_no_limit_to_override(backbone):
    assert proposer(RawAttention(max_crops=3), backbone, "bbox").policy == BboxPolicy(
        threshold=RECIPE.foreground, relative=True, max_crops=3
    )
    with pytest.raises(ConfigError, match="max_crops"):
        proposer(RawAttention(max_crops=3), backbone, "mask")


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(RECIPE.to_json())
    return path


@pytest.fixture
def with_preset(fresh_plugins):
    """A model that a preset with two recipes matches."""
    fields = {"text_config.num_hidden_layers": 6}
    recipes = {"first": RECIPE, "second": LabelRecipe(grounding={4: (1,)})}
    preset = Preset("tiny", fields, branch=3, n_layers=2, recipes=recipes)
    fresh_plugins.presets.add("tiny", preset)
    return MethodContext(tiny_llava(), max_new_tokens=3)


def records(n=2):
    return [Record(f"r{i}", tiny_image(i), "which color ?", answers=("red",)) for i in range(n)]


def compared(backbone, out, **options):
    return run_benchmark(
        BenchModel(backbone), ["baseline", "attention"], records(), out=out, max_new_tokens=2,
        method_options={"attention": options} if options else None,
    )  # fmt: skip


def test_a_recipe_file_serves_a_model_without_preset_and_rpn(backbone, recipe_file, tmp_path):
    bare = MethodContext(backbone, max_new_tokens=3)
    made = RawAttention(recipe=str(recipe_file)).proposer(bare, [])
    assert made.recipe == RECIPE
    assert made.policy == BboxPolicy(threshold=RECIPE.foreground, relative=True)
    results = compared(backbone, tmp_path / "run", recipe=str(recipe_file))
    assert results["methods"]["attention"]["n"] == 2
    assert results["models"]["tiny-llava-0"]["refused"] == {}
    assert results["method_options"]["attention"]["recipe"] == RECIPE.to_dict()


def test_a_recipe_goes_before_that_of_the_rpn(backbone, tmp_path):
    path = tmp_path / "other.json"
    other = LabelRecipe(grounding={4: (1,)})
    path.write_text(other.to_json())
    with_rpn = context(backbone, "bbox")
    assert RawAttention().proposer(with_rpn, []).recipe == RECIPE
    assert RawAttention(recipe=str(path)).proposer(with_rpn, []).recipe == other


def test_a_recipe_of_the_preset_has_a_name(with_preset):
    assert RawAttention().proposer(with_preset, []).recipe == RECIPE
    second = RawAttention(recipe="second")
    assert second.proposer(with_preset, []).recipe.grounding == {4: (1,)}
    assert second.options()["recipe"] == "second"
    assert second.unserved(with_preset) is None
    assert "it has: first, second" in RawAttention(recipe="third").unserved(with_preset)


def test_another_recipe_is_another_run(backbone, recipe_file, tmp_path):
    compared(backbone, tmp_path / "run", recipe=str(recipe_file))
    moved = recipe_file.rename(tmp_path / "moved.json")
    compared(backbone, tmp_path / "run", recipe=str(moved))  # the same recipe
    moved.write_text(LabelRecipe(grounding={2: (0,)}, foreground=0.3).to_json())
    differs = r"methods\.attention\.recipe\.grounding\.2 is \[0, 1\] there and \[0\] here"
    with pytest.raises(ConfigError, match=differs):
        compared(backbone, tmp_path / "run", recipe=str(moved))


def test_without_a_recipe_it_is_left_out_for_that_model(backbone, tmp_path, caplog):
    found = compared(backbone, tmp_path)["models"]["tiny-llava-0"]
    assert list(found["methods"]) == ["baseline"]
    reason = found["refused"]["attention"]
    assert reason.startswith("tiny-llava-0: no preset matches its config")
    assert reason.endswith("the option recipe=FILE.json takes it")
    assert f"method 'attention' is left out: {reason}" in caplog.text
    assert f"- `attention`: {reason}" in (tmp_path / "report.md").read_text()


def test_a_recipe_of_another_backbone_leaves_it_out(backbone, tmp_path):
    path = tmp_path / "recipe.json"
    facts = backbone_identity(backbone, branch=0)
    RecipeFile(RECIPE, branch=3, n_layers=2, backbone=facts).write(path)
    method = RawAttention(recipe=str(path))
    assert method.unserved(MethodContext(backbone)) is None
    assert method.options()["recipe"] == RECIPE.to_dict()
    reason = method.unserved(MethodContext(tiny_llava(num_hidden_layers=8)))
    assert "the recipe was made for another backbone (tiny-llava-0)" in reason
    path.write_text(LabelRecipe(grounding={70: (0,)}).to_json())
    reason = RawAttention(recipe=str(path)).unserved(MethodContext(backbone))
    assert "grounding names layer 70, but the decoder has layers 0 to 5" in reason


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read the label recipe .*recipe.json"),
        ("{", "recipe.json: label recipe: not JSON"),
        (json.dumps({"heads": 1}), "recipe.json: label recipe: unknown field 'heads'"),
    ],
)
def test_a_broken_recipe_file_is_noticed_before_a_model_is_loaded(
    text, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(BenchModel, "load", lambda self, **_: pytest.fail("loaded"))
    if text is not None:
        (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        compared("nowhere", tmp_path / "run", recipe=str(tmp_path / "recipe.json"))
