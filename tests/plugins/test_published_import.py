"""The import of published checkpoints, on checkpoints written here under the published names."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from sdrpn_core import CheckpointError, load_backbone
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.cli.main import app
from sdrpn_core.crops.mask import MaskPolicy
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_core.rpn.model import RPN
from sdrpn_published import PublishedCheckpoint, import_rpn
from sdrpn_published.layouts import LAYOUTS, published_name
from tests.tiny import tiny_llava, write_tiny_llava

BRANCH, N_LAYERS = 2, 3
CONFIG = {
    "model_type": "llava_llama",
    "enable_twig": True,
    "twig_K": BRANCH,
    "twig_T": N_LAYERS,
    "roi_branch": True,
    "roi_source": "qk",
    "roi_loss": "bce",
    "roi_super_type": "v1",
    "roi_multi_head": True,
    "torch_dtype": "float32",
}
TOWER = "model.vision_tower.vision_tower.vision_model."


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava()


@pytest.fixture(scope="module")
def branch(backbone):
    """Branch layers, norm and language head with weights of their own, under published names."""
    torch.manual_seed(1)
    layers = copy.deepcopy(backbone.layers[BRANCH : BRANCH + N_LAYERS])
    tensors = {f"model.twig_layers.{name}": t for name, t in layers.state_dict().items()}
    tensors["model.twig_norm.weight"] = backbone.decoder.norm.weight
    tensors["twig_head.weight"] = backbone.model.lm_head.weight
    return {name: t + 0.1 * torch.randn_like(t) for name, t in tensors.items()}


def base_tensors(backbone, *, filled):
    """The base model under published names, as a merged model or as the trainer saves it."""
    tensors = {}
    for name, tensor in backbone.model.state_dict().items():
        if name.startswith("model.vision_tower."):
            if not filled:  # the merge step never loads the encoder
                tensors[TOWER + name.removeprefix("model.vision_tower.")] = tensor
        elif name.startswith("model.multi_modal_projector."):
            layer, part = name.rsplit(".", 2)[-2:]
            tensors[f"model.mm_projector.{ {'linear_1': 0, 'linear_2': 2}[layer] }.{part}"] = tensor
        elif name.startswith("model.language_model."):
            tensors["model." + name.removeprefix("model.language_model.")] = tensor
        else:
            tensors[name] = tensor
    if not filled:  # training needs no base layer behind the branch
        depth = len(backbone.layers)
        cut = tuple(f"model.layers.{i}." for i in range(BRANCH + N_LAYERS, depth))
        cut += ("model.norm.", "lm_head.")
        tensors = {name: t for name, t in tensors.items() if not name.startswith(cut)}
    return tensors


@pytest.fixture
def write(tmp_path, backbone, branch):
    """Writes a checkpoint; tensors and settings can be replaced, and removed with ``None``."""

    def write(*, filled=True, shards=1, tensors=None, **config):
        everything = {**base_tensors(backbone, filled=filled), **branch, **(tensors or {})}
        everything = {n: t.detach().clone() for n, t in everything.items() if t is not None}
        settings = {k: v for k, v in {**CONFIG, **config}.items() if v is not None}
        folder = tmp_path / "published"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(settings))
        if shards == 1:
            save_file(everything, folder / "model.safetensors")
            return folder
        names = {name: f"model-{i % shards}.safetensors" for i, name in enumerate(everything)}
        for file in set(names.values()):
            part = {n: t for n, t in everything.items() if names[n] == file}
            save_file(part, folder / file)
        index = {"metadata": {}, "weight_map": names}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return folder

    return write


def assert_branch(rpn, branch):
    state = rpn.state_dict()
    assert state
    for name, tensor in state.items():
        assert torch.equal(tensor, branch[published_name(name, N_LAYERS)]), name


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("filled", [True, False])
def test_the_branch_is_read_from_either_style(write, backbone, branch, filled, shards):
    rpn = import_rpn(write(filled=filled, shards=shards), backbone)
    assert_branch(rpn, branch)
    assert (rpn.config.branch, rpn.config.n_layers) == (BRANCH, N_LAYERS)
    assert rpn.config.head_options == {"rope": False, "multi_head": True, "source": "projections"}
    assert not any("v_proj" in name for name in rpn.head.state_dict())


def test_published_names_of_the_head():
    assert published_name("layers.1.mlp.up_proj.weight", 3) == (
        "model.twig_layers.1.mlp.up_proj.weight"
    )
    assert published_name("head.norm.weight", 3) == "model.twig_layers.2.input_layernorm.weight"
    assert published_name("head.attention.k_proj.bias", 3) == (
        "model.twig_layers.2.self_attn.k_proj.bias"
    )
    assert published_name("norm.weight", 3) == "model.twig_norm.weight"
    with pytest.raises(CheckpointError, match=r"head\.score\.weight"):
        published_name("head.score.weight", 3)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"roi_super_type": "lazy"}, {"final_norm": False}),
        ({"roi_super_type": "v1"}, {"final_norm": True}),
        ({"roi_loss": "focal"}, {"loss": "focal"}),
        ({"roi_loss": "mse"}, {"loss": "mse", "is_distribution": True}),
        ({"twig_T": 1, "twig_K": 4}, {"branch": 4, "n_layers": 1}),
    ],
)
def test_settings(write, backbone, branch, settings, expected):
    others = [name for name in branch if name.startswith(("model.twig_layers.1", "model.twig_l"))]
    depth = settings.get("twig_T", N_LAYERS)
    dropped = {n: None for n in others if int(n.split(".")[2]) >= depth}
    rpn = import_rpn(write(tensors=dropped, **settings), backbone)
    for name, value in expected.items():
        assert getattr(rpn.config, name) == value
    assert ("norm.weight" in rpn.state_dict()) == rpn.config.final_norm


def test_single_head_and_hidden_states(write, backbone, branch):
    rpn = import_rpn(write(roi_multi_head=False, roi_source="hidden_states"), backbone)
    assert rpn.config.head_options["multi_head"] is False
    assert rpn.config.head_options["source"] == "hidden_states"
    assert_branch(rpn, branch)
    assert len(rpn.layers) == N_LAYERS


def test_distributions_are_cut_relative_to_their_maximum(write, backbone):
    config = import_rpn(write(roi_loss="mse"), backbone).config
    assert config.policy == "mask"
    assert config.policy_options["relative"] is True
    assert config.policy_options["whole_grid"] is True  # as the published evaluation does


def test_probabilities_are_cut_absolutely_and_mask_what_lies_above(write, backbone):
    policy = RPNProposer(import_rpn(write(roi_loss="bce"), backbone)).policy
    assert isinstance(policy, MaskPolicy)
    assert (policy.relative, policy.whole_grid) == (False, False)


def test_the_import_survives_saving(write, backbone, branch, tmp_path):
    import_rpn(write(), backbone).save_pretrained(tmp_path / "rpn")
    assert_branch(RPN.from_pretrained(tmp_path / "rpn", backbone=backbone), branch)


def test_half_precision_of_either_side_is_the_same_base(write, branch):
    """The published file is bfloat16, the stock one float16: rounding is no difference."""
    rounded = {name: t.bfloat16() for name, t in base_tensors(tiny_llava(), filled=False).items()}
    other = tiny_llava()
    other.model.to(torch.float16)
    rpn = import_rpn(write(filled=False, tensors=rounded), other)
    assert_branch(rpn, {name: t.half() for name, t in branch.items()})


def test_a_stock_model_with_added_tokens_is_the_same_base(write, backbone, branch):
    """Conversions to the stock classes append rows for the tokens that they add."""
    shorter = {
        name: base_tensors(backbone, filled=True)[name][:-2]
        for name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    assert_branch(import_rpn(write(tensors=shorter), backbone), branch)


def test_buffers_of_older_versions_are_not_asked_for(write, backbone, branch):
    old = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
        f"{TOWER}embeddings.position_ids": torch.arange(17)[None],
    }
    assert_branch(import_rpn(write(tensors=old), backbone), branch)


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "model.layers.3.mlp.gate_proj.weight",
        "model.mm_projector.2.bias",
        "model.norm.weight",
        "lm_head.weight",
    ],
)
def test_another_base_is_refused(write, backbone, name):
    changed = base_tensors(backbone, filled=True)[name] * 1.05
    with pytest.raises(CheckpointError, match=f"{name} differs from that of tiny-llava-0"):
        import_rpn(write(tensors={name: changed}), backbone)


def test_another_vision_encoder_is_refused(write, backbone):
    name = f"{TOWER}encoder.layers.0.mlp.fc1.bias"
    changed = base_tensors(backbone, filled=False)[name] + 1
    with pytest.raises(CheckpointError, match="differs"):
        import_rpn(write(filled=False, tensors={name: changed}), backbone)


def test_another_size_is_refused(write, backbone):
    deeper = {"model.layers.6.input_layernorm.weight": torch.ones(64)}
    with pytest.raises(CheckpointError, match=r"no counterpart of model\.layers\.6"):
        import_rpn(write(tensors=deeper), backbone)


def test_another_shape_is_refused(write, backbone):
    wider = {"model.norm.weight": torch.ones(65)}
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight has shape \(65,\)"):
        import_rpn(write(tensors=wider), backbone)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"enable_twig": False}, "no region proposal network"),
        ({"enable_twig": None}, "no region proposal network"),
        ({"twig_K": None}, "config.json: twig_K is missing"),
        ({"twig_K": "2"}, "twig_K must be a whole number, not '2'"),
        ({"roi_multi_head": 1}, "roi_multi_head must be true or false, not 1"),
        ({"roi_source": "values"}, "unknown roi_source 'values'; known: qk, hidden_states"),
        ({"model_type": "gpt2"}, "model_type 'gpt2'"),
        ({"model_type": "qwen2_5_vl"}, "belongs to a model of type 'qwen2_5_vl'"),
        ({"twig_T": 2}, "more branch layers"),
    ],
)
def test_unusable_configurations_are_refused(write, backbone, change, message):
    with pytest.raises(CheckpointError, match=message) as raised:
        import_rpn(write(**change), backbone)
    assert "\n" not in str(raised.value)


def test_a_missing_branch_tensor_is_named(write, backbone):
    name = "model.twig_layers.2.self_attn.q_proj.weight"
    with pytest.raises(CheckpointError, match=f"contains no tensor {name}"):
        import_rpn(write(tensors={name: None}), backbone)


def test_pickles_are_not_opened(write):
    folder = write()
    (folder / "model.safetensors").rename(folder / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(CheckpointError, match=r"pickled weights.*save_file") as raised:
        PublishedCheckpoint(folder)
    assert "\n" not in str(raised.value)


def test_missing_files_are_named(write, tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        PublishedCheckpoint(tmp_path / "nowhere")
    folder = write(shards=2)
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"shards are missing: model-1\.safetensors"):
        PublishedCheckpoint(folder)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        PublishedCheckpoint(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        PublishedCheckpoint(folder)


def test_broken_files_are_refused(write):
    folder = write()
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        PublishedCheckpoint(folder)


def test_an_index_cannot_point_out_of_its_folder(write):
    folder = write(shards=2)
    index = {"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="not the name of a file"):
        PublishedCheckpoint(folder)


def test_every_layout_names_a_model_type_once():
    types = [layout.model_type for layout in LAYOUTS]
    assert len(types) == len(set(types))


def test_command(write, branch, tmp_path):
    base, out = write_tiny_llava(tmp_path / "base"), tmp_path / "rpn"
    words = ["import-rpn", str(write()), "--model", str(base), "--out", str(out)]
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["branch"], summary["n_layers"]) == (BRANCH, N_LAYERS)
    rpn = RPN.from_pretrained(out, backbone=load_backbone(base, device="cpu"))
    assert_branch(rpn, branch)
    assert summary["n_parameters"] == sum(p.numel() for p in rpn.parameters())
    result = CliRunner().invoke(app, words)
    assert "3 layers at branch layer 2" in result.stdout


def test_the_saved_dtype_is_the_published_one(write, tmp_path):
    """Whatever the base's dtype: float16 could not hold every bfloat16 weight."""
    base, out = write_tiny_llava(tmp_path / "base"), tmp_path / "rpn"
    words = ["import-rpn", str(write(torch_dtype="bfloat16")), "-m", str(base), "-o", str(out)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    config = json.loads((out / "config.json").read_text())
    assert RPNConfig.from_json(config, "config.json").final_norm
    from safetensors.torch import load_file

    assert {t.dtype for t in load_file(out / "model.safetensors").values()} == {torch.bfloat16}


def test_command_error_is_one_line(tmp_path):
    words = ["import-rpn", str(tmp_path / "no"), "--model", "m", "--out", str(tmp_path / "o")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert result.stderr.startswith("error:")
    assert result.stderr.count("\n") == 1
