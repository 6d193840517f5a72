"""The models of a benchmark: what is wrong with one is said before the first of them runs."""

from __future__ import annotations

import json

import pytest

from sdrpn_bench import BenchModel, run_benchmark
from sdrpn_core import RPN, load_backbone
from sdrpn_core.data.record import Record
from sdrpn_core.errors import CheckpointError, ConfigError, InputError, SdrpnError, UnknownNameError
from tests.tiny import tiny_image, write_tiny_llava


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_llava(tmp_path_factory.mktemp("models") / "whole")


@pytest.fixture
def record():
    return Record("r", tiny_image(0, (60, 60)), "which color ?", answers=("red",))


def unserved(tmp_path, folder):
    other = tmp_path / "unserved"
    other.mkdir()
    config = json.loads((folder / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    return BenchModel(other)


def without_rpn(tmp_path, folder):
    return BenchModel(folder, tmp_path / "missing-rpn", name="second")


def missing(tmp_path, folder):
    return BenchModel(tmp_path / "missing")


def with_a_budget(tmp_path, folder):
    return BenchModel(folder, name="second", visual_tokens=20)


def with_broken_rpn(tmp_path, folder):
    (tmp_path / "config.json").write_text("{")
    return BenchModel(folder, tmp_path, name="second")


def rpn_alone(tmp_path, folder):
    backbone = load_backbone(folder, device="cpu")
    RPN.from_backbone(backbone, branch=2, n_layers=2).save_pretrained(tmp_path / "rpn")
    return BenchModel(tmp_path / "rpn")


@pytest.mark.parametrize(
    ("second", "error", "says"),
    [
        (rpn_alone, InputError, "the folder holds an RPN: give its model in this place"),
        (without_rpn, CheckpointError, "missing-rpn: no such RPN folder"),
        (with_broken_rpn, CheckpointError, "config.json"),
        (missing, InputError, "missing: no such folder"),
        (
            with_a_budget,
            ConfigError,
            "'second': the family's resolution is fixed, so a .* 20",
        ),
        (unserved, UnknownNameError, "bert"),
    ],
)
def test_a_later_model_is_checked_before_the_first_is_loaded(
    second, error, says, folder, record, tmp_path, monkeypatch
):
    loaded = []
    monkeypatch.setattr(BenchModel, "load", lambda self, **_: loaded.append(self.label))
    out = tmp_path / "run"
    models = [BenchModel(folder, name="first"), second(tmp_path, folder)]
    with pytest.raises(error, match=says):
        run_benchmark(models, ["baseline"], [record], out=out)
    assert not loaded
    # The folder says nothing of the run, so the corrected command can use it.
    assert not any(out.iterdir())


def test_code_from_the_hub_is_run_only_if_the_loading_options_say_so(folder, record, tmp_path):
    custom = tmp_path / "custom"
    custom.mkdir()
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "unheard_of", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (custom / "config.json").write_text(json.dumps(config))
    ran = tmp_path / "ran"
    (custom / "own.py").write_text(
        "from transformers import LlavaConfig\n"
        f"open({str(ran)!r}, 'w').close()\n"
        "class OwnConfig(LlavaConfig):\n    model_type = 'unheard_of'\n"
    )
    with pytest.raises(SdrpnError):
        BenchModel(custom).check()
    assert not ran.exists()
    with pytest.raises(UnknownNameError, match="unheard_of"):  # read, and no adapter serves it
        BenchModel(custom).check(trust_remote_code=True, dtype="float32")
    assert ran.exists()
