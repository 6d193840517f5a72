"""``sdrpn label`` and ``sdrpn train``: options, output, one-line errors, a kill in the middle."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from sdrpn_core.cli.main import app
from tests.stage_data import RECIPE, files, records
from tests.tiny import write_tiny_llava

SIZES = ("--batch-size", "2", "--shard-size", "2", "--max-new-tokens", "3")
SHAPE = ("--branch", "2", "--layers", "2", "--head-option", "rope=false")
FAST = ("--steps", "1", "--global-batch-size", "12", "--batch-size", "4", "--lr", "1e-3")
DEADLINE = 120  # seconds; a loaded machine takes many to import torch


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(write_tiny_llava(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder with ``records.jsonl``, its images, and ``recipe.json``."""
    folder = tmp_path_factory.mktemp("data")
    lines = []
    for record in records(12):
        record.images[0].save(folder / f"{record.id}.png")
        lines.append(
            {
                "id": record.id,
                "image": f"{record.id}.png",
                "question": record.question,
                "response": record.response,
            }
        )
    lines[1]["image"] = "missing.png"
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "recipe.json").write_text(RECIPE.to_json())
    return folder


@pytest.fixture(scope="module")
def labels(model, data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("labels")
    assert sdrpn(*label_words(model, data, out)).exit_code == 0
    return out


def label_words(model: str, data: Path, out: Path) -> list[str]:
    records_file = str(data / "records.jsonl")
    recipe = str(data / "recipe.json")
    return ["label", records_file, "--model", model, "--out", str(out), "--recipe", recipe, *SIZES]


def sdrpn(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_label_prints_counts_and_what_was_skipped(model, data, labels):
    result = sdrpn(*label_words(model, data, labels), "--json")
    summary = json.loads(result.stdout)
    assert summary["counts"]["ok"] == 11
    assert summary["counts"]["unreadable"] == 1
    (skipped,) = summary["skipped"]
    assert (skipped["id"], skipped["status"]) == ("r1", "unreadable")
    assert "missing.png" in skipped["reason"]
    text = sdrpn(*label_words(model, data, labels)).stdout
    assert "11 ok, 1 unreadable" in text
    assert "skipped r1" in text


BAD_LINES = (
    b'{"image": "r0.png", "question": "what \\ud800?"}\n'
    b'{"image": "r0\\udcd5.png", "question": "what?"}\n'
    b'{"question": "what?"}\n'
    b'[1]\n'
    b'{"image": "r0.png", "question": "\xff"}\n'
    b'{"image": "r0.png", "question": "what?", "boxes": "all"}\n'
)  # fmt: skip


@pytest.mark.parametrize("front", [False, True], ids=["behind", "in front"])
def test_label_skips_rows_that_cannot_be_used_wherever_they_stand(model, data, tmp_path, front):
    lines = (data / "records.jsonl").read_bytes().splitlines(keepends=True)[:1]
    lines.insert(0 if front else 1, BAD_LINES)
    (data / "mixed.jsonl").write_bytes(b"".join(lines))
    words = label_words(model, data, tmp_path / "out")
    words[1] = str(data / "mixed.jsonl")
    result = sdrpn(*words, "--json")
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    assert (summary["counts"]["ok"], summary["counts"]["invalid"]) == (1, 6)
    first = 1 if front else 2
    reasons = [skipped["reason"] for skipped in summary["skipped"]]
    assert sum(f"mixed.jsonl: line {first + i}: " in r for i, r in enumerate(reasons)) == 5
    assert "without an image" in reasons[2]


def test_label_that_labels_nothing_fails(model, data, tmp_path):
    words = label_words(model, data, tmp_path / "out")
    result = sdrpn(*words, "--max-pixels", "99", "--json")
    assert result.exit_code == 1
    assert "no record could be labeled: 12 skipped" in result.stderr.splitlines()[-1]
    summary = json.loads(result.stdout)
    assert summary["counts"]["unreadable"] == 12
    assert "is over the limit of 99 pixels" in summary["skipped"][0]["reason"]
    (data / "bad.jsonl").write_bytes(BAD_LINES.replace(b'{"question": "what?"}\n', b""))
    words[1] = str(data / "bad.jsonl")
    result = sdrpn(*words)
    assert result.exit_code == 1
    assert "none of 5 records can be used; the first: " in result.stderr.splitlines()[-1]


def test_label_resumes_after_a_kill_with_the_same_bytes(model, data, labels, tmp_path):
    words = [sys.executable, "-m", "sdrpn_core", *label_words(model, data, tmp_path)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + DEADLINE
    while not list(tmp_path.glob("labels-*.parquet")) and time.monotonic() < deadline:
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    finished = {path.name for path in tmp_path.glob("labels-*.parquet")}
    assert 1 <= len(finished) < 6
    times = {name: (tmp_path / name).stat().st_mtime_ns for name in finished}
    assert sdrpn(*label_words(model, data, tmp_path)).exit_code == 0
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in finished} == times
    assert files(tmp_path) == files(labels)


def test_train_writes_an_rpn_and_prints_where(model, labels, tmp_path):
    out = str(tmp_path / "run")
    words = ("train", str(labels), "--model", model, "--out", out, *SHAPE, *FAST)
    result = json.loads(sdrpn(*words, "--setting", "max_grad_norm=0.5", "--json").stdout)
    assert (result["steps"], result["samples"], result["skipped"]) == (1, 11, 0)
    folder = Path(result["rpn"])
    config = json.loads((folder / "config.json").read_text())
    assert (config["branch"], config["head_options"]["rope"]) == (2, False)
    assert json.loads((folder / "training.json").read_text())["settings"]["max_grad_norm"] == 0.5
    refused = sdrpn(*words)
    assert refused.exit_code == 1
    assert "max_grad_norm is 0.5 there and 1.0 here" in refused.stderr
    again = json.loads(sdrpn(*words, "--overwrite", "--json").stdout)
    assert (again["steps"], again["resumed_from"], again["samples"]) == (1, 0, 11)
    assert json.loads((folder / "training.json").read_text())["settings"]["max_grad_norm"] == 1.0


def test_train_labels_on_the_way(model, data, labels, tmp_path):
    lazy = ("train", str(data / "records.jsonl"), "--lazy", "--recipe", str(data / "recipe.json"))
    common = ("--model", model, *SHAPE, *FAST, "--steps", "3")
    assert sdrpn(*lazy, *common, "--out", str(tmp_path / "lazy")).exit_code == 0
    text = sdrpn(*lazy, *common, "--out", str(tmp_path / "lazy"), "--resume").stdout
    assert "3 steps" in text
    assert load_file(tmp_path / "lazy" / "rpn" / "model.safetensors")


def test_train_does_without_the_layers_that_it_does_not_need(model, labels, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    kept = {name: t for name, t in tensors.items() if not re.search(r"layers\.[45]\.", name)}
    assert len(kept) < len(tensors)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    words = ("train", str(labels), "--model", str(folder), *SHAPE, *FAST)
    result = sdrpn(*words, "--out", str(tmp_path / "run"))
    assert result.exit_code == 0, result.stderr
    whole = sdrpn(*words, "--out", str(tmp_path / "deeper"), "--layers", "3")
    assert "the checkpoint lacks" in whole.stderr


def test_train_stores_features_and_says_what_it_took(model, labels, tmp_path):
    words = ("train", str(labels), "--model", model, *SHAPE, *FAST, "--epochs", "2")
    cache = ("--feature-cache", str(tmp_path / "cache"), "--feature-cache-dtype", "bfloat16")
    first = sdrpn(*words, "--out", str(tmp_path / "a"), *cache, "--json")
    assert re.search(r"bfloat16 features of 11 samples, about [\d.]+ kB", first.stderr)
    assert json.loads(first.stdout)["peak_memory_bytes"] > 2**20
    second = sdrpn(*words, "--out", str(tmp_path / "b"), *cache)
    assert "complete (" in second.stderr
    assert re.search(r"peak memory [\d.]+ [MG]B", second.stdout)


def test_train_starts_over_when_asked(model, labels, tmp_path):
    words = ("train", str(labels), "-m", model, *SHAPE, *FAST, "--out", str(tmp_path), "--json")
    assert sdrpn(*words).exit_code == 0
    assert json.loads(sdrpn(*words).stdout)["resumed_from"] == 1
    assert "holds another training run" in sdrpn(*words, "--seed", "7").stderr
    again = sdrpn(*words, "--seed", "7", "--overwrite")
    assert json.loads(again.stdout)["resumed_from"] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--setting", "wrong=1"), "training settings: unknown field 'wrong'"),
        (("--setting", "wrong"), "write KEY=VALUE"),
        (("--head", "q"), "unknown RPN head 'q': did you mean 'qk'"),
        (("--head-option", "ropes=1"), "no option ropes"),
        (("--loss", "l1"), "unknown loss 'l1'"),
        (("--layers", "9"), "needs decoder layers up to 10"),
        (("--recipe", "no.json"), "cannot read the label recipe no.json"),
        (("--resume",), "holds no training run to resume"),
        (("--resume", "--overwrite"), "choose one of them"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_is_wrong_with_a_training_run_is_one_line(model, labels, tmp_path, words, message):
    out = str(tmp_path / "run")
    result = sdrpn("train", str(labels), "-m", model, "-o", out, *SHAPE, *FAST, *words)
    assert result.exit_code == 1
    assert message in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert message in line


def test_a_model_without_preset_needs_branch_and_layers(model, labels, tmp_path):
    result = sdrpn("train", str(labels), "-m", model, "-o", str(tmp_path / "run"))
    assert result.exit_code == 1
    assert "no preset matches" in result.stderr


@pytest.mark.parametrize("command", ["label", "train"])
def test_help_names_every_option_without_loading_torch(command):
    code = (
        f"import sys\nfrom sdrpn_core.cli.main import main\n"
        f"try: main(['{command}', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch is loaded' if 'torch' in sys.modules else 0)\n"
    )
    wide = {**os.environ, "COLUMNS": "200"}  # a narrow terminal cuts the names short
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=wide)
    assert result.returncode == 0, result.stderr
    assert "--attn-implementation" in result.stdout
