"""The feature cache: the RPN of an uncached run, its size in advance, kills, and stale folders."""

from __future__ import annotations

import copy
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from safetensors.torch import load_file

import sdrpn_core.training.cache_shards
import sdrpn_core.training.feature_cache
from sdrpn_core import FeatureTap, Question
from sdrpn_core.backbone.loading import load_backbone
from sdrpn_core.errors import CheckpointError, ConfigError, SdrpnError, ShardError
from sdrpn_core.labeling.stage import label
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_core.runtime.generation import prompt_block
from sdrpn_core.training.bypass_layers import without_layers
from sdrpn_core.training.settings import TrainingSettings
from sdrpn_core.training.stage import train
from tests.families import FAMILIES
from tests.stage_data import LINEAR, RECIPE, SAME_UP_TO_LAST_BITS, files, records
from tests.tiny import tiny_image, tiny_llava, write_tiny_llava
from tests.tiny_mistral3 import tiny_mistral3

CONFIG = RPNConfig(branch=2, n_layers=2, head_options={"rope": False})
#: 7 samples in batches of 4 and 3, in shards of 3, 3 and 1.
N, SHARD_SAMPLES = 7, 3
SETTINGS = TrainingSettings(
    learning_rate=1e-3, epochs=2, global_batch_size=4, micro_batch_size=1, log_every=1
)
LINEAR_SETTINGS = replace(SETTINGS, **LINEAR)
GIGABYTE = 10**9
DEFAULT_SHARD_SAMPLES = sdrpn_core.training.cache_shards.SHARD_SAMPLES


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    for module in (sdrpn_core.training.cache_shards, sdrpn_core.training.feature_cache):
        monkeypatch.setattr(module, "SHARD_SAMPLES", SHARD_SAMPLES)


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava()


@pytest.fixture(scope="module")
def labels(backbone, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("labels")
    label(backbone, records(N), folder, recipe=RECIPE)
    return folder


@pytest.fixture(scope="module")
def uncached(backbone, labels, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("uncached")
    train(backbone, labels, folder, SETTINGS, CONFIG)
    return folder


@pytest.fixture(scope="module")
def uncached_linear(backbone, labels, tmp_path_factory) -> Path:
    """A run whose steps are as long as its gradients."""
    folder = tmp_path_factory.mktemp("uncached-linear")
    train(backbone, labels, folder, LINEAR_SETTINGS, CONFIG)
    return folder


@pytest.fixture(scope="module")
def filled(backbone, labels, tmp_path_factory) -> Path:
    """A complete cache."""
    folder = tmp_path_factory.mktemp("filled")
    with pytest.MonkeyPatch.context() as patch:
        for module in (sdrpn_core.training.cache_shards, sdrpn_core.training.feature_cache):
            patch.setattr(module, "SHARD_SAMPLES", SHARD_SAMPLES)
        train(backbone, labels, folder / "run", SETTINGS, CONFIG, feature_cache=folder / "features")
    return folder / "features"


@pytest.fixture
def cache(filled, tmp_path) -> Path:
    return shutil.copytree(filled, tmp_path / "features")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "rpn" / "model.safetensors")


def assert_close(found: Path, expected: Path, atol: float) -> None:
    a, b = weights(found), weights(expected)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=atol)


def assert_same_up_to_last_bits(found: Path, expected: Path) -> None:
    assert_close(found, expected, SAME_UP_TO_LAST_BITS["atol"])


# -- the same RPN --------------------------------------------------------------------------------


def test_the_rpn_is_that_of_an_uncached_run(backbone, labels, uncached, tmp_path):
    result = train(backbone, labels, tmp_path, SETTINGS, CONFIG, feature_cache=tmp_path / "cache")
    assert_close(tmp_path, uncached, atol=0)
    assert (result.samples, result.skipped) == (2 * N, 0)
    names = {path.name for path in (tmp_path / "cache").iterdir()}
    assert names == {"features.json", *(f"features-00000{n}.safetensors" for n in range(3))}


@pytest.mark.parametrize(
    "changes",
    [{"micro_batch_size": 3}, {"num_workers": 1}, {"gradient_checkpointing": True}],
    ids=str,
)
def test_settings_that_change_nothing_change_nothing(
    backbone, labels, uncached_linear, tmp_path, changes
):
    chosen = replace(LINEAR_SETTINGS, **changes)
    train(backbone, labels, tmp_path, chosen, CONFIG, feature_cache=tmp_path / "cache")
    assert_same_up_to_last_bits(tmp_path, uncached_linear)  # padding moves these, cache or not


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_cached(family, tmp_path):
    backbone = load_backbone(FAMILIES[family](tmp_path / "model"), device="cpu")
    label(backbone, records(3), tmp_path / "labels", recipe=RECIPE)
    for name, options in (("plain", {}), ("cached", {"feature_cache": tmp_path / "cache"})):
        train(backbone, tmp_path / "labels", tmp_path / name, SETTINGS, CONFIG, **options)
    assert_close(tmp_path / "cached", tmp_path / "plain", atol=0)


def test_labels_made_on_the_way_are_cached_as_well(backbone, tmp_path):
    for name, options in (("plain", {}), ("cached", {"feature_cache": tmp_path / "cache"})):
        run = tmp_path / name
        train(backbone, records(N), run, LINEAR_SETTINGS, CONFIG, recipe=RECIPE, **options)
    assert_same_up_to_last_bits(tmp_path / "cached", tmp_path / "plain")


def test_records_that_cannot_be_used_are_skipped_and_counted(backbone, tmp_path):
    mixed = records(5)
    mixed[1] = replace(mixed[1], images=b"no image")
    mixed[3] = replace(mixed[3], response=None)
    results = [
        train(backbone, mixed, tmp_path / name, LINEAR_SETTINGS, CONFIG, recipe=RECIPE, **options)
        for name, options in (("plain", {}), ("cached", {"feature_cache": tmp_path / "cache"}))
    ]
    assert [(r.samples, r.skipped) for r in results] == [(6, 4)] * 2
    assert_same_up_to_last_bits(tmp_path / "cached", tmp_path / "plain")


def test_a_run_that_is_resumed_may_turn_to_the_cache(backbone, labels, uncached, cache, tmp_path):
    chosen = replace(SETTINGS, checkpoint_every=1, keep_checkpoints=4)
    train(backbone, labels, tmp_path, chosen, CONFIG)
    for step in (3, 4):
        shutil.rmtree(tmp_path / "checkpoints" / f"step-{step:08d}")
    result = train(backbone, labels, tmp_path, chosen, CONFIG, feature_cache=cache)
    assert (result.resumed_from, result.steps) == (2, 4)
    assert_close(tmp_path, uncached, atol=0)


# -- what is saved -------------------------------------------------------------------------------


def test_the_frozen_layers_run_once_per_sample(labels, tmp_path):
    chosen = tiny_llava()
    calls = [0] * len(chosen.layers)
    for index in range(CONFIG.branch):

        def count(module, args, kwargs, output, index=index):
            calls[index] += 1

        chosen.layers[index].register_forward_hook(count, with_kwargs=True)
    images = []
    original = chosen.image_features
    chosen.image_features = lambda inputs: images.extend(inputs) or original(inputs)

    options = {"feature_cache": tmp_path / "cache"}
    train(chosen, labels, tmp_path / "a", SETTINGS, CONFIG, **options)
    assert (calls[:3], len(images)) == ([N, N, 0], N)
    other = replace(SETTINGS, learning_rate=1e-4, seed=3, epochs=5)
    train(chosen, labels, tmp_path / "b", other, CONFIG, **options)
    assert (calls[:3], len(images)) == ([N, N, 0], N)


def test_the_size_is_printed_before_anything_is_written(
    backbone, labels, tmp_path, capsys, monkeypatch
):
    module = sdrpn_core.training.feature_cache
    original = module.write_shard
    said = []

    def write(*args):
        said.append(capsys.readouterr().err)
        original(*args)

    monkeypatch.setattr(module, "write_shard", write)
    folder = tmp_path / "cache"
    train(backbone, labels, tmp_path, SETTINGS, CONFIG, feature_cache=folder)
    pattern = r"feature cache .*: float32 features of 7 samples, about ([\d.]+) kB, ([\d.]+) kB of"
    match = re.search(pattern, said[0])
    assert match
    assert match[1] == match[2]
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert float(match[1]) * 1000 == pytest.approx(size, rel=0.1)
    train(backbone, labels, tmp_path / "b", SETTINGS, CONFIG, feature_cache=folder)
    assert "complete (" in capsys.readouterr().err


def test_a_disk_without_room_is_refused(backbone, labels, tmp_path, monkeypatch):
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(GIGABYTE, GIGABYTE, 1000))
    with pytest.raises(SdrpnError, match="1 kB free: choose another disk, or a narrower dtype"):
        train(backbone, labels, tmp_path, SETTINGS, CONFIG, feature_cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_room_is_needed_for_what_is_missing_alone(backbone, labels, cache, tmp_path, monkeypatch):
    size = sum(path.stat().st_size for path in cache.glob("*.safetensors"))
    (cache / "features-000002.safetensors").unlink()
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(GIGABYTE, 0, size // 2))
    train(backbone, labels, tmp_path / "run", SETTINGS, CONFIG, feature_cache=cache)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_narrower_dtype_takes_half_the_room_and_is_part_of_the_run(
    backbone, labels, uncached, filled, tmp_path, dtype
):
    options = {"feature_cache": tmp_path / "cache", "feature_cache_dtype": dtype}
    train(backbone, labels, tmp_path / "run", SETTINGS, CONFIG, **options)
    sizes = [
        sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        for folder in (tmp_path / "cache", filled)
    ]
    assert sizes[0] == pytest.approx(0.5 * sizes[1], rel=0.1)
    # Four steps of Adam at 1e-3 can move a weight by no more than 4e-3 either way.
    assert_close(tmp_path / "run", uncached, atol=4e-3)
    assert any(
        not torch.equal(w, weights(uncached)[name]) for name, w in weights(tmp_path / "run").items()
    )
    message = f'data.features is "{dtype}" there and absent here'
    with pytest.raises(CheckpointError, match=message):
        train(backbone, labels, tmp_path / "run", SETTINGS, CONFIG)


def test_dtypes_that_make_no_sense_are_refused(backbone, labels, tmp_path):
    options = {"feature_cache": tmp_path / "cache", "feature_cache_dtype": "int8"}
    with pytest.raises(ConfigError, match="cannot be stored as 'int8'; known: float32, bfloat16"):
        train(backbone, labels, tmp_path, SETTINGS, CONFIG, **options)
    with pytest.raises(ConfigError, match="no feature_cache to store features in"):
        train(backbone, labels, tmp_path, SETTINGS, CONFIG, feature_cache_dtype="bfloat16")


def test_features_that_a_dtype_cannot_hold_are_refused(tmp_path):
    backbone = tiny_llava()
    with torch.no_grad():
        backbone.embedding.weight.mul_(1e6)
    label(backbone, records(2), tmp_path / "labels", recipe=RECIPE)

    def run(dtype: str):
        folders = {"feature_cache": tmp_path / dtype, "feature_cache_dtype": dtype}
        train(backbone, tmp_path / "labels", tmp_path / f"{dtype}-run", SETTINGS, CONFIG, **folders)

    with pytest.raises(ConfigError, match=r"record 'r0': .* than float16 holds: store them as bf"):
        run("float16")
    run("bfloat16")


# -- kills, stale and broken folders -------------------------------------------------------------


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def test_a_killed_run_goes_on_with_the_files_that_are_missing(
    backbone, labels, filled, uncached, tmp_path, monkeypatch
):
    module = sdrpn_core.training.feature_cache
    original = module.write_shard

    def killed(folder, shard, run, items):
        if shard == 1:
            raise Killed
        original(folder, shard, run, items)

    folder = tmp_path / "cache"
    options = {"feature_cache": folder}
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_shard", killed)
        with pytest.raises(Killed):
            train(backbone, labels, tmp_path / "run", SETTINGS, CONFIG, **options)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert before.keys() == {"features.json", "features-000000.safetensors"}
    train(backbone, labels, tmp_path / "run", SETTINGS, CONFIG, **options)
    assert all((folder / name).stat().st_mtime_ns == time for name, time in before.items())
    assert files(folder) == files(filled)
    assert_close(tmp_path / "run", uncached, atol=0)


def other_weights(arguments):
    arguments["backbone"] = tiny_llava(seed=1)
    arguments["data"] = records(N)
    arguments["recipe"] = RECIPE


def other_branch(arguments):
    arguments["config"] = replace(CONFIG, branch=1)


def other_thresholds(arguments):
    arguments["recipe"] = replace(RECIPE, foreground=0.5)


def other_images(arguments):
    chosen = tiny_llava()
    chosen.processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    arguments["backbone"] = chosen


def other_prompt(arguments):
    chosen = tiny_llava()
    chosen.chat_text = lambda question, n_images: "<image> what ? " + question
    arguments["backbone"] = chosen


def other_dtype(arguments):
    arguments["feature_cache_dtype"] = "bfloat16"


STALE = {
    "other data and weights": (other_weights, "backbone.attention_weights"),
    "another branch layer": (other_branch, "branch is 2 there and 1 here"),
    "other thresholds": (other_thresholds, "labels.recipe.foreground is 0.2 there and 0.5 here"),
    "other image settings": (other_images, "preprocessing.image_processor"),
    "another prompt": (other_prompt, "preprocessing.prompt"),
    "another dtype": (other_dtype, "stored_in"),
}


@pytest.mark.parametrize(("change", "message"), STALE.values(), ids=STALE)
def test_a_stale_cache_is_refused_and_left_alone(
    backbone, labels, cache, filled, tmp_path, change, message
):
    arguments = {
        "backbone": backbone,
        "data": labels,
        "out_dir": tmp_path / "run",
        "settings": SETTINGS,
        "config": CONFIG,
        "feature_cache": cache,
    }
    change(arguments)
    with pytest.raises(CheckpointError, match="holds another feature cache: ") as error:
        train(**arguments)
    assert message in str(error.value)
    assert files(cache) == files(filled)


def test_a_backbone_under_another_name_is_the_same(labels, cache, tmp_path):
    chosen = tiny_llava()
    chosen.name = "elsewhere"
    before = files(cache)
    train(chosen, labels, tmp_path / "run", SETTINGS, CONFIG, feature_cache=cache)
    assert files(cache) == before


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def swap(path: Path) -> None:
    shutil.copy(path.with_name("features-000001.safetensors"), path)


@pytest.fixture
def midnight(monkeypatch) -> None:
    """Every look at the clock is one of another day."""
    days = itertools.count(1)

    class Clock(datetime):
        @classmethod
        def now(cls):
            return datetime(2026, 1, 1) + timedelta(days=next(days))

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock)


@pytest.mark.usefixtures("midnight")
def test_a_prompt_that_tells_the_date_is_the_same_tomorrow(tmp_path):
    backbone = tiny_mistral3()
    template = backbone.processor.chat_template
    backbone.processor.chat_template = "{{ 'red ' * (strftime_now('%d') | int) }}" + template
    first, second = (len(backbone.tokenize("is it", 1)) for _ in range(2))
    assert first != second
    label(backbone, records(N), tmp_path / "labels", recipe=RECIPE)

    def run(name: str):
        folders = {"feature_cache": tmp_path / "features"}
        return train(backbone, tmp_path / "labels", tmp_path / name, SETTINGS, CONFIG, **folders)

    assert run("one").skipped == run("two").skipped == 0
    assert_close(tmp_path / "two", tmp_path / "one", atol=0)
    backbone.processor.chat_template += "blue"
    with pytest.raises(CheckpointError, match="preprocessing"):
        run("three")


@pytest.mark.parametrize(
    ("damage", "message"), [(cut, "cannot be read"), (swap, "belongs to another feature cache")]
)
def test_a_broken_file_is_named(backbone, labels, cache, tmp_path, damage, message):
    damage(cache / "features-000000.safetensors")
    with pytest.raises(ShardError, match=message) as error:
        train(backbone, labels, tmp_path / "run", SETTINGS, CONFIG, feature_cache=cache)
    assert "features-000000.safetensors" in str(error.value)
    assert "delete it" in str(error.value)


def test_features_without_a_record_are_refused(backbone, labels, cache, tmp_path):
    (cache / "features.json").unlink()
    with pytest.raises(SdrpnError, match=r"holds cached features but no features\.json"):
        train(backbone, labels, tmp_path / "run", SETTINGS, CONFIG, feature_cache=cache)


# -- several processes ---------------------------------------------------------------------------


@pytest.mark.long
def test_two_processes_fill_one_cache_and_train_like_one(tmp_path):
    n = 2 * DEFAULT_SHARD_SAMPLES + 1
    folder = write_tiny_llava(tmp_path / "model")
    chosen = load_backbone(folder, device="cpu")
    label(chosen, records(n), tmp_path / "labels", recipe=RECIPE)
    settings = TrainingSettings(**LINEAR, epochs=2, global_batch_size=n - 1, micro_batch_size=8)
    train(chosen, tmp_path / "labels", tmp_path / "alone", settings, CONFIG)
    words = f"train labels --model {folder} --out pair --feature-cache cache --json --lr 0.1"
    words += f" --branch 2 --layers 2 --head-option rope=false --global-batch-size {n - 1}"
    words += " --setting optimizer=sgd"
    # "--multi_gpu" starts two processes also where there is no GPU, which then share the CPU.
    launch = "launch --multi_gpu --num_processes=2 --num_machines=1 --mixed_precision=no"
    launch += " --dynamo_backend=no --main_process_port=0 -m sdrpn_core"
    command = [str(Path(sys.executable).with_name("accelerate")), *launch.split()]
    result = subprocess.run(
        [*command, *words.split(), "--epochs", "2"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("float32 features of 65 samples") == 1
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 3
    assert_same_up_to_last_bits(tmp_path / "pair", tmp_path / "alone")


# -- passing over layers -------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_decoder_prepares_the_same_for_layers_that_are_passed_over(family, tmp_path):
    backbone = load_backbone(FAMILIES[family](tmp_path / "model"), device="cpu")
    questions = [
        Question.about(tiny_image(0), "what color is the square ?"),
        Question.about(tiny_image(1, (60, 90)), "what ?"),
    ]
    block = prompt_block(backbone, backbone.encode(questions))
    inputs = {
        "inputs_embeds": block.embeds,
        "attention_mask": block.mask,
        "position_ids": block.positions,
        "use_cache": False,
    }
    with torch.no_grad(), FeatureTap(backbone.decoder, 3) as tap:
        expected = tap.run(**inputs)
    shortened = without_layers(backbone.decoder, 3)
    with torch.no_grad(), FeatureTap(shortened, 3) as tap:
        found = tap.run(**inputs)
    assert torch.equal(found.hidden, block.embeds)
    assert found.layer_kwargs.keys() == expected.layer_kwargs.keys()
    for name, value in expected.layer_kwargs.items():
        torch.testing.assert_close(found.layer_kwargs[name], value, rtol=0, atol=0)


def test_a_decoder_without_its_first_layers_leaves_the_decoder_as_it_is(backbone):
    before = list(backbone.layers)
    shortened = without_layers(backbone.decoder, 2)
    assert list(backbone.layers) == before
    assert list(shortened.layers[2:]) == before[2:]
    assert shortened.layers[1].self_attn is before[1].self_attn
    assert not list(shortened.layers[1].parameters())
    assert shortened.norm is backbone.decoder.norm


@torch.no_grad()
def test_a_decoder_that_a_device_map_has_hooked_passes_over_layers_as_well(backbone):
    ran = []
    decoder = copy.deepcopy(backbone.decoder)
    decoder.layers[0].register_forward_hook(lambda *_: ran.append(0))
    add_hook_to_module(decoder, AlignDevicesHook("cpu", io_same_device=True))
    embeds = torch.ones(1, 3, backbone.hidden_size)
    decoder(inputs_embeds=embeds)
    assert ran == [0]
    with FeatureTap(without_layers(decoder, 2), 2) as tap:
        assert torch.equal(tap.run(inputs_embeds=embeds).hidden, embeds)
    assert ran == [0]


def test_the_record_says_what_is_cached(filled):
    record = json.loads((filled / "features.json").read_text())
    assert (record["branch"], record["stored_in"]) == (2, "torch.float32")
