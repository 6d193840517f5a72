"""Loading the first decoder layers alone: what is read, what it takes, what it refuses."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers.modeling_utils
from safetensors.torch import load_file, save_file

from sdrpn_core import FeatureTap, Question, answer, label
from sdrpn_core.backbone.identity import backbone_identity
from sdrpn_core.backbone.loading import load_backbone, load_outline
from sdrpn_core.errors import ConfigError, InputError
from sdrpn_core.runtime.generation import prompt_block
from tests.families import FAMILIES
from tests.stage_data import RECIPE, records
from tests.tiny import tiny_image, tiny_llava, write_tiny_llava

N_LAYERS = 3
BRANCH = 2
QUESTION = "what color is the square ?"

#: A tensor of a decoder layer, by any name that checkpoints have for it.
DECODER_LAYER = re.compile(r"^(?:model\.|language_model\.)+layers\.(\d+)\.")


class ReadTensors:
    """Stands in for ``safe_open`` and notes which tensors are asked for, not just listed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        original = transformers.modeling_utils.safe_open
        monkeypatch.setattr(
            transformers.modeling_utils, "safe_open", lambda *a, **k: _File(original(*a, **k), self)
        )


class _File:
    def __init__(self, file: Any, read: ReadTensors) -> None:
        self.file = file
        self.read = read

    def get_slice(self, name: str) -> _Slice:
        return _Slice(self.file.get_slice(name), name, self.read)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __exit__(self, *args: Any) -> Any:
        return self.file.__exit__(*args)


class _Slice:
    def __init__(self, values: Any, name: str, read: ReadTensors) -> None:
        self.values = values
        self.name = name
        self.read = read

    def __getitem__(self, key: Any) -> torch.Tensor:
        self.read.names.append(self.name)
        return self.values[key]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.values, name)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = FAMILIES[family](tmp_path_factory.mktemp("model") / "tiny")
        return made[family]

    return folder


each_family = pytest.mark.parametrize("family", FAMILIES)


def branch_features(backbone):
    prompts = backbone.encode([Question.about(tiny_image(), QUESTION)])
    block = prompt_block(backbone, prompts)
    with torch.no_grad(), FeatureTap(backbone.decoder, BRANCH) as tap:
        return tap.run(
            inputs_embeds=block.embeds,
            attention_mask=block.mask,
            position_ids=block.positions,
            use_cache=False,
        )


@each_family
def test_the_first_layers_are_those_of_the_whole_model(folders, family):
    whole = load_backbone(folders(family), device="cpu")
    first = load_backbone(folders(family), device="cpu", n_layers=N_LAYERS)
    expected, found = whole.model.state_dict(), first.model.state_dict()
    assert found.keys() < expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    absent = {name for name in expected if name not in found}
    n_absent = sum(p.numel() for layer in whole.layers[N_LAYERS:] for p in layer.parameters())
    n_absent += sum(p.numel() for p in whole.model.get_output_embeddings().parameters())
    assert sum(expected[name].numel() for name in absent) == n_absent
    assert torch.equal(branch_features(first).hidden, branch_features(whole).hidden)


@each_family
def test_it_is_still_known_as_the_whole_model(folders, family):
    whole = load_backbone(folders(family), device="cpu")
    first = load_backbone(folders(family), device="cpu", n_layers=N_LAYERS)
    assert (len(first.layers), first.n_layers) == (N_LAYERS, whole.n_layers)
    assert backbone_identity(first, BRANCH) == backbone_identity(whole, BRANCH)
    assert first.model.config.to_dict() == whole.model.config.to_dict()


def in_one_file(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def in_shards(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """One file per tensor, under names that say nothing."""
    (folder / "model.safetensors").unlink()
    weight_map = {name: f"model-{number:05d}.safetensors" for number, name in enumerate(tensors)}
    for name, file in weight_map.items():
        save_file({name: tensors[name]}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@each_family
@pytest.mark.parametrize("write", [in_one_file, in_shards])
@pytest.mark.parametrize("names", ["of the files", "of the model"])
def test_the_other_layers_are_never_read(
    folders, family, write, names, tmp_path, monkeypatch, caplog
):
    whole = load_backbone(folders(family), device="cpu").model.state_dict()
    # transformers writes the names that a family's first checkpoints had, where they differ.
    stored = load_file(folders(family) / "model.safetensors")
    folder = shutil.copytree(folders(family), tmp_path / "model")
    write(folder, stored if names == "of the files" else whole)

    read = ReadTensors(monkeypatch)
    first = load_backbone(folder, device="cpu", n_layers=N_LAYERS)
    assert len(read.names) == len(set(read.names)) == len(first.model.state_dict()) + 1  # the head
    layers = {int(match[1]) for name in read.names if (match := DECODER_LAYER.match(name))}
    assert layers == set(range(N_LAYERS))
    assert all(torch.equal(t, whole[name]) for name, t in first.model.state_dict().items())
    assert not caplog.records  # nothing is said about tensors that are left unread on purpose


def test_the_names_in_files_differ_from_those_of_the_model(folders):
    # Or else the test above would not show that renamed tensors are told apart.
    for family in ("llava", "qwen2_5_vl"):
        stored = load_file(folders(family) / "model.safetensors")
        assert stored.keys() != load_backbone(folders(family)).model.state_dict().keys()


def test_a_model_in_the_cache_of_the_hub(tmp_path, monkeypatch):
    repository = tmp_path / "models--someone--tiny"
    write_tiny_llava(repository / "snapshots" / "0123")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    read = ReadTensors(monkeypatch)
    first = load_backbone("someone/tiny", device="cpu", n_layers=N_LAYERS)
    assert len(first.layers) == N_LAYERS
    assert read.names
    layers = {int(match[1]) for name in read.names if (match := DECODER_LAYER.match(name))}
    assert layers == set(range(N_LAYERS))


def test_a_needed_tensor_that_is_missing_is_named(tmp_path):
    folder = write_tiny_llava(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    (name,) = [n for n in tensors if DECODER_LAYER.match(n) and "layers.1.mlp.up_proj" in n]
    del tensors[name]
    in_one_file(folder, tensors)
    with pytest.raises(InputError, match=r"lacks 1 tensors, such as .*layers\.1\.mlp\.up_proj"):
        load_backbone(folder, n_layers=N_LAYERS)


def test_options_reach_transformers_all_the_same(folders):
    first = load_backbone(
        folders("llava"), n_layers=2, dtype="bfloat16", attn_implementation="eager", device="cpu"
    )
    assert first.model.dtype == torch.bfloat16
    assert first.text_config._attn_implementation == "eager"


@pytest.mark.parametrize("n_layers", [6, 60])
def test_from_the_last_layer_on_it_is_the_whole_model(folders, n_layers):
    backbone = load_backbone(folders("llava"), n_layers=n_layers)
    assert answer(backbone, tiny_image(), QUESTION, max_new_tokens=2).ids


@pytest.mark.parametrize("n_layers", [0, -1])
def test_a_backbone_without_layers_is_refused(folders, n_layers):
    with pytest.raises(
        ConfigError, match=f"n_layers must be a whole number of at least 1, not {n_layers}"
    ):
        load_backbone(folders("llava"), n_layers=n_layers)


def test_a_loaded_model_cannot_be_loaded_in_part():
    tiny = tiny_llava()
    with pytest.raises(ConfigError, match="loaded already"):
        load_backbone(tiny.model, processor=tiny.processor, n_layers=2)


def test_a_part_refuses_to_answer_and_to_label(folders, tmp_path):
    first = load_backbone(folders("llava"), n_layers=N_LAYERS)
    with pytest.raises(ConfigError, match=r"answering needs all 6 decoder layers of .* only 3"):
        answer(first, tiny_image(), QUESTION)
    with pytest.raises(ConfigError, match="labeling needs all 6 decoder layers"):
        label(first, records(1), tmp_path, recipe=RECIPE)
    assert not list(tmp_path.iterdir())


@each_family
def test_an_outline_knows_what_the_config_says_and_holds_no_weights(folders, family):
    outline, whole = load_outline(folders(family)), load_backbone(folders(family), device="cpu")
    assert {p.device.type for p in outline.model.parameters()} == {"meta"}
    assert (outline.n_layers, outline.n_heads) == (whole.n_layers, whole.n_heads)
    assert outline.hidden_size == whole.hidden_size
    assert outline.find_preset() == whole.find_preset()
    assert type(outline) is type(whole)


def test_an_outline_of_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        load_outline(tmp_path / "nowhere")


MEASURE = """
import sys, torch
from sdrpn_core.backbone.loading import load_backbone, load_outline
from sdrpn_core.util.memory import peak_memory
cpu = torch.device("cpu")
load_outline(sys.argv[1])  # imports what loading imports
before = peak_memory(cpu)
load_backbone(sys.argv[1], device="cpu", n_layers=int(sys.argv[2]))
print(peak_memory(cpu) - before)
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read as Linux tells it")
def test_loading_a_part_takes_a_part_of_the_memory(tmp_path):
    # 21 layers of 6 MB in float32; stored in bfloat16, so that none is merely mapped from the file.
    folder = tmp_path / "model"
    wide = {"hidden_size": 256, "intermediate_size": 1536, "num_hidden_layers": 21}
    backbone = tiny_llava(**wide)
    backbone.model.to(torch.bfloat16).save_pretrained(folder)
    backbone.processor.save_pretrained(folder)
    peaks = {}
    for n_layers in (3, 21):
        words = [sys.executable, "-c", MEASURE, str(folder), str(n_layers)]
        result = subprocess.run(words, capture_output=True, text=True, check=True)
        peaks[n_layers] = int(result.stdout)
    assert peaks[3] < 0.5 * peaks[21]
