"""What a training step costs: the whole model, sdrpn's part of it, and sdrpn with a feature cache.

    python benchmarks/train_cost.py [--quick]

One optimizer step of the RPN (features, forward, backward, update) on a LLaVA-shaped model with
random weights in float32, saved to a temporary folder in several files:

- whole model: all layers are loaded and run, the RPN reads its features on the way;
- sdrpn: the layers below B + R are loaded, the pass ends at layer B;
- sdrpn, cached: as sdrpn, features read from disk.

Step times are medians, the cases taken in turns. Peak memory is that of a process of its own, less
what it had after its imports: loading, the RPN with its optimizer, and two steps. One JSON line per
case; ratios are to the whole model. Full size takes a few minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from random_llava import PATCH, write_random_llava

from sdrpn_core import RPN, Backbone, FeatureTap, RPNConfig, TrainingSettings, load_backbone
from sdrpn_core.batching import Block
from sdrpn_core.feature_tap import Features
from sdrpn_core.peak_memory import peak_memory
from sdrpn_core.train_stage import layers_to_load
from sdrpn_core.training.batches import Batcher, StoredLabelBatcher
from sdrpn_core.training.cache_shards import CachedSamples, write_shard
from sdrpn_core.training.cached_batches import CachedFeatureBatcher, to_cached
from sdrpn_core.training.optim import make_optimizer
from sdrpn_core.training.samples import Item, Sample
from sdrpn_core.training.step import TrainingStep
from sdrpn_core.training.truncate import truncate

BENCHMARK = "train_cost"
WHOLE, PART, CACHED = CASES = ("whole model", "sdrpn", "sdrpn, cached")
QUESTION = "what is written on the small sign to the left of the door ?"
MEMORY_STEPS = 2
CPU = torch.device("cpu")

Step = Callable[[], object]


@dataclass(frozen=True)
class Size:
    """How large everything is; B and R take the shares of L that they have in the 7B model."""

    n_layers: int = 16
    width: int = 512
    grid: int = 24
    branch: int = 7
    rpn_layers: int = 2
    batch: int = 2
    rounds: int = 9

    @property
    def config(self) -> RPNConfig:
        """Of the RPN."""
        return RPNConfig(branch=self.branch, n_layers=self.rpn_layers, head_options={"rope": False})


FULL = Size()
QUICK = Size(n_layers=8, width=64, grid=6, branch=3, rpn_layers=1, rounds=2)


class WholeModelBatcher(StoredLabelBatcher):
    """Runs all layers for features that are known after the first B."""

    def branch_features(self, block: Block) -> Features:
        """What reaches the branch layer; the pass goes on behind it."""
        with FeatureTap(self.backbone.decoder, self.branch, stop=False) as tap:
            return tap.run(
                inputs_embeds=block.embeds,
                attention_mask=block.mask,
                position_ids=block.positions,
                use_cache=False,
            )


def load(folder: Path, case: str, size: Size) -> Backbone:
    """The backbone as a case loads it."""
    n_layers = None if case == WHOLE else layers_to_load(size.config)
    return load_backbone(folder, device="cpu", n_layers=n_layers)


def samples(size: Size) -> list[Sample]:
    """Pictures of noise with labels of noise."""
    draw = np.random.default_rng(0)
    side = PATCH * size.grid
    return [
        Sample(
            str(index),
            QUESTION,
            Image.fromarray(draw.integers(0, 256, (side, side, 3), dtype=np.uint8)),
            draw.integers(0, 2, (size.grid, size.grid)),
        )
        for index in range(size.batch)
    ]


def fill_cache(folder: Path, backbone: Backbone, size: Size) -> None:
    """Write the features of the samples, as a training run would."""
    chosen = samples(size)
    batch = StoredLabelBatcher(backbone, size.branch)(chosen)
    write_shard(folder, 0, BENCHMARK, list(to_cached(batch, chosen, backbone.model.dtype)))


def make_step(backbone: Backbone, case: str, size: Size, cache: Path) -> Step:
    """One training step of a case."""
    batchers: dict[str, Callable[[Backbone, int], Batcher]] = {
        WHOLE: WholeModelBatcher,
        PART: StoredLabelBatcher,
        CACHED: CachedFeatureBatcher,
    }
    torch.manual_seed(0)
    rpn = RPN.from_backbone(backbone, size.config).train()
    if case != WHOLE:
        truncate(backbone, size.branch)  # as `sdrpn train` does
    step = TrainingStep(
        Accelerator(cpu=True),
        rpn,
        batchers[case](backbone, size.branch),
        make_optimizer(rpn, TrainingSettings()),
        max_grad_norm=1.0,
    )
    stored = CachedSamples(cache, BENCHMARK, size.batch)
    given = samples(size)

    def run() -> object:
        items: list[Item] = [stored[index] for index in range(size.batch)]
        return step([items if case == CACHED else list(given)], case)

    return run


def measure_memory(folder: Path, case: str, size: Size) -> int:
    """Bytes at the peak; for a process that has measured nothing else."""
    before = peak_memory(CPU) or 0
    step = make_step(load(folder, case, size), case, size, folder)
    for _ in range(MEMORY_STEPS):
        step()
    return (peak_memory(CPU) or 0) - before


def measure_times(folder: Path, size: Size) -> dict[str, float]:
    """Median seconds per step, by case."""
    steps = {case: make_step(load(folder, case, size), case, size, folder) for case in CASES}
    times: dict[str, list[float]] = {case: [] for case in CASES}
    for step in steps.values():
        step()  # the first one allocates
    for _ in range(size.rounds):
        for case, step in steps.items():
            start = time.perf_counter()
            step()
            times[case].append(time.perf_counter() - start)
    return {case: statistics.median(values) for case, values in times.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--memory", nargs=2, metavar=("FOLDER", "CASE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else FULL
    if arguments.memory:
        folder, case = arguments.memory
        print(measure_memory(Path(folder), case, size))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_random_llava(folder, n_layers=size.n_layers, width=size.width, grid=size.grid)
        fill_cache(folder, load(folder, PART, size), size)
        memory = {}
        for case in CASES:
            words = [sys.executable, __file__, "--memory", str(folder), case]
            words += ["--quick"] if arguments.quick else []
            memory[case] = int(subprocess.check_output(words, text=True))
        times = measure_times(folder, size)
    for case in CASES:
        row = {
            "benchmark": BENCHMARK,
            "case": case,
            "step_seconds": round(times[case], 4),
            "ratio": round(times[case] / times[WHOLE], 3),
            "peak_memory_bytes": memory[case],
            "memory_ratio": round(memory[case] / memory[WHOLE], 3),
            "layers": size.n_layers,
            "branch": size.branch,
            "rpn_layers": size.rpn_layers,
            "visual_tokens": size.grid**2,
            "batch": size.batch,
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
