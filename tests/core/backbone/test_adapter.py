"""What every adapter inherits: prompts from tokens and images, presets by config, context."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sdrpn_core import hookimpl
from sdrpn_core.backbone.preset import Preset
from sdrpn_core.backbone.prompt import ImageSegment, TextSegment
from sdrpn_core.backbone.question import Question
from sdrpn_core.errors import ConfigError, InputError
from sdrpn_core.labels.recipe import LabelRecipe
from sdrpn_llava.presets import LLAVA_1_5_7B
from tests.stage_data import RECIPE
from tests.tiny import tiny_image, tiny_llava

MATCH = {"text_config.num_hidden_layers": 6, "text_config.hidden_size": 64}


@pytest.fixture
def backbone():
    return tiny_llava()


def register_presets(plugins, **presets):
    class Module:
        SDRPN_API = 1

        @staticmethod
        @hookimpl
        def sdrpn_register_presets(registry):
            for name, preset in presets.items():
                registry.add(name, preset)

    plugins.register(Module, "extra")


def test_it_is_shown_by_its_name(backbone):
    assert repr(backbone) == f"LlavaBackbone({backbone.name!r})"


def test_the_preset_is_the_one_that_matches(backbone, fresh_plugins):
    mine = Preset("mine", MATCH, branch=2, n_layers=2, recipes={"natural": RECIPE})
    register_presets(fresh_plugins, mine=mine, other=replace(mine, match={"model_type": "other"}))
    assert backbone.preset is mine


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"branch": 5},
            "preset 'mine': an RPN at branch layer 5 with 2 layers reaches layer 6, .*",
        ),
        (
            {"recipes": {"natural": RECIPE, "text": LabelRecipe({7: (0,)})}},
            "preset 'mine', recipe 'text': label recipe: grounding names layer 7, .* layers 0 to 5",
        ),
        (
            {"recipes": {"natural": LabelRecipe({0: (1,)}, {2: (0, 4)})}},
            "recipe 'natural': .* sink names head 4 of layer 2, but its heads are 0 to 3",
        ),
    ],
)
def test_a_preset_that_names_what_the_decoder_lacks_is_refused(
    backbone, fresh_plugins, changes, message
):
    mine = Preset("mine", MATCH, branch=2, n_layers=2, recipes={"natural": RECIPE})
    register_presets(fresh_plugins, mine=replace(mine, **changes))
    with pytest.raises(ConfigError, match=message):
        _ = backbone.preset


def test_a_broken_preset_concerns_its_own_model_types_alone(backbone, fresh_plugins):
    class Module:
        SDRPN_API = 1

        @staticmethod
        @hookimpl
        def sdrpn_register_presets(registry):
            registry.add("broken", "no_such_module:PRESET", model_types=("another",))

    fresh_plugins.register(Module, "broken")
    mine = Preset("mine", MATCH, branch=2, n_layers=2, recipes={"natural": RECIPE})
    register_presets(fresh_plugins, mine=mine)
    assert backbone.preset is mine


def test_no_preset_is_none_or_an_error(backbone, fresh_plugins):
    assert backbone.find_preset() is None
    with pytest.raises(ConfigError, match=r"tiny-llava-0: no preset matches .*sdrpn heads"):
        _ = backbone.preset


def test_several_matching_presets_are_named(backbone, fresh_plugins):
    presets = {name: replace(LLAVA_1_5_7B, name=name, match=MATCH) for name in ("one", "two")}
    register_presets(fresh_plugins, **presets)
    with pytest.raises(
        ConfigError, match="tiny-llava-0: several presets match its config: one, two"
    ):
        _ = backbone.preset


def test_a_recipe_of_a_preset_by_name():
    assert LLAVA_1_5_7B.recipe("natural") is LLAVA_1_5_7B.recipe()
    with pytest.raises(ConfigError, match="no label recipe 'text'; it has: natural"):
        LLAVA_1_5_7B.recipe("text")


def test_a_field_that_the_config_lacks_does_not_match(backbone):
    assert not replace(LLAVA_1_5_7B, match={"nothing.of.it": 1}).matches(backbone.model.config)


def test_tokens_and_images_become_segments(backbone):
    images = (tiny_image(0), tiny_image(1))
    marker = backbone.image_token_id
    (prompt,) = backbone.encode_ids(
        [[1, 7, marker, marker, 9]], [Question("", images, response_ids=(30, 31))]
    )
    kinds = [type(segment) for segment in prompt.segments]
    assert kinds == [TextSegment, ImageSegment, ImageSegment, TextSegment]
    assert prompt.segments[0].ids == (1, 7)
    assert prompt.segments[-1].ids == (9, 30, 31)
    assert prompt.response_length == 2
    embeds = backbone.embed(prompt)
    ids = torch.tensor([1, 7])
    assert torch.equal(embeds[:2], backbone.embedding(ids))
    assert torch.equal(embeds[2:18], prompt.segments[1].features)


def test_a_response_has_no_special_tokens_of_its_own(backbone):
    assert backbone.tokenize_response("red circle") == tuple(
        backbone.tokenizer.convert_tokens_to_ids(["red", "circle"])
    )
    with pytest.raises(InputError, match="must not contain '<image>'"):
        backbone.tokenize_response("a <image>", special_tokens=True)


def test_tensors_move_to_the_models_dtype_if_they_are_floating(backbone):
    backbone.model.to(torch.bfloat16)
    assert backbone.to_model(torch.ones(2)).dtype == torch.bfloat16
    assert backbone.to_model(torch.ones(2, dtype=torch.long)).dtype == torch.long


def test_the_context_is_exact(backbone):
    backbone.check_context(512)
    with pytest.raises(InputError, match=r"513 tokens .* exceeds the context of 512 tokens"):
        backbone.check_context(513)


def test_facts_of_the_model(backbone):
    assert (backbone.n_layers, backbone.hidden_size, len(backbone.layers)) == (6, 64, 6)
    assert backbone.device.type == "cpu"
    assert backbone.decoder.norm is backbone.model.model.language_model.norm


def test_placeholders_in_a_given_response_are_refused():
    backbone = tiny_llava()
    question = Question("what", (tiny_image(),), (7, backbone.image_token_id))
    with pytest.raises(InputError, match="2 image placeholders for 1 images"):
        backbone.encode([question])
