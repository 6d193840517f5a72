"""Training: the loss over the global batch, exact resume, lazy labels, and what is refused."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import sdrpn_core.training.checkpoint_times
import sdrpn_core.training.loop
from sdrpn_core.backbone.preprocessing import Preprocessor
from sdrpn_core.backbone.preset import Preset
from sdrpn_core.errors import CheckpointError, ConfigError, SdrpnError, ShardError, UnknownNameError
from sdrpn_core.labeling.run import LabelDataset
from sdrpn_core.labeling.stage import label
from sdrpn_core.labels.pseudo import PseudoLabels, ThresholdLabeler
from sdrpn_core.labels.recipe import LabelRecipe
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_core.rpn.losses import LOSS_FUNCTIONS
from sdrpn_core.rpn.model import RPN
from sdrpn_core.training.batches import StoredLabelBatcher
from sdrpn_core.training.data_order import DataOrder, MicroBatches
from sdrpn_core.training.free_layers import truncate
from sdrpn_core.training.label_objective import LabelObjective
from sdrpn_core.training.optim import make_optimizer, make_schedule
from sdrpn_core.training.samples import SkippedSample, StoredLabels
from sdrpn_core.training.settings import TrainingSettings
from sdrpn_core.training.stage import train
from sdrpn_core.training.step import TrainingStep
from sdrpn_core.util.folder_lock import hold_folder
from tests.core.training.killed import killed_at
from tests.stage_data import LINEAR, RECIPE, SAME_UP_TO_LAST_BITS, records
from tests.tiny import tiny_llava

CONFIG = RPNConfig(branch=2, n_layers=2, head_options={"rope": False})
#: 7 samples in batches of 4 and 3: 2 steps per epoch.
N = 7
SETTINGS = TrainingSettings(
    learning_rate=1e-3, epochs=2, global_batch_size=4, micro_batch_size=2, log_every=1
)
STEPS = 4
LINEAR_SETTINGS = replace(SETTINGS, **LINEAR)


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava()


@pytest.fixture(scope="module")
def labels(backbone, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("labels")
    label(backbone, records(N), folder, recipe=RECIPE, shard_size=4)
    return folder


@pytest.fixture(scope="module")
def trained(backbone, labels, tmp_path_factory) -> Path:
    """An uninterrupted run with the settings above."""
    folder = tmp_path_factory.mktemp("trained")
    train(backbone, labels, folder, SETTINGS, CONFIG)
    return folder


@pytest.fixture(scope="module")
def trained_linearly(backbone, labels, tmp_path_factory) -> Path:
    """An uninterrupted run whose steps are as long as its gradients."""
    folder = tmp_path_factory.mktemp("trained-linearly")
    train(backbone, labels, folder, LINEAR_SETTINGS, CONFIG)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "rpn" / "model.safetensors")


def assert_same(found: Path, expected: Path) -> None:
    a, b = weights(found), weights(expected)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], **SAME_UP_TO_LAST_BITS)


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]


# -- the order of the data -----------------------------------------------------------------------


@settings(max_examples=50)
@given(
    n=st.integers(1, 40),
    size=st.integers(1, 12),
    micro=st.integers(1, 5),
    processes=st.integers(1, 5),
    seed=st.integers(0, 3),
)
def test_any_number_of_processes_covers_the_same_global_batches(n, size, micro, processes, seed):
    order = DataOrder(n, size, seed)
    epochs = []
    for step in range(2 * order.steps_per_epoch):
        shares = [order.micro_batches(step, micro, p, processes) for p in range(processes)]
        assert all(1 <= len(batch) <= micro for share in shares for batch in share)
        found = sorted(index for share in shares for batch in share for index in batch)
        assert found == sorted(DataOrder(n, size, seed).global_batch(step))
        epochs += found
    half = len(epochs) // 2
    assert sorted(epochs[:half]) == sorted(epochs[half:]) == list(range(n))


def test_the_order_differs_by_epoch_and_seed():
    order = DataOrder(50, 50, seed=0)
    other = DataOrder(50, 50, seed=1)
    assert len({tuple(o.global_batch(step)) for o in (order, other) for step in (0, 1)}) == 4


def test_the_sampler_starts_where_it_is_told():
    order = DataOrder(10, 4, seed=0)
    whole = list(MicroBatches(order, 0, 6, 3, 0, 1))
    done = sum(len(order.micro_batches(step, 3)) for step in range(2))
    assert list(MicroBatches(order, 2, 6, 3, 0, 1)) == whole[done:]


# -- settings and schedule -----------------------------------------------------------------------


def test_settings_come_from_the_preset_and_unknown_ones_are_refused():
    chosen = tiny_llava()
    preset = Preset("t", {}, 2, 2, {"r": RECIPE}, training={"learning_rate": 0.5, "epochs": 3})
    chosen.find_preset = lambda: preset
    found = TrainingSettings.for_backbone(chosen, epochs=2)
    assert (found.learning_rate, found.epochs, found.betas) == (0.5, 2, (0.9, 0.98))
    with pytest.raises(
        ConfigError,
        match="settings: unknown field 'learning_rat'; did you mean 'learning_rate'",
    ):
        TrainingSettings.for_backbone(chosen, learning_rat=1)


@pytest.mark.parametrize(
    "values",
    [
        {"learning_rate": 0.0},
        {"betas": (0.9, 1.0)},
        {"global_batch_size": 0},
        {"max_steps": 0},
        {"warmup_fraction": 1.0},
        {"mixed_precision": "fp8"},
        {"max_grad_norm": -1.0},
        {"num_workers": -1},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        TrainingSettings(**values)


def test_settings_survive_json():
    assert TrainingSettings.from_dict(json.loads(json.dumps(SETTINGS.to_dict()))) == SETTINGS


def test_the_schedule_warms_up_and_follows_a_cosine_to_zero():
    chosen = TrainingSettings(learning_rate=0.1, warmup_fraction=0.03)
    optimizer = make_optimizer(torch.nn.Linear(2, 2), chosen)
    schedule = make_schedule(optimizer, chosen, 100)
    rates = []
    for step in range(100):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(rates[:4], [0.025, 0.05, 0.075, 0.1])
    cosine = [0.05 * (1 + math.cos(math.pi * (step - 3) / 97)) for step in range(3, 100)]
    np.testing.assert_allclose(rates[3:], cosine)


@pytest.mark.parametrize("expected", [[0.1], [0.05, 0.1]], ids=["one step", "two steps"])
def test_the_shortest_schedules_end_at_the_peak_and_say_nothing(expected, caplog):
    chosen = TrainingSettings(learning_rate=0.1, warmup_fraction=0.03)
    optimizer = make_optimizer(torch.nn.Linear(2, 2), chosen)
    schedule = make_schedule(optimizer, chosen, len(expected))
    rates = []
    for step in range(len(expected)):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx(expected)
    assert not caplog.records


def test_an_unknown_optimizer_is_refused_with_the_near_names():
    with pytest.raises(UnknownNameError, match="'adamw'"):
        make_optimizer(torch.nn.Linear(2, 2), TrainingSettings(optimizer="adamww"))


# -- the step ------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["bce", "focal", "mse"])
def test_the_gradient_is_that_of_the_mean_over_the_global_batch(backbone, labels, loss):
    rpn = RPN.from_backbone(backbone, replace(CONFIG, loss=loss))
    samples = StoredLabels(LabelDataset(labels), ThresholdLabeler(RECIPE), Preprocessor(backbone))
    items = [samples[index] for index in range(5)]
    batcher = StoredLabelBatcher(backbone, CONFIG.branch)

    batch = batcher(items)
    total, cells = LOSS_FUNCTIONS[loss](rpn(batch.features, batch.places).scores, batch.labels)
    (total / cells).backward()
    expected = {name: p.grad.clone() for name, p in rpn.named_parameters()}

    optimizer = torch.optim.SGD(rpn.parameters(), lr=0.0)
    objective = LabelObjective(rpn.config)
    step = TrainingStep(
        Accelerator(cpu=True), rpn, objective, batcher, optimizer, max_grad_norm=None
    )
    sums, norm = step([items[:1], items[1:4], [SkippedSample("x", "gone"), items[4]]], "step 1")
    assert (sums.samples, sums.skipped, sums.n) == (5, 1, float(cells))
    assert sums.mean_loss == pytest.approx(float(total.detach() / cells), rel=1e-5)
    assert norm == pytest.approx(math.sqrt(sum(float((g**2).sum()) for g in expected.values())))
    for name, parameter in rpn.named_parameters():
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(parameter.grad, expected[name], rtol=0, atol=1e-5 * scale)


def test_gradients_are_limited_to_the_norm(backbone, labels):
    rpn = RPN.from_backbone(backbone, CONFIG)
    samples = StoredLabels(LabelDataset(labels), ThresholdLabeler(RECIPE), Preprocessor(backbone))
    optimizer = torch.optim.SGD(rpn.parameters(), lr=0.0)
    batcher = StoredLabelBatcher(backbone, CONFIG.branch)
    objective = LabelObjective(rpn.config)
    step = TrainingStep(
        Accelerator(cpu=True), rpn, objective, batcher, optimizer, max_grad_norm=1e-3
    )
    _, norm = step([[samples[index] for index in range(N)]], "step 1")
    assert norm > 1e-3
    limited = math.sqrt(sum(float((p.grad**2).sum()) for p in rpn.parameters()))
    assert limited == pytest.approx(1e-3, rel=1e-3)


# -- whole runs ----------------------------------------------------------------------------------


def test_a_run_leaves_what_it_promises(backbone, trained, labels):
    assert [entry["step"] for entry in log(trained)] == [1, 2, 3, 4]
    assert sum(entry["samples"] for entry in log(trained)) == 2 * N
    assert not (trained / "trackers").exists()
    assert [p.name for p in (trained / "checkpoints").iterdir()] == ["step-00000004"]
    rpn = RPN.from_pretrained(trained / "rpn", backbone=backbone)
    assert LabelRecipe.from_dict(dict(rpn.config.recipe)) == RECIPE
    recorded = json.loads((trained / "rpn" / "training.json").read_text())
    assert TrainingSettings.from_dict(recorded["settings"]) == SETTINGS
    assert recorded["data"]["digest"] == LabelDataset(labels).manifest.digest


def test_only_the_rpn_learns_and_it_learns(backbone, labels, tmp_path):
    before = {name: p.clone() for name, p in backbone.model.named_parameters()}
    start = RPN.from_backbone(backbone, CONFIG).state_dict()
    result = train(backbone, labels, tmp_path, replace(SETTINGS, epochs=10), CONFIG)
    losses = [entry["loss"] for entry in log(tmp_path)]
    assert losses[-1] == result.loss < 0.5 * losses[0]
    for name, parameter in backbone.model.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])
    assert all(not torch.equal(start[name], p) for name, p in result.rpn.state_dict().items())


@pytest.mark.parametrize(
    "changes", [{"micro_batch_size": 4}, {"gradient_checkpointing": True}], ids=str
)
def test_memory_settings_do_not_change_the_result(
    backbone, labels, trained_linearly, tmp_path, changes
):
    train(backbone, labels, tmp_path, replace(LINEAR_SETTINGS, **changes), CONFIG)
    assert_same(tmp_path, trained_linearly)


def test_worker_processes_do_not_change_the_result(backbone, labels, trained, tmp_path):
    chosen = replace(SETTINGS, num_workers=1, max_steps=None)
    train(backbone, labels, tmp_path, chosen, CONFIG)
    assert weights(tmp_path).keys() == weights(trained).keys()
    assert all(torch.equal(w, weights(trained)[name]) for name, w in weights(tmp_path).items())


def test_a_truncated_backbone_trains_the_same_rpn(labels, trained, tmp_path):
    chosen = tiny_llava()
    train(chosen, labels, tmp_path, SETTINGS, CONFIG, free_backbone=True)
    assert all(torch.equal(w, weights(trained)[name]) for name, w in weights(tmp_path).items())
    assert len(chosen.layers) == CONFIG.branch + 1
    assert not list(chosen.layers[CONFIG.branch].parameters())
    assert not list(chosen.model.get_output_embeddings().parameters())
    with pytest.raises(ConfigError, match="has 3 loaded"):
        RPN.from_backbone(chosen, CONFIG)


def test_nothing_is_freed_where_all_layers_are_needed():
    chosen = tiny_llava()
    n = sum(p.numel() for p in chosen.model.parameters())
    truncate(chosen, len(chosen.layers))
    assert sum(p.numel() for p in chosen.model.parameters()) == n


def test_labels_made_on_the_way_train_the_same_rpn(labels, trained_linearly, tmp_path):
    chosen = tiny_llava()
    result = train(
        chosen, records(N), tmp_path, LINEAR_SETTINGS, CONFIG, recipe=RECIPE, free_backbone=True
    )
    assert len(chosen.layers) == 5  # the deepest tapped layer is 3; the shell that stops the pass
    assert_same(tmp_path, trained_linearly)
    assert result.skipped == 0


@pytest.mark.parametrize("deepest", [0, 5])
def test_the_tapped_layers_may_lie_on_either_side_of_the_branch(backbone, tmp_path, deepest):
    recipe = LabelRecipe(grounding={deepest: (0, 1)}, max_box_fraction=1.0, foreground=0.5)
    label(backbone, records(4), tmp_path / "labels", recipe=recipe)
    chosen = replace(LINEAR_SETTINGS, max_steps=1)
    train(backbone, tmp_path / "labels", tmp_path / "a", chosen, CONFIG)
    train(backbone, records(4), tmp_path / "b", chosen, CONFIG, recipe=recipe)
    assert_same(tmp_path / "b", tmp_path / "a")


def test_the_conv_head_trains(backbone, labels, tmp_path):
    config = RPNConfig(branch=2, n_layers=1, head="conv", head_options={"channels": 4})
    train(backbone, labels, tmp_path, replace(SETTINGS, max_steps=2), config)
    rpn = RPN.from_pretrained(tmp_path / "rpn", backbone=backbone)
    assert rpn.config.head == "conv"


# -- resuming ------------------------------------------------------------------------------------


def test_a_folder_that_another_run_uses_is_refused(backbone, labels, tmp_path):
    with hold_folder(tmp_path), pytest.raises(SdrpnError, match="is in use by process"):
        train(backbone, labels, tmp_path, SETTINGS, CONFIG)
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize("optimizer", ["adamw", "lion"])
def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(backbone, labels, tmp_path, optimizer):
    chosen = replace(SETTINGS, checkpoint_every=1, optimizer=optimizer, keep_checkpoints=1)
    train(backbone, labels, tmp_path / "whole", chosen, CONFIG)

    with killed_at(3):
        train(backbone, labels, tmp_path / "cut", chosen, CONFIG)
    leftover = tmp_path / "cut" / "checkpoints" / ".unfinished-step-00000003"
    leftover.mkdir()
    with (tmp_path / "cut" / "train_log.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 0.1}\n{"step": 4, "lo')
    # What decides neither weights nor log may change.
    again = replace(chosen, num_workers=0, keep_checkpoints=2)
    result = train(backbone, labels, tmp_path / "cut", again, CONFIG, resume=True)
    assert (result.resumed_from, result.steps, result.samples) == (2, 4, N)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(cut[name], whole[name]) for name in whole)
    keys = ("step", "loss", "gradient_norm", "learning_rate", "samples", "epoch")
    assert [[e[k] for k in keys] for e in log(tmp_path / "cut")] == [
        [e[k] for k in keys] for e in log(tmp_path / "whole")
    ]
    assert not leftover.exists()


def test_only_the_last_checkpoints_are_kept(backbone, labels, tmp_path):
    chosen = replace(SETTINGS, checkpoint_every=1, keep_checkpoints=2)
    train(backbone, labels, tmp_path, chosen, CONFIG)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000003", "step-00000004"]


def test_a_finished_run_is_returned_as_it_is(backbone, labels, trained, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    result = train(backbone, labels, tmp_path, SETTINGS, CONFIG)
    assert (result.resumed_from, result.samples) == (STEPS, 0)
    assert result.loss == log(trained)[-1]["loss"]
    assert all(torch.equal(w, weights(trained)[n]) for n, w in result.rpn.state_dict().items())


def test_a_folder_is_continued_by_the_same_run_alone(backbone, labels, trained, tmp_path):
    with pytest.raises(CheckpointError, match=r"another training run.*learning_rate is 0\.001"):
        train(backbone, labels, trained, replace(SETTINGS, learning_rate=1.0), CONFIG)
    with pytest.raises(CheckpointError, match=r"rpn\.loss"):
        train(backbone, labels, trained, SETTINGS, replace(CONFIG, loss="focal"))
    with pytest.raises(CheckpointError, match="no training run to resume"):
        train(backbone, labels, tmp_path, SETTINGS, CONFIG, resume=True)
    (tmp_path / "rpn").mkdir()
    with pytest.raises(CheckpointError, match=r"holds rpn but no run\.json"):
        train(backbone, labels, tmp_path, SETTINGS, CONFIG)


def test_a_run_is_started_over_when_asked(backbone, labels, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    other = replace(SETTINGS, max_steps=1)
    with pytest.raises(ConfigError, match="resume continues a run, overwrite removes it"):
        train(backbone, labels, tmp_path / "run", other, CONFIG, resume=True, overwrite=True)
    result = train(backbone, labels, tmp_path / "run", other, CONFIG, overwrite=True)
    train(backbone, labels, tmp_path / "fresh", other, CONFIG)
    assert (result.resumed_from, result.steps) == (0, 1)
    names = {path.name for path in (tmp_path / "fresh").iterdir()}
    assert {path.name for path in (tmp_path / "run").iterdir()} == {*names, "notes.txt"}
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000001"]
    assert (tmp_path / "run" / "run.json").read_bytes() == (
        tmp_path / "fresh" / "run.json"
    ).read_bytes()
    fresh = weights(tmp_path / "fresh")
    assert all(torch.equal(w, fresh[name]) for name, w in weights(tmp_path / "run").items())


def test_an_rpn_of_unknown_origin_is_never_overwritten(backbone, labels, tmp_path):
    (tmp_path / "rpn").mkdir()
    with pytest.raises(CheckpointError, match=r"holds rpn but no run\.json"):
        train(backbone, labels, tmp_path, SETTINGS, CONFIG, overwrite=True)
    assert (tmp_path / "rpn").is_dir()


@pytest.mark.parametrize(
    ("mistake", "error"),
    [
        ({"optimizer": "adm"}, UnknownNameError),  # found before the first step
        ({"learning_rate": 1e30, "max_steps": 2, "log_every": 2}, SdrpnError),  # found in a step
    ],
    ids=["optimizer", "diverged"],
)
def test_a_run_that_did_nothing_does_not_occupy_its_folder(
    backbone, labels, tmp_path, mistake, error
):
    with pytest.raises(error):
        train(backbone, labels, tmp_path, replace(SETTINGS, **mistake), CONFIG)
    assert (tmp_path / "run.json").exists()
    with pytest.raises(CheckpointError, match="no training run to resume"):
        train(backbone, labels, tmp_path, SETTINGS, CONFIG, resume=True)
    result = train(backbone, labels, tmp_path, replace(SETTINGS, max_steps=1), CONFIG)
    assert (result.resumed_from, result.steps) == (0, 1)
    assert json.loads((tmp_path / "run.json").read_text())["settings"]["max_steps"] == 1


def test_a_run_with_log_entries_and_no_checkpoint_keeps_its_folder(backbone, labels, tmp_path):
    with killed_at(2):
        train(backbone, labels, tmp_path, SETTINGS, CONFIG)
    assert len(log(tmp_path)) == 1
    with pytest.raises(CheckpointError, match=r"another training run: settings\.max_steps is null"):
        train(backbone, labels, tmp_path, replace(SETTINGS, max_steps=1), CONFIG)


def test_long_work_survives_a_kill_by_default(backbone, labels, trained, tmp_path, monkeypatch):
    """Ten minutes have passed at each step."""
    monkeypatch.setattr(sdrpn_core.training.checkpoint_times, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    with killed_at(3):
        train(backbone, labels, tmp_path, SETTINGS, CONFIG)
    assert train(backbone, labels, tmp_path, SETTINGS, CONFIG).resumed_from == 2
    assert all(torch.equal(weights(trained)[name], w) for name, w in weights(tmp_path).items())


def test_a_checkpoint_of_another_version_is_refused(backbone, labels, trained, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "checkpoints" / "step-00000004" / "state.json"
    state = json.loads(path.read_text())
    del state["format_version"]
    path.write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match=r"format version 1, .* resumes from 2: start over"):
        train(backbone, labels, tmp_path, SETTINGS, CONFIG)


def test_a_broken_checkpoint_is_named(backbone, labels, trained, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "checkpoints" / "step-00000004" / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"step-00000004 cannot be resumed from"):
        train(backbone, labels, tmp_path, SETTINGS, CONFIG)


def test_a_full_disk_leaves_the_earlier_checkpoint(backbone, labels, tmp_path, monkeypatch):
    chosen = replace(SETTINGS, checkpoint_every=2)
    original = os.fsync
    calls = []

    def full(descriptor):
        if any((tmp_path / "checkpoints").glob("step-*")):
            calls.append(descriptor)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(SdrpnError, match="No space left on device"):
            train(backbone, labels, tmp_path, chosen, CONFIG)
    assert calls
    assert train(backbone, labels, tmp_path, chosen, CONFIG).resumed_from == 2


# -- what is refused, and what is skipped --------------------------------------------------------


def test_labels_of_another_backbone_are_refused(labels, tmp_path):
    with pytest.raises(ShardError, match="belongs to another backbone than tiny-llava-1"):
        train(tiny_llava(1), labels, tmp_path, SETTINGS, CONFIG)


@pytest.mark.parametrize(
    "change",
    [
        {"response_rows": 1},
        {"question_template": "where is it? {question}"},
        {"drop_instruction": "briefly"},
    ],
    ids=str,
)
def test_what_the_stored_maps_were_made_of_may_not_change(backbone, labels, tmp_path, change):
    (name,) = change
    with pytest.raises(ConfigError, match=f"was labeled with {name} .*: label again"):
        train(backbone, labels, tmp_path, SETTINGS, CONFIG, recipe=replace(RECIPE, **change))


def test_thresholds_may_change_after_labeling_but_not_heads(backbone, labels, tmp_path):
    other = replace(RECIPE, grounding={2: (0,)})
    with pytest.raises(ConfigError, match="was labeled with heads"):
        train(backbone, labels, tmp_path, SETTINGS, CONFIG, recipe=other)
    once = replace(SETTINGS, max_steps=1)
    strict = replace(RECIPE, foreground=0.9)
    train(backbone, labels, tmp_path / "strict", once, CONFIG, recipe=strict)
    train(backbone, labels, tmp_path / "same", once, CONFIG)
    counts = [log(tmp_path / name)[0]["foreground_cells"] for name in ("strict", "same")]
    assert counts[0] < counts[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_shard_is_one_line(backbone, labels, tmp_path, workers):
    copy = tmp_path / "labels"
    shutil.copytree(labels, copy)
    shard = copy / "labels-00001.parquet"
    raw = bytearray(shard.read_bytes())
    raw[200:1200] = bytes(1000)
    shard.write_bytes(raw)
    with pytest.raises(ShardError, match=r"labels-00001\.parquet is corrupt") as error:
        train(backbone, copy, tmp_path / "run", replace(SETTINGS, num_workers=workers), CONFIG)
    assert "\n" not in str(error.value)


def test_an_incomplete_label_run_is_refused(backbone, labels, tmp_path):
    shutil.copytree(labels, tmp_path / "labels")
    (tmp_path / "labels" / "labels-00001.parquet").unlink()
    with pytest.raises(ShardError, match="1 of 2 shards are missing"):
        train(backbone, tmp_path / "labels", tmp_path / "run", SETTINGS, CONFIG)


class IgnoreAll(ThresholdLabeler):
    def __call__(self, grounding, sink=None, content=None) -> PseudoLabels:
        labels = super().__call__(grounding, sink, content)
        return replace(labels, labels=np.full_like(labels.labels, -100))


@pytest.mark.parametrize("limit", [1, 20], ids=["first steps", "whole run"])
def test_a_run_without_a_single_label_ends_with_an_error(
    backbone, labels, tmp_path, fresh_plugins, monkeypatch, limit
):
    monkeypatch.setattr(sdrpn_core.training.loop, "_MAX_STEPS_WITHOUT_LABELS", limit)
    fresh_plugins.pseudo_labelers.add("ignore-all", IgnoreAll)
    chosen = replace(SETTINGS, labeler="ignore-all")
    seen = 4 if limit == 1 else 2 * N
    with pytest.raises(SdrpnError, match=f"none of the first {seen} samples has a labeled cell"):
        train(backbone, labels, tmp_path, chosen, CONFIG)
    assert not (tmp_path / "rpn").exists()


@pytest.mark.parametrize("limit", [1, 20], ids=["first steps", "whole session"])
def test_a_resumed_run_may_have_no_label_left(
    backbone, labels, tmp_path, fresh_plugins, monkeypatch, limit
):
    monkeypatch.setattr(sdrpn_core.training.loop, "_MAX_STEPS_WITHOUT_LABELS", limit)
    chosen = replace(SETTINGS, checkpoint_every=1, keep_checkpoints=STEPS)
    train(backbone, labels, tmp_path, chosen, CONFIG)
    before = load_file(tmp_path / "checkpoints/step-00000002/rpn/model.safetensors")
    for step in (3, 4):
        shutil.rmtree(tmp_path / "checkpoints" / f"step-{step:08d}")
    original = ThresholdLabeler.__call__

    def ignore_all(self, *maps):
        found = original(self, *maps)
        return replace(found, labels=np.full_like(found.labels, -100))

    monkeypatch.setattr(ThresholdLabeler, "__call__", ignore_all)
    result = train(backbone, labels, tmp_path, chosen, CONFIG)
    assert (result.resumed_from, result.steps) == (2, STEPS)
    assert all(torch.equal(before[name], w) for name, w in weights(tmp_path).items())


def test_divergence_is_named(backbone, labels, tmp_path):
    with pytest.raises(SdrpnError, match=r"step \d: the loss is .* diverged"):
        train(backbone, labels, tmp_path, replace(SETTINGS, learning_rate=1e30), CONFIG)


def test_bf16_needs_cuda(backbone, labels, tmp_path):
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        train(backbone, labels, tmp_path, replace(SETTINGS, mixed_precision="bf16"), CONFIG)


def test_records_that_cannot_be_used_are_skipped_and_counted(backbone, tmp_path, caplog):
    mixed = [
        *records(3),
        replace(records(1)[0], id="mute", response=None),
        replace(records(1)[0], id="broken", images=b"no image"),
    ]
    chosen = replace(SETTINGS, epochs=1)
    result = train(backbone, mixed, tmp_path, chosen, CONFIG, recipe=RECIPE)
    assert (result.samples, result.skipped) == (3, 2)
    assert "'mute' is skipped: record 'mute' comes without a response" in caplog.text
    assert "'broken' is skipped" in caplog.text


def test_an_image_that_is_gone_is_skipped(backbone, tmp_path):
    first, *rest = records(3)
    path = tmp_path / "image.png"
    first.images[0].save(path)
    label(backbone, [replace(first, images=path), *rest], tmp_path / "labels", recipe=RECIPE)
    path.unlink()
    chosen = replace(SETTINGS, epochs=1)
    result = train(backbone, tmp_path / "labels", tmp_path / "run", chosen, CONFIG)
    assert (result.samples, result.skipped) == (2, 1)


@pytest.mark.cuda
def test_bf16_training_on_cuda_keeps_float32_weights(labels, tmp_path):
    chosen = tiny_llava()
    chosen.model.to("cuda", torch.bfloat16)
    label(chosen, records(N), tmp_path / "labels", recipe=RECIPE)
    result = train(chosen, tmp_path / "labels", tmp_path / "run", SETTINGS, CONFIG)
    assert all(w.dtype == torch.float32 for w in weights(tmp_path / "run").values())
    assert result.rpn.head.norm.weight.dtype == torch.bfloat16
    assert math.isfinite(result.loss)
