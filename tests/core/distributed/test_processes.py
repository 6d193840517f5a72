"""``accelerate launch`` on the CPU: the result of one process, and deaths that end the job."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from sdrpn_bench import BenchModel, calibrate_gate, run_benchmark
from sdrpn_core.backbone.loading import load_backbone
from sdrpn_core.data.read import read_records
from sdrpn_core.gate.config import GateConfig
from sdrpn_core.labeling.stage import label
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_core.training.gate_objective import GateObjective
from sdrpn_core.training.settings import TrainingSettings
from sdrpn_core.training.stage import train
from tests import deadly_data
from tests.judged_data import write_judged
from tests.stage_data import LINEAR, RECIPE, SAME_UP_TO_LAST_BITS, files, records
from tests.tiny import write_tiny_llava

ROOT = Path(__file__).resolve().parents[3]
LIMIT = 300  # seconds; a loaded machine takes many to import torch several times
SIZES = {"batch_size": 2, "shard_size": 3, "max_new_tokens": 3}
N = 7
#: 7 samples in batches of 3: the last batch of an epoch has one, so that some processes have none.
SETTINGS = TrainingSettings(
    **LINEAR,
    epochs=2,
    global_batch_size=3,
    micro_batch_size=2,
    log_every=1,
    checkpoint_every=1,
    keep_checkpoints=9,
)
CONFIG = RPNConfig(branch=2, n_layers=2, head_options={"rope": False})
#: What the RPN's region of a record is worth.
UTILITIES = [2.0, 0.0, -1.0, 0.3, 1.5, 0.0, 4.0]
ANSWERS = {"batch_size": 2, "max_new_tokens": 2}
STEPS = (
    *("--lr", "0.1", "--setting", "optimizer=sgd"),
    *("--epochs", "2", "--global-batch-size", "3", "--batch-size", "1"),
    *("--setting", "log_every=1", "--setting", "checkpoint_every=1"),
    *("--setting", "keep_checkpoints=9", "--json"),
)
TRAIN_WORDS = ("--branch", "2", "--layers", "2", "--head-option", "rope=false", *STEPS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    """A model, a recipe, records of which every second has a response; and what one process makes.

    ``one`` holds the labels, ``alone`` the training run, ``bench`` the benchmark, and ``gate`` an
    RPN whose gate was trained and calibrated.
    """
    folder = tmp_path_factory.mktemp("distributed")
    write_tiny_llava(folder / "model")
    lines = []
    for index, record in enumerate(records(N)):
        record.images[0].save(folder / f"{index}.png")
        line = {"image": f"{index}.png", "question": record.question, "answer": "red"}
        line["boxes"] = [[5, 5, 30, 30]]
        lines.append(line | ({"response": record.response} if index % 2 else {}))
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "recipe.json").write_text(RECIPE.to_json())
    backbone = load_backbone(folder / "model", device="cpu")
    label(backbone, read_records(folder / "data.jsonl"), folder / "one", recipe=RECIPE, **SIZES)
    trained = train(backbone, folder / "one", folder / "alone", SETTINGS, CONFIG)
    judged = write_judged(backbone, trained.rpn, folder / "judged", UTILITIES)
    objective = GateObjective(trained.folder, GateConfig("decoder", {"n_layers": 1}))
    train(backbone, judged, folder / "gate", SETTINGS, objective=objective)
    calibrate_gate(folder / "gate/rpn", folder / "data.jsonl", model=folder / "model", **ANSWERS)
    model = BenchModel(folder / "model", trained.folder, name="model")
    load = {"device": "cpu"}
    run_benchmark(
        model, None, folder / "data.jsonl", out=folder / "bench", load_options=load,
        **ANSWERS,
    )  # fmt: skip
    deadly_data.install(folder / "site")
    return folder


def command(n: int, *, config: str = "ddp_cpu", **options: str | int) -> list[str]:
    """``accelerate launch`` of ``n`` processes with a configuration that ships."""
    path = ROOT / "configs" / "accelerate" / f"{config}.yaml"
    given = {"config_file": path, "num_processes": n, "main_process_port": 0, **options}
    accelerate = str(Path(sys.executable).with_name("accelerate"))
    return [accelerate, "launch", *(f"--{name}={value}" for name, value in given.items())]


def start(folder: Path, words: list[str], **variables: str) -> subprocess.Popen[str]:
    paths = [str(ROOT), str(folder / "site"), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        deadly_data.FOLDER_VARIABLE: str(folder),
        **variables,
    }
    pipe = subprocess.PIPE
    return subprocess.Popen(words, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def run(folder: Path, words: list[str]) -> tuple[int, str, str]:
    """Exit code, standard output and error."""
    with start(folder, words) as process:
        try:
            out, errors = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
    return process.returncode, out, errors


def label_words(folder: Path, out: str, data: str = "") -> list[str]:
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in SIZES.items()]
    model = ["--model", str(folder / "model"), "--recipe", "recipe.json"]
    data = data or str(folder / "data.jsonl")
    return ["label", data, "--out", out, *model, *sizes, "--json"]


def rows(run: Path) -> dict[str, list[dict]]:
    """The rows of each shard; its bytes tell of the dataset's name as well."""
    return {path.name: pq.read_table(path).to_pylist() for path in run.glob("*.parquet")}


def same_weights(run: Path, other: Path) -> None:
    ours, theirs = (load_file(path / "rpn" / "model.safetensors") for path in (run, other))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], **SAME_UP_TO_LAST_BITS)


def log(run: Path) -> list[tuple[int, int, int]]:
    entries = map(json.loads, (run / "train_log.jsonl").read_text().splitlines())
    return [(e["step"], e["samples"], e["labeled_cells"]) for e in entries]


def items(run: Path) -> list[dict]:
    """Item results without what differs from run to run."""
    found = [json.loads(line) for line in (run / "items.jsonl").read_text().splitlines()]
    for row in found:
        for result in row["methods"].values():
            # An item's share of token-layers includes padding, so it depends on its batch.
            del result["seconds"], result["stages"], result["cost"]
    return found


@pytest.fixture
def deadly(folder, fresh_plugins, monkeypatch) -> None:
    """The dataset, in this process too."""
    monkeypatch.setenv(deadly_data.FOLDER_VARIABLE, str(folder))
    fresh_plugins.register(deadly_data, "deadly")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "config"), [(2, "ddp_cpu"), pytest.param(3, "fsdp", marks=pytest.mark.long)]
)
def test_several_processes_arrive_where_one_does(folder, n, config):
    out = folder / f"{n}-processes"
    commands = [
        label_words(folder, str(out / "labels")),
        ["train", str(out / "labels"), "--model", "model", "--out", str(out), *TRAIN_WORDS],
        [
            *("bench", "--models", f"model={folder / 'alone' / 'rpn'}", "--data", "data.jsonl"),
            *("--out", str(out / "bench"), "--batch-size", "2", "--max-new-tokens", "2"),
        ],
        [
            *("train", str(out / "labels"), "--model", "model", "--out", str(out / "cached")),
            *("--feature-cache", str(out / "features"), *TRAIN_WORDS),
        ],
        [
            *("train", "judged", "--objective", "gate", "--rpn", str(folder / "alone/rpn")),
            *("--gate-option", "n_layers=1", "--model", "model", "--out", str(out / "gate")),
            *STEPS,
        ],
        [
            *("calibrate", "--rpn", str(out / "gate/rpn"), "--data", "data.jsonl"),
            *("--model", "model", "--out", str(out / "calibration")),
            *("--batch-size", "2", "--max-new-tokens", "2"),
        ],
    ]
    words = ["-m", "tests.several_commands", json.dumps(commands)]
    code, printed, errors = run(folder, [*command(n, config=config), *words])
    assert code == 0, errors
    assert printed.count('"counts"') == printed.count("threshold is now") == 1
    assert printed.count('"resumed_from"') == 3
    assert printed.count("report: ") == 1
    bar = errors.count(f"{-(-N // n)}/{-(-N // n)}")
    assert bar == 2, "one process shows its share of the benchmark, and of the calibration"

    assert len(files(folder / "one")) == 7  # three shards, their checksums, the manifest
    assert files(out / "labels") == files(folder / "one")
    same_weights(out, folder / "alone")
    assert log(out) == log(folder / "alone")
    same_weights(out / "cached", folder / "alone")
    same_weights(out / "gate", folder / "gate")
    own, others = (
        json.loads((path / "gate/rpn/config.json").read_text())["gate"] for path in (out, folder)
    )
    assert own["threshold"] == pytest.approx(others["threshold"], abs=1e-5)
    assert own["calibration"] == others["calibration"]
    assert items(out / "bench") == items(folder / "bench")
    assert not list((out / "bench").glob("items-*.jsonl")), "merged"
    ours, theirs = (
        json.loads((path / "bench" / "results.json").read_text()) for path in (out, folder)
    )
    assert ours["processes"] == n
    scores = [
        {
            name: [
                m[key] for key in ("accuracy", "interval", "outcomes", "pointing", "visual_tokens")
            ]
            for name, m in results["methods"].items()
        }
        for results in (ours, theirs)
    ]
    assert scores[0] == scores[1]
    assert len(scores[0]) == 5


@pytest.mark.long
def test_a_process_that_fails_ends_the_job_and_names_itself(folder):
    # Shard 1 belongs to the second process; a folder of that name cannot be replaced by a file.
    out = folder / "broken"
    (out / "labels-00001.parquet").mkdir(parents=True)
    (out / "manifest.json").write_bytes((folder / "one/manifest.json").read_bytes())
    words = ["-m", "sdrpn_core", *label_words(folder, str(out))]
    code, _, errors = run(folder, [*command(2), *words])
    assert code != 0
    assert f"error on rank 1 of 2: cannot write {out / 'labels-00001.parquet'}" in errors
    assert "local_rank: 1" in errors

    (out / "labels-00001.parquet").rmdir()
    backbone = load_backbone(folder / "model", device="cpu")
    label(backbone, read_records(folder / "data.jsonl"), out, recipe=RECIPE, **SIZES)
    assert files(out) == files(folder / "one")


@pytest.mark.long
def test_labeling_survives_a_killed_process(folder, deadly):
    (folder / "armed").write_text(str(folder))
    words = ["-m", "sdrpn_core", *label_words(folder, "killed", deadly_data.NAME)]
    code, _, errors = run(folder, [*command(2), *words])
    assert code != 0
    assert "local_rank: 1" in errors
    assert "Signal 9 (SIGKILL)" in errors
    assert not (folder / "killed" / "labels-00001.parquet").exists()

    backbone = load_backbone(folder / "model", device="cpu")
    source = read_records(deadly_data.NAME)
    summary = label(backbone, source, folder / "killed", recipe=RECIPE, **SIZES)
    assert summary.missing_shards == 0
    assert rows(folder / "killed") == rows(folder / "one")


@pytest.mark.long
def test_the_launcher_restarts_what_was_killed(folder):
    """It may keep the addresses of the dead; their successors must not wait for those."""
    (folder / "armed").write_text(str(folder))
    words = ["-m", "sdrpn_core", *label_words(folder, "restarted", deadly_data.NAME)]
    code, printed, errors = run(folder, [*command(2, max_restarts=1), *words])
    assert code == 0, errors
    assert "exitcode: -9) local_rank: 1" in errors
    assert not (folder / "armed").exists()
    assert json.loads(printed)["counts"]["ok"] == N
    assert rows(folder / "restarted") == rows(folder / "one")


@pytest.mark.long
def test_training_survives_a_killed_process(folder, deadly):
    out = folder / "killed-training"
    saved = out / "checkpoints" / "step-00000002"
    (folder / "armed").write_text(str(saved))
    words = ["train", deadly_data.NAME, "--lazy", "--recipe", "recipe.json", "--model", "model"]
    code, _, errors = run(
        folder, [*command(2), "-m", "sdrpn_core", *words, "--out", str(out), *TRAIN_WORDS]
    )
    assert code != 0
    assert "Signal 9 (SIGKILL)" in errors
    assert re.search(r"rank\s*: [01] \(local_rank: [01]\)\n\s*exitcode\s*: -9", errors)
    assert not (out / "rpn").exists()

    backbone = load_backbone(folder / "model", device="cpu")
    options = {"recipe": RECIPE, "settings": SETTINGS, "config": CONFIG}
    resumed = train(backbone, read_records(deadly_data.NAME), out, **options)
    assert 2 <= resumed.resumed_from < resumed.steps == 6
    whole = folder / "whole-training"
    train(backbone, read_records(deadly_data.NAME), whole, **options)
    same_weights(out, whole)
    assert log(out) == log(whole)


@pytest.mark.long
def test_a_machine_that_is_lost_is_missed(folder, deadly):
    """Two launchers as on two machines; one dies with its process, so that nobody reports it."""
    (folder / "armed-with-parent").write_text(str(folder))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    machines = {"config": "ddp_multi_node", "main_process_ip": "127.0.0.1"}
    words = ["-m", "sdrpn_core", *label_words(folder, "lost", deadly_data.NAME)]
    launchers = [
        start(
            folder,
            [*command(2, **machines, main_process_port=port, machine_rank=rank), *words],
            SDRPN_PROCESS_TIMEOUT="20",
        )
        for rank in (0, 1)
    ]
    try:
        launchers[1].communicate(timeout=LIMIT)
        died = time.monotonic()
        _, errors = launchers[0].communicate(timeout=LIMIT)
    finally:
        for launcher in launchers:
            launcher.kill()
    assert launchers[0].returncode != 0
    assert "error on rank 0 of 2: rank 1 of 2 sent no heartbeat for 20 s" in errors
    assert time.monotonic() - died < 60
    assert "labels-00000.parquet" in files(folder / "lost")
    assert "labels-00001.parquet" not in files(folder / "lost")
