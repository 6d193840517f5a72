"""Checkpoints come back bit for bit, fit one backbone only, and say what is wrong with them."""

from __future__ import annotations

import json

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from sdrpn_core.answering.prefill import prefill
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.backbone.identity import backbone_identity, differences
from sdrpn_core.backbone.question import Question
from sdrpn_core.errors import CheckpointError, ConfigError, SdrpnError
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_core.rpn.model import RPN
from tests.tiny import tiny_image, tiny_llava

QUESTION = Question("what color is the square ?", (tiny_image(0),))
SETTINGS = {
    "branch": 2,
    "n_layers": 2,
    "final_norm": True,
    "head_options": {"rope": False},
    "loss": "focal",
    "policy_options": {"threshold": 0.3},
    "recipe": {"grounding": {"3": [1]}},
}


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava()


@pytest.fixture(scope="module")
def rpn(backbone):
    rpn = RPN.from_backbone(backbone, **SETTINGS)
    with torch.no_grad():
        for parameter in rpn.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    return rpn


@pytest.fixture
def folder(rpn, tmp_path):
    return rpn.save_pretrained(tmp_path / "rpn")


@pytest.mark.parametrize("head", ["qk", "conv"])
def test_save_and_load_come_back_bit_for_bit(backbone, tmp_path, head):
    rpn = RPN.from_backbone(backbone, branch=2, n_layers=2, head=head)
    with torch.no_grad():
        for parameter in rpn.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    assert rpn.save_pretrained(tmp_path / "new" / "rpn") == tmp_path / "new" / "rpn"
    loaded = RPN.from_pretrained(tmp_path / "new" / "rpn", backbone=backbone)
    saved, found = rpn.state_dict(), loaded.state_dict()
    assert saved.keys() == found.keys()
    assert all(torch.equal(saved[name], found[name]) for name in saved)
    one, other = (RPNProposer(r).maps(prefill(backbone, [QUESTION], r))[0] for r in (rpn, loaded))
    assert (one.scores == other.scores).all()


def test_the_configuration_comes_back(backbone, rpn, folder):
    config = RPN.from_pretrained(folder, backbone=backbone).config
    for name, value in SETTINGS.items():
        if name != "head_options":
            assert getattr(config, name) == value
    assert config.head_options == {"rope": False, "multi_head": True, "source": "projections"}
    assert config.versions.keys() == {"sdrpn", "torch", "transformers"}
    assert config.backbone["name"] == "tiny-llava-0"


def test_a_folder_holds_the_rpn_alone(rpn, folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert load_file(folder / "model.safetensors").keys() == rpn.state_dict().keys()


def test_the_card_says_what_it_is_and_how_to_load_it(rpn, folder):
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "sdrpn"
    assert "region-proposal" in card.data.tags
    assert card.data.base_model is None  # not a hub id
    for fact in ("tiny-llava-0", "llama", "6 layers of width 64", "branch layer 2", "`focal`"):
        assert fact in card.text
    assert "threshold = 0.3" in card.text
    assert "RoIModel.from_pretrained(" in card.text


def test_the_card_names_a_backbone_of_the_hub_and_no_local_path(backbone, tmp_path):
    for name, shown in (("org/model", "org/model"), ("/models/secret/llm", None)):
        backbone.name, old = name, backbone.name
        try:
            RPN.from_backbone(backbone, **SETTINGS).save_pretrained(tmp_path)
        finally:
            backbone.name = old
        card = ModelCard.load(tmp_path / "README.md")
        assert card.data.base_model == shown
        assert "secret" not in card.content


def test_another_width_is_refused(folder):
    other = tiny_llava(hidden_size=48, num_attention_heads=2)
    with pytest.raises(CheckpointError, match="hidden_size is 48, expected 64") as error:
        RPN.from_pretrained(folder, backbone=other)
    assert "num_attention_heads is 2, expected 4" in str(error.value)
    assert "\n" not in str(error.value)


def test_other_weights_of_the_same_shape_are_refused(folder):
    with pytest.raises(CheckpointError, match="belongs to another backbone than tiny-llava-1"):
        RPN.from_pretrained(folder, backbone=tiny_llava(seed=1))


def test_another_dtype_of_the_same_weights_is_not_another_backbone(folder):
    half = tiny_llava()
    half.model.to(torch.bfloat16)
    loaded = RPN.from_pretrained(folder, backbone=half)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}


def test_name_and_revision_are_no_part_of_the_identity(backbone):
    facts = backbone_identity(backbone, 2)
    assert differences(facts, {**facts, "name": "other", "revision": "abc"}) == []


def edit_config(folder, **changes):
    path = folder / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def edit_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def truncate(path):
    path.write_bytes(path.read_bytes()[:1000])


BROKEN = {
    "no configuration": (lambda f: (f / "config.json").unlink(), "config.json: cannot be read"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "not JSON"),
    "no text": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), "not JSON"),
    "a list": (
        lambda f: (f / "config.json").write_text("[]"),
        "expected a JSON object",
    ),
    "newer": (lambda f: edit_config(f, format_version=99), "version is 99, this sdrpn reads 1"),
    "another model's": (lambda f: edit_config(f, format_version=...), "version is None"),
    "unknown setting": (lambda f: edit_config(f, speed=1), "RPN settings: unknown field 'speed'"),
    "no branch": (lambda f: edit_config(f, branch=...), "branch is missing"),
    "odd branch": (lambda f: edit_config(f, branch="two"), "branch must be a whole number"),
    "nobody's": (lambda f: edit_config(f, backbone={}), "does not say which backbone"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "safetensors: missing"),
    "cut off": (lambda f: truncate(f / "model.safetensors"), "cannot be read"),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "cannot be read"),
    "lost tensor": (
        lambda f: edit_weights(f, lambda t: t.pop("norm.weight")),
        "norm.weight is missing",
    ),
    "extra tensor": (
        lambda f: edit_weights(f, lambda t: t.update(spare=torch.ones(1))),
        "spare is unexpected",
    ),
    "misshapen": (
        lambda f: edit_weights(f, lambda t: t.update({"norm.weight": torch.ones(3)})),
        r"norm.weight has shape \(3,\), expected \(64,\)",
    ),
}


@pytest.mark.parametrize(("damage", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_files_are_named(backbone, folder, damage, message):
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as error:
        RPN.from_pretrained(folder, backbone=backbone)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_many_wrong_tensors_are_counted(backbone, folder):
    edit_weights(folder, lambda tensors: [tensors.pop(name) for name in list(tensors)[:5]])
    with pytest.raises(CheckpointError, match="and 2 more"):
        RPN.from_pretrained(folder, backbone=backbone)


def test_a_folder_that_does_not_exist(backbone, tmp_path):
    with pytest.raises(CheckpointError, match="no such RPN folder"):
        RPN.from_pretrained(tmp_path / "nowhere", backbone=backbone)


def test_a_hub_id_that_cannot_be_reached(backbone):
    with pytest.raises(CheckpointError, match="neither a local RPN folder nor reachable") as error:
        RPN.from_pretrained("nobody/nothing", backbone=backbone)
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_made(rpn, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SdrpnError, match="cannot create the folder"):
        rpn.save_pretrained(tmp_path / "file" / "rpn")


def test_saving_again_replaces_the_old_weights(backbone, rpn, folder):
    other = RPN.from_backbone(backbone, **SETTINGS)
    other.save_pretrained(folder)
    loaded = RPN.from_pretrained(folder, backbone=backbone)
    assert torch.equal(loaded.norm.weight, other.norm.weight)
    assert len(list(folder.iterdir())) == 3


def test_configurations_round_trip_through_json():
    facts = backbone_identity(tiny_llava(), 1)
    config = RPNConfig(branch=1, n_layers=2, backbone=facts, policy_options={"a": 1})
    assert RPNConfig.from_json(json.loads(json.dumps(config.to_dict())), "x") == config


def test_a_fine_tune_of_the_attention_alone_is_another_backbone(folder):
    tuned = tiny_llava()
    with torch.no_grad():
        tuned.layers[1].self_attn.q_proj.weight.add_(0.1)
    with pytest.raises(CheckpointError, match="attention weights differ"):
        RPN.from_pretrained(folder, backbone=tuned)


def test_a_folders_path_stays_at_home(backbone, tmp_path):
    local = tiny_llava()
    local.name = str(tmp_path / "models" / "my-model")
    assert backbone_identity(local, 2)["name"] == "my-model"
    local.name = "owner/model"
    assert backbone_identity(local, 2)["name"] == "owner/model"


@pytest.mark.parametrize("card", [{}, {"license": "mit"}])
def test_a_card_of_another_kind_is_refused_before_anything_is_written(rpn, card, tmp_path):
    with pytest.raises(ConfigError, match=r"be CardFacts, not dict: write CardFacts\(license"):
        rpn.save_pretrained(tmp_path / "rpn", card=card)
    assert not (tmp_path / "rpn").exists()


@pytest.mark.parametrize("source", [None, 3, ""])
def test_what_names_no_rpn(backbone, source):
    with pytest.raises(CheckpointError) as error:
        RPN.from_pretrained(source, backbone=backbone)
    assert str(error.value) == f"the RPN must be a local folder or a Hub id, not {source!r}"
