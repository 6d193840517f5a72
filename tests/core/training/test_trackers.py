"""Trackers: accelerate's, one line for what is missing, and the same numbers as in the log."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import get_type_hints

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from typer.testing import CliRunner

import sdrpn_core.training.trackers
from sdrpn_core.cli.main import app
from sdrpn_core.cli.train_command import train as train_command
from sdrpn_core.errors import ConfigError, MissingExtraError, SdrpnError, UnknownNameError
from sdrpn_core.labeling.stage import label
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_core.training.settings import TrainingSettings
from sdrpn_core.training.stage import train
from sdrpn_core.training.trackers import check_trackers
from tests.stage_data import RECIPE, records
from tests.tiny import tiny_llava

CONFIG = RPNConfig(branch=2, n_layers=2, head_options={"rope": False})
SETTINGS = TrainingSettings(
    learning_rate=1e-3, epochs=3, global_batch_size=4, log_every=1, checkpoint_every=1
)
LAST_STEP = 3


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava()


@pytest.fixture(scope="module")
def labels(backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    label(backbone, records(4), folder, recipe=RECIPE)
    return folder


@pytest.fixture
def notes(monkeypatch):
    """A tracker of another package, and what it was told."""
    told = []

    class Notes(GeneralTracker):
        name = "notes"
        requires_logging_directory = False

        def __init__(self, run_name, **options):
            super().__init__()
            told.append(("init", run_name))

        tracker = None

        def start(self):
            told.append(("start",))

        def store_init_configuration(self, values):
            told.append(("config", values))

        def log(self, values, step, **options):
            told.append(("log", step, values))

        def finish(self):
            told.append(("finish",))

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "notes", Notes)
    return told


def log(folder):
    return [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]


def losses(folder):
    """``{step: [values]}``, as TensorBoard shows them."""
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = module.EventAccumulator(str(folder / "trackers" / "sdrpn"))
    events.Reload()
    found = {}
    for event in events.Scalars("train/loss"):
        found.setdefault(event.step, []).append(event.value)
    return found


def test_the_trackers_of_accelerate_are_offered():
    option = get_type_hints(train_command, include_extras=True)["tracker"].__metadata__[0]
    names = option.help.partition("repeatable: ")[2].partition(";")[0].replace(" or ", ", ")
    assert sorted(names.split(", ")) == sorted([*LOGGER_TYPE_TO_CLASS, "none"])


def test_none_stands_for_no_tracker():
    assert check_trackers([]) == check_trackers(["none"]) == ()
    with pytest.raises(ConfigError, match="others are given"):
        check_trackers(["none", "tensorboard"])


def test_a_name_that_accelerate_does_not_know():
    with pytest.raises(UnknownNameError, match="unknown tracker 'wandbb': did you mean 'wandb'"):
        check_trackers(["wandbb"])


@pytest.mark.parametrize("name", sorted(LOGGER_TYPE_TO_CLASS))
def test_a_missing_package_is_one_line_with_the_command(monkeypatch, name):
    monkeypatch.setattr(sdrpn_core.training.trackers, "get_available_trackers", list)
    with pytest.raises(SdrpnError) as error:
        check_trackers([name])
    package = {"comet_ml": "comet-ml", "tensorboard": "'sdrpn[tensorboard]'"}.get(name, name)
    assert str(error.value).endswith(f"pip install {package}")
    assert isinstance(error.value, MissingExtraError) == (name == "tensorboard")


def test_the_command_refuses_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(sdrpn_core.training.trackers, "get_available_trackers", list)
    words = ["train", "no-labels", "-m", "no-model", "-o", "no-run", "--tracker", "wandb"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert result.stderr == (
        "error: the tracker 'wandb' needs a package that is not installed: pip install wandb\n"
    )


def test_a_tracker_gets_the_entries_of_the_log(backbone, labels, tmp_path, notes):
    train(backbone, labels, tmp_path, SETTINGS, CONFIG, trackers=["notes"], progress=False)
    assert notes[:2] == [("init", "sdrpn"), ("start",)]
    assert notes[-1] == ("finish",)
    assert notes[2][1]["learning_rate"] == 1e-3
    logged = {step: values for kind, step, values in notes[3:-1]}
    expected = {
        entry.pop("step"): {f"train/{key}": value for key, value in entry.items()}
        for entry in log(tmp_path)
    }
    assert logged == expected
    assert sorted(logged) == [1, 2, 3]


def test_tensorboard_shows_a_resumed_run_as_one(backbone, labels, tmp_path, notes, monkeypatch):
    pytest.importorskip("tensorboard")

    def interrupted(self, values, step, **options):
        if step == LAST_STEP:
            raise KeyboardInterrupt

    run = partial(train, backbone, labels, tmp_path, SETTINGS, CONFIG, progress=False)
    monkeypatch.setattr(LOGGER_TYPE_TO_CLASS["notes"], "log", interrupted)
    with pytest.raises(KeyboardInterrupt):  # after the entry, before the checkpoint
        run(trackers=["tensorboard", "notes"])
    assert sorted(losses(tmp_path)) == [1, 2, 3]
    assert run(trackers=["tensorboard"]).resumed_from == LAST_STEP - 1
    expected = {entry["step"]: pytest.approx([entry["loss"]]) for entry in log(tmp_path)}
    assert losses(tmp_path) == expected
    assert list(expected) == [1, 2, 3]


def test_starting_over_removes_what_trackers_wrote(backbone, labels, tmp_path):
    pytest.importorskip("tensorboard")
    run = partial(train, backbone, labels, tmp_path, config=CONFIG, progress=False)
    run(settings=SETTINGS, trackers=["tensorboard"])
    run(settings=replace(SETTINGS, max_steps=1), trackers=["tensorboard"], overwrite=True)
    assert list(losses(tmp_path)) == [1]


def test_a_tracker_that_does_not_start_is_one_line(backbone, labels, tmp_path, notes, monkeypatch):
    def start(self):
        raise RuntimeError("no login\nrun notes login")

    monkeypatch.setattr(LOGGER_TYPE_TO_CLASS["notes"], "start", start)
    with pytest.raises(SdrpnError) as error:
        train(backbone, labels, tmp_path, SETTINGS, CONFIG, trackers=["notes"], progress=False)
    assert str(error.value) == "cannot start the tracker (notes): no login"


def test_without_a_tracker_there_is_the_log_alone(backbone, labels, tmp_path):
    train(backbone, labels, tmp_path, replace(SETTINGS, max_steps=1), CONFIG, progress=False)
    assert len(log(tmp_path)) == 1
    assert not (tmp_path / "trackers").exists()
