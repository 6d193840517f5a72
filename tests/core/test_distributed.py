"""``accelerate launch`` with two processes on the CPU: the result of one, and failures that end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sdrpn_core.label_stage import label
from sdrpn_core.loading import load_backbone
from sdrpn_core.records import read_records
from sdrpn_core.rpn import RPNConfig
from sdrpn_core.train_stage import train
from sdrpn_core.training.settings import TrainingSettings
from tests.stage_data import RECIPE, files, records
from tests.tiny import write_tiny_llava

LIMIT = 300  # seconds; a loaded machine takes many to import torch twice
SIZES = {"batch_size": 2, "shard_size": 3, "max_new_tokens": 3}
#: 7 samples in batches of 3: the last batch of an epoch has one, so that one process has none.
SETTINGS = TrainingSettings(
    learning_rate=1e-3, epochs=2, global_batch_size=3, micro_batch_size=2, log_every=1
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model, records of which every second is answered, a recipe; labelled by one process."""
    folder = tmp_path_factory.mktemp("distributed")
    write_tiny_llava(folder / "model")
    lines = []
    for index, record in enumerate(records(7)):
        record.image.save(folder / f"{index}.png")
        response = record.response if index % 2 else None
        lines.append({"image": f"{index}.png", "question": record.question, "response": response})
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "recipe.json").write_text(RECIPE.to_json())
    backbone = load_backbone(folder / "model", device="cpu")
    label(backbone, read_records(folder / "data.jsonl"), folder / "one", recipe=RECIPE, **SIZES)
    return folder


def launch(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """``accelerate launch --multi_gpu --num_processes 2 -m sdrpn_core <words>`` in ``folder``.

    accelerate 1.15 starts a single process with ``--cpu``, whatever ``--num_processes`` says. The
    launcher named after GPUs starts as many as it is told, and without a GPU they talk over gloo.
    """
    command = [
        str(Path(sys.executable).with_name("accelerate")),
        "launch",
        "--multi_gpu",
        "--num_processes=2",
        "--num_machines=1",
        "--mixed_precision=no",
        "--dynamo_backend=no",
        "--main_process_port=0",
        "-m",
        "sdrpn_core",
    ]
    root = Path(__file__).resolve().parents[2]
    paths = [str(root), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    return subprocess.run(
        [*command, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


def label_words(folder: Path, out: str) -> list[str]:
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in SIZES.items()]
    model = ["--model", str(folder / "model"), "--recipe", "recipe.json"]
    return ["label", str(folder / "data.jsonl"), "--out", out, *model, *sizes, "--json"]


@pytest.mark.slow
def test_two_processes_label_like_one(folder):
    result = launch(folder, *label_words(folder, "two"))
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["counts"]["ok"] == 7  # printed once
    one = files(folder / "one")
    assert len(one) == 4
    assert files(folder / "two") == one


@pytest.mark.slow
def test_two_processes_train_like_one(folder):
    backbone = load_backbone(folder / "model", device="cpu")
    config = RPNConfig(branch=2, n_layers=2, head_options={"rope": False})
    train(backbone, folder / "one", folder / "alone", SETTINGS, config)
    shape = ["--branch", "2", "--layers", "2", "--head-option", "rope=false"]
    numbers = ["--epochs", "2", "--global-batch-size", "3", "--batch-size", "1", "--lr", "1e-3"]
    words = ["train", "one", "--model", str(folder / "model"), "--out", "pair", "--json"]
    result = launch(folder, *words, *shape, *numbers, "--setting", "log_every=1")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["samples"] == 2 * 7

    alone, pair = (
        load_file(folder / name / "rpn" / "model.safetensors") for name in ("alone", "pair")
    )
    assert alone.keys() == pair.keys()
    for name in alone:
        torch.testing.assert_close(pair[name], alone[name], rtol=0, atol=1e-6)
    logs = [
        [json.loads(line) for line in (folder / name / "train_log.jsonl").read_text().splitlines()]
        for name in ("alone", "pair")
    ]
    counts = [[(e["step"], e["samples"], e["labelled_cells"]) for e in entries] for entries in logs]
    assert counts[0] == counts[1]


@pytest.mark.slow
def test_a_process_that_fails_ends_the_job(folder):
    # Shard 1 belongs to the second process; a folder of that name cannot be replaced by a file.
    (folder / "broken" / "labels-00001.parquet").mkdir(parents=True)
    (folder / "broken" / "manifest.json").write_bytes((folder / "one/manifest.json").read_bytes())
    result = launch(folder, *label_words(folder, "broken"))
    assert result.returncode != 0
    assert "local_rank: 1" in result.stderr  # the launcher names the process, so there were two
