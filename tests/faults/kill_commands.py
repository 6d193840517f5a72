"""The commands of the campaign of kills, small: on the model of one family that ships."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdrpn_glyphs import backbone_dir, rpn_dir
from tests.faults.kills import Command, Ended

FAMILY = "llava"
DATA = "glyphs/small"
#: Fields of results that tell of the run and not of what it computed.
_OF_THE_RUN = ("seconds", "per_second", "stages", "peak_memory")


def commands(folder: Path, run: Callable[[list[str]], Ended]) -> dict[str, Command]:
    """``label``, ``train``, ``bench`` and ``heads``.

    Args:
        folder: for what they share: the labels that ``train`` reads.
        run: runs a command.
    """
    model, rpn = str(backbone_dir(FAMILY)), str(rpn_dir(FAMILY))
    folder.mkdir()
    labels = folder / "labels"

    def label(out: Path) -> list[str]:
        sizes = ("--n", "24", "--batch-size", "4", "--shard-size", "4", "--max-new-tokens", "4")
        return ["label", DATA, "--model", model, "--out", str(out), *sizes]

    def train(out: Path) -> list[str]:
        sizes = ("--steps", "6", "--batch-size", "4", "--global-batch-size", "8")
        every = ("--setting", "checkpoint_every=2", "--setting", "log_every=1")
        return ["train", str(labels), "--model", model, "--out", str(out), *sizes, *every]

    def bench(out: Path) -> list[str]:
        methods = ("--methods", "baseline,sdrpn", "--n", "12", "--batch-size", "2")
        models = ("--models", f"{model}={rpn}", "--max-new-tokens", "4")
        return ["bench", *models, "--data", DATA, "--out", str(out), *methods]

    def heads(out: Path) -> list[str]:
        out.mkdir(parents=True, exist_ok=True)
        sizes = ("--n", "16", "--batch-size", "4", "--max-new-tokens", "4")
        return ["heads", DATA, "--model", model, "--out", str(out / "recipe.json"), *sizes]

    made = run(label(labels))
    if made.code != 0:
        raise SystemExit(f"label fails undisturbed: {made.errors}")
    return {
        "label": Command(label, _files),
        "train": Command(train, _training),
        "bench": Command(bench, _items),
        "heads": Command(heads, lambda out: {"recipe": (out / "recipe.json").read_bytes()}),
    }


def _files(out: Path) -> dict[str, object]:
    return {p.name: p.read_bytes() for p in sorted(out.iterdir()) if not p.name.startswith(".")}


def _training(out: Path) -> dict[str, object]:
    """Weights bit for bit, and the log without what a clock says; no step twice."""
    lines = (out / "train_log.jsonl").read_text().splitlines()
    log = [_timeless(json.loads(line)) for line in lines]
    return {"weights": (out / "rpn" / "model.safetensors").read_bytes(), "log": log}


def _items(out: Path) -> dict[str, object]:
    rows = [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]
    return {"items": [_timeless(row) for row in rows]}


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if not _is_of_the_run(k)}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def _is_of_the_run(key: str) -> bool:
    return any(word in key for word in _OF_THE_RUN)
