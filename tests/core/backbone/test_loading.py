"""Loading: ordinary Hugging Face folders, loaded models, and one clear line for everything else."""

from __future__ import annotations

import importlib.util
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from sdrpn_core import hookimpl
from sdrpn_core.answering.answer import answer
from sdrpn_core.backbone.loading import (
    find_adapter,
    find_backbone,
    load_backbone,
    load_outline,
)
from sdrpn_core.errors import ConfigError, InputError, MissingExtraError, UnknownNameError
from sdrpn_llava.backbone import LlavaBackbone
from tests.tiny import tiny_image, tiny_llava, write_tiny_llava

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_tiny_llava(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "tiny")


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_folder_gives_the_model_that_was_saved(original):
    saved, loaded = tiny_llava(), load_backbone(original)
    assert type(loaded) is LlavaBackbone
    expected, found = saved.model.state_dict(), loaded.model.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert loaded.name == str(original)
    question = "what color is the square ?"
    answers = [answer(b, tiny_image(), question, max_new_tokens=8) for b in (saved, loaded)]
    assert answers[0].ids == answers[1].ids


def test_a_loaded_backbone_is_frozen_and_in_eval_mode(original):
    model = load_backbone(original).model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_dtype_is_float32_on_a_cpu_whatever_the_checkpoint_says(folder):
    edit_config(folder, dtype="bfloat16")
    assert load_backbone(folder, device="cpu").model.dtype == torch.float32
    assert load_backbone(folder, device="cpu", dtype="auto").model.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_the_dtype_can_be_chosen(original, dtype):
    assert load_backbone(original, dtype=dtype).model.dtype == torch.bfloat16


def test_the_attention_implementation_can_be_chosen(original):
    for name in ("eager", "sdpa"):
        backbone = load_backbone(original, attn_implementation=name)
        assert backbone.text_config._attn_implementation == name


def test_other_options_reach_transformers(original):
    # Not one of load_backbone's own options.
    backbone = load_backbone(original, device_map={"": "cpu"}, low_cpu_mem_usage=True)
    assert backbone.device.type == "cpu"


def test_a_loaded_model_is_wrapped_as_it_is(original):
    tiny = tiny_llava()
    backbone = load_backbone(tiny.model, processor=tiny.processor, attn_implementation="eager")
    assert type(backbone) is LlavaBackbone
    assert backbone.model is tiny.model
    assert backbone.processor is tiny.processor
    assert backbone.text_config._attn_implementation == "eager"


def test_a_model_from_a_folder_finds_its_processor_there(original):
    model = load_backbone(original).model
    backbone = load_backbone(model)
    assert backbone.tokenizer.bos_token == "<s>"
    assert backbone.name == str(original)


def test_a_model_from_nowhere_needs_a_processor():
    with pytest.raises(InputError, match="needs a processor"):
        load_backbone(tiny_llava().model)


def test_a_loaded_model_without_an_adapter_is_refused():
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    with pytest.raises(UnknownNameError, match="unknown model type 'llama': did you mean 'llava'"):
        load_backbone(LlamaForCausalLM(config), processor=object())


def test_a_model_type_that_no_adapter_serves(folder):
    edit_config(folder, model_type="llava_next")
    with pytest.raises(UnknownNameError, match=r"unknown model type 'llava_next'.*'llava'"):
        load_backbone(folder)


def test_a_model_type_that_several_adapters_serve(fresh_plugins):
    class Rival:
        SDRPN_API = 1

        @staticmethod
        @hookimpl
        def sdrpn_register_backbones(registry):
            registry.add("rival", LlavaBackbone, model_types=("llava",))

    fresh_plugins.register(Rival, "rival")
    with pytest.raises(ConfigError, match=r"several plugins: llava, rival; .*SDRPN_PLUGINS"):
        find_adapter("llava")
    with pytest.raises(UnknownNameError) as caught:
        find_adapter("another")
    assert caught.value.known.count("llava") == 1
    assert str(caught.value).count("llava,") == 1


@pytest.mark.parametrize("dtype", ["float31", "Tensor", ""])
def test_an_unknown_dtype_is_refused(original, dtype):
    with pytest.raises(ConfigError, match=f"unknown dtype '{dtype}': use float32, bfloat16"):
        load_backbone(original, dtype=dtype)


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is not None, reason="is installed")
def test_flash_attention_that_is_not_installed(original):
    with pytest.raises(MissingExtraError, match=r"pip install 'sdrpn\[flash-attn\]'"):
        load_backbone(original, attn_implementation="flash_attention_2")
    with pytest.raises(MissingExtraError):
        load_backbone(tiny_llava().model, attn_implementation="flash_attention_2")


def cut(folder):
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:5000])


def zero(folder):
    (folder / WEIGHTS).write_bytes(b"")


def lose_a_tensor(folder):
    tensors = load_file(folder / WEIGHTS)
    name = next(name for name in tensors if "q_proj" in name)
    del tensors[name]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def misshape_a_tensor(folder):
    tensors = load_file(folder / WEIGHTS)
    name = next(name for name in tensors if "q_proj" in name)
    tensors[name] = torch.zeros(3, 3)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def lose_the_processor(folder):
    for path in folder.iterdir():
        if path.name not in {"config.json", "generation_config.json", WEIGHTS}:
            path.unlink()


BROKEN = {
    "no config": lambda f: (f / "config.json").unlink(),
    "config is no JSON": lambda f: (f / "config.json").write_text("{"),
    "unknown to transformers": lambda f: edit_config(f, model_type="nothing_like_it"),
    "no weights": lambda f: (f / WEIGHTS).unlink(),
    "weights cut off": cut,
    "weights empty": zero,
    "a tensor missing": lose_a_tensor,
    "a tensor misshapen": misshape_a_tensor,
    "no processor": lose_the_processor,
}


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN)
@pytest.mark.filterwarnings("ignore")
def test_broken_folders_are_one_line_that_names_them(folder, damage):
    damage(folder)
    with pytest.raises(InputError, match="cannot load the model") as error:
        load_backbone(folder)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", ["/nowhere/at/all", "./nowhere", "nobody/nothing"])
def test_a_model_that_does_not_exist(source):
    with pytest.raises(InputError, match=f"cannot load the model {source}: ") as error:
        load_backbone(source)
    assert "\n" not in str(error.value)


def test_an_unknown_attention_implementation_is_refused(original):
    with pytest.raises(InputError, match="cannot load the model"):
        load_backbone(original, attn_implementation="nonsense")


@pytest.fixture
def with_code(folder):
    """A folder whose model type only its own code knows; the code leaves a trace."""
    edit_config(
        folder,
        model_type="home_made",
        auto_map={"AutoConfig": "configuration_home_made.HomeMadeConfig"},
    )
    trace = folder / "trace"
    (folder / "configuration_home_made.py").write_text(
        "from pathlib import Path\n"
        "from transformers import PretrainedConfig\n"
        f"Path({str(trace)!r}).touch()\n"
        "class HomeMadeConfig(PretrainedConfig):\n"
        "    model_type = 'home_made'\n"
    )
    return folder


def test_code_of_a_checkpoint_is_not_run(with_code):
    with pytest.raises(InputError, match="cannot load the model"):
        load_backbone(with_code)
    assert not (with_code / "trace").exists()


def test_code_of_a_checkpoint_runs_where_it_is_trusted(with_code, monkeypatch, tmp_path):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UnknownNameError, match="home_made"):
        load_backbone(with_code, trust_remote_code=True)
    assert (with_code / "trace").exists()


def test_weights_lie_in_aligned_memory(tmp_path):
    # Where a mapped file puts them differs from process to process, and so would the last bit.
    backbone = load_backbone(write_tiny_llava(tmp_path), device="cpu")
    addresses = {parameter.data_ptr() % 64 for parameter in backbone.model.parameters()}
    assert addresses == {0}


@pytest.mark.parametrize("name", ["/no/such/model", "./model"])
def test_a_path_without_a_folder_is_not_taken_for_a_hub_id(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"cannot load the model {name}: no such folder"):
        load_backbone(name)


@pytest.mark.parametrize("source", [None, 3, "", ["a/model"]])
def test_what_names_no_model(source):
    message = f"must be a local folder, a Hub id or a loaded model, not {source!r}"
    for load in (load_backbone, load_outline, find_backbone):
        with pytest.raises(InputError) as error:
            load(source)
        assert message in str(error.value)
