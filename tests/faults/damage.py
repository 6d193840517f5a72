"""Files that rot: flipped bits, cut ends and zeroed blocks in what the stages write.

``python -m tests.faults.damage --damages 1000`` prints its figures as JSON. Reading a damaged
folder either gives what was written, or one line that names the file: nothing silently else.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import torch

from sdrpn_core import (
    RPN,
    LabelDataset,
    TrainingSettings,
    label,
    load_backbone,
    read_records,
    train,
)
from sdrpn_core.errors import SdrpnError
from sdrpn_core.training.cache_shards import CachedSamples
from sdrpn_core.training.checkpoints import Checkpoints
from sdrpn_core.training.optim import make_optimizer
from sdrpn_glyphs import backbone_dir, rpn_dir

FAMILY = "llava"
DATA = "glyphs/small"
N_RECORDS = 12
MAX_BLOCK = 512
#: Hidden files tell who was there; they are no part of a result.
KINDS = ("flip", "cut", "zero")


@dataclass
class Figures:
    """What a battery has seen, by kind of folder and of damage."""

    damages: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    unharmed: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    raw_errors: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was silently wrong, and no error was anything but a line."""
        return not (self.wrong or self.raw_errors)


def damage(path: Path, kind: str, draw: random.Random) -> str:
    """Damage a file in place; returns what was done."""
    data = bytearray(path.read_bytes())
    place = draw.randrange(len(data))
    if kind == "flip":
        data[place] ^= 1 << draw.randrange(8)
    elif kind == "cut":
        del data[place:]
    else:
        stop = min(len(data), place + draw.randint(1, MAX_BLOCK))
        data[place:stop] = bytes(stop - place)
    path.write_bytes(data)
    return f"{kind} at {place} of {path.name}"


def battery(n: int, seed: int, folder: Path) -> Figures:
    """Damage copies of what the stages wrote, ``n`` times, and read each.

    Args:
        n: how many damages.
        seed: of the damages.
        folder: for everything that is written.
    """
    draw = random.Random(seed)
    figures = Figures()
    readers = _make(folder)
    expected = {name: read(where) for name, (where, read) in readers.items()}
    names = list(readers)
    for number in range(n):
        name, kind = names[number % len(names)], draw.choice(KINDS)
        where, read = readers[name]
        copy = folder / "copy"
        shutil.copytree(where, copy)
        files = sorted(p for p in copy.rglob("*") if p.is_file() and not p.name.startswith("."))
        done = f"{name}: {damage(draw.choice(files), kind, draw)}"
        figures.damages[f"{name} {kind}"] += 1
        try:
            if read(copy) == expected[name]:
                figures.unharmed[name] += 1
            else:
                figures.wrong.append(done)
        except SdrpnError as error:
            figures.refused[name] += 1
            if "\n" in str(error):
                figures.raw_errors.append(f"{done}: several lines: {error}")
        except Exception as error:  # noqa: BLE001  # what the battery is about
            figures.raw_errors.append(f"{done}: {type(error).__name__}: {error}")
        shutil.rmtree(copy)
    return figures


def _make(folder: Path) -> dict[str, tuple[Path, Callable[[Path], object]]]:
    """Folders as the stages write them, and how each is read whole."""
    backbone = load_backbone(backbone_dir(FAMILY))
    records = read_records(DATA, n=N_RECORDS)
    recipe = backbone.preset.recipe()
    sizes = {"batch_size": 4, "shard_size": 4, "max_new_tokens": 4}
    label(backbone, records, folder / "labels", recipe=recipe, progress=False, **sizes)
    settings = TrainingSettings.for_backbone(
        backbone, max_steps=2, global_batch_size=4, micro_batch_size=4
    )
    run = train(
        backbone,
        folder / "labels",
        folder / "run",
        settings,
        feature_cache=folder / "cache",
        progress=False,
    )
    trained = RPN.from_backbone(backbone, run.rpn.config).float()

    def rpn(where: Path) -> object:
        return _tensors(RPN.from_pretrained(where, backbone=backbone).state_dict())

    def checkpoint(where: Path) -> object:
        optimizer = make_optimizer(trained, settings)
        Checkpoints(where, 1).load(2, trained, optimizer)
        state = optimizer.state_dict()["state"]
        return _tensors(trained.state_dict()), [_tensors(values) for values in state.values()]

    def features(where: Path) -> object:
        digest = _run_of_cache(folder / "cache")
        samples = CachedSamples(where, digest, N_RECORDS)
        return [
            tuple(_plain(getattr(samples[i], f.name)) for f in fields(samples[i]))
            for i in range(N_RECORDS)
        ]

    shutil.copytree(rpn_dir(FAMILY), folder / "old-rpn")
    RPN.from_pretrained(folder / "old-rpn", backbone=backbone).save_pretrained(folder / "rpn")
    return {
        "labels": (folder / "labels", _rows),
        "rpn": (folder / "rpn", rpn),
        "checkpoint": (folder / "run" / "checkpoints", checkpoint),
        "features": (folder / "cache", features),
    }


def _run_of_cache(folder: Path) -> str:
    from safetensors import safe_open

    with safe_open(folder / "features-000000.safetensors", framework="pt") as file:
        return str(json.loads(file.metadata()["sdrpn"])["run"])


def _rows(folder: Path) -> object:
    rows = LabelDataset(folder)
    return [tuple(_plain(getattr(row, f.name)) for f in fields(row)) for row in rows]


def _plain(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    return value.tobytes() if isinstance(value, np.ndarray) else value


def _tensors(values: dict[str, torch.Tensor]) -> dict[str, object]:
    return {name: _plain(value) for name, value in values.items()}


def main() -> int:
    """Run a battery and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--damages", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = battery(options.damages, options.seed, Path(folder))
    print(json.dumps({**vars(figures), "clean": figures.is_clean}, indent=2))
    return 0 if figures.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
