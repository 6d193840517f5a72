"""What a training step costs: the whole model, sdrpn's part of it, and sdrpn with a feature cache.

    python benchmarks/train_cost.py [--quick]

One optimizer step of the RPN (features, forward, backward, update) on a LLaVA-shaped model with
random weights in float32, saved to a temporary folder in several files:

- whole model: all layers are loaded and run, the RPN reads its features on the way;
- sdrpn: the layers below B + R are loaded, the pass ends at layer B;
- sdrpn, cached: as sdrpn, features read from disk.

Ratios are to the whole model, medians of rounds that take the cases in turns. Peak memory is that
of a process of its own, less what it had after its imports: loading, the RPN with its optimizer,
and two steps. One JSON line per case; full size takes a few minutes on two cores.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from random_llava import PATCH, write_random_llava
from side_by_side import (
    Times,
    in_fork,
    in_turns,
    noise_images,
    peak_memory_of,
    print_row,
)

from sdrpn_core import RPN, Backbone, FeatureTap, RPNConfig, TrainingSettings, load_backbone
from sdrpn_core.backbone.preprocessing import Preprocessor
from sdrpn_core.runtime.block import Block
from sdrpn_core.taps.feature_tap import Features
from sdrpn_core.training.batches import Batcher, StoredLabelBatcher
from sdrpn_core.training.cache_shards import CachedSamples, write_shard
from sdrpn_core.training.cached_batches import CachedFeatureBatcher, to_cached
from sdrpn_core.training.free_layers import truncate
from sdrpn_core.training.label_objective import LabelObjective
from sdrpn_core.training.loading import layers_to_load
from sdrpn_core.training.optim import make_optimizer
from sdrpn_core.training.samples import Item, TrainingSample
from sdrpn_core.training.step import TrainingStep

BENCHMARK = "train_cost"
WHOLE, PART, CACHED = CASES = ("whole model", "sdrpn", "sdrpn, cached")
QUESTION = "what is written on the small sign to the left of the door ?"
MEMORY_STEPS = 2

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


def samples(size: Size, backbone: Backbone) -> list[TrainingSample]:
    """Images of noise with labels of noise, as a worker prepares them."""
    preprocess = Preprocessor(backbone)
    draw = np.random.default_rng(0)
    side = PATCH * size.grid
    return [
        TrainingSample(
            str(index), QUESTION, preprocess(image), draw.integers(0, 2, (size.grid, size.grid))
        )
        for index, image in enumerate(noise_images(size.batch, (side, side)))
    ]


def write_inputs(folder: Path, size: Size) -> None:
    """Save the model, and the features of the samples as a training run would."""
    write_random_llava(folder, n_layers=size.n_layers, width=size.width, grid=size.grid)
    backbone = load(folder, PART, size)
    chosen = samples(size, backbone)
    batch = StoredLabelBatcher(backbone, size.branch)(chosen)
    write_shard(folder, 0, BENCHMARK, list(to_cached(batch, chosen, backbone.model.dtype)))


def make_step(folder: Path, case: str, size: Size) -> Step:
    """One training step of a case, its model loaded."""
    batchers: dict[str, Callable[[Backbone, int], Batcher]] = {
        WHOLE: WholeModelBatcher,
        PART: StoredLabelBatcher,
        CACHED: CachedFeatureBatcher,
    }
    backbone = load(folder, case, size)
    torch.manual_seed(0)
    rpn = RPN.from_backbone(backbone, size.config).train()
    if case != WHOLE:
        truncate(backbone, size.branch)  # as `sdrpn train` does
    step = TrainingStep(
        Accelerator(cpu=True),
        rpn,
        LabelObjective(size.config),
        batchers[case](backbone, size.branch),
        make_optimizer(rpn, TrainingSettings()),
        max_grad_norm=1.0,
    )
    stored = CachedSamples(folder, BENCHMARK, size.batch)
    given = samples(size, backbone)

    def run() -> object:
        items: list[Item] = [stored[index] for index in range(size.batch)]
        return step([items if case == CACHED else list(given)], case)

    return run


def measure_memory(folder: Path, case: str, size: Size) -> int:
    """Bytes at the peak of loading and the first steps."""

    def load_and_train() -> None:
        step = make_step(folder, case, size)
        for _ in range(MEMORY_STEPS):
            step()

    return peak_memory_of(lambda: load_and_train).peak


def measure_times(folder: Path, size: Size) -> Times:
    """Seconds per step, by case."""
    return in_turns({case: make_step(folder, case, size) for case in CASES}, size.rounds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    size = QUICK if parser.parse_args().quick else FULL
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        in_fork(lambda: write_inputs(folder, size))
        memory = {case: measure_memory(folder, case, size) for case in CASES}
        times = measure_times(folder, size)
    for case in CASES:
        print_row(
            BENCHMARK,
            case=case,
            step_seconds=times.median(case),
            ratio=times.ratio(case, WHOLE),
            peak_memory_bytes=memory[case],
            memory_ratio=memory[case] / memory[WHOLE],
            layers=size.n_layers,
            branch=size.branch,
            rpn_layers=size.rpn_layers,
            visual_tokens=size.grid**2,
            batch=size.batch,
        )


if __name__ == "__main__":
    main()
