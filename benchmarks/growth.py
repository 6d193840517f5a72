"""How cost grows with visual tokens, question length, questions per image, and batch size.

    python benchmarks/growth.py [--quick] [--out FOLDER]

A Qwen2.5-VL-shaped model with random weights in float32 answers plainly (baseline) and in two
stages: the RPN runs, and the middle of every image is cropped, a quarter of its visual tokens.
All answers have one length. One thing grows at a time, the others stay at their base values.

Seconds are medians, everything that is compared taken in turns, images and encoder included. The
exponent is the slope of the least-squares line through (log size, log seconds) over all sizes of a
series: 1 means that cost doubles with size. Costs that do not grow pull it down.
One JSON line per size, and with ``--out`` a plot, growth.png. Full size takes about four minutes on
two cores.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import isqrt
from pathlib import Path

import numpy as np
from fixed_crop import FixedCrop
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from random_qwen2_5_vl import CELL, write_random_qwen2_5_vl
from side_by_side import Times, in_turns, noise_images, print_row, question_of

from sdrpn_core import RPN, Backbone, Question, answer_batch, load_backbone

BENCHMARK = "growth"
BASELINE, TWO_STAGE = CASES = ("baseline", "two-stage")


@dataclass(frozen=True)
class Load:
    """What one call of ``answer_batch`` is asked.

    Attributes:
        visual_tokens: per image, a square number.
        question: tokens per question.
        per_image: questions about each image.
        images: in the batch.
    """

    visual_tokens: int = 576
    question: int = 16
    per_image: int = 1
    images: int = 1

    def questions(self) -> list[Question]:
        """With one image object for all questions about it; no two questions are alike."""
        side = CELL * isqrt(self.visual_tokens)
        return [
            Question.about(image, question_of(self.question - 1) + " ?!.,;:-+"[index % 9])
            for image in noise_images(self.images, (side, side))
            for index in range(self.per_image)
        ]


@dataclass(frozen=True)
class Series:
    """Loads of growing size.

    Attributes:
        grows: what does, in words.
        loads: by size, ascending.
    """

    grows: str
    loads: dict[int, Load]


@dataclass(frozen=True)
class Size:
    """How large the model is, and what grows how far."""

    n_layers: int
    width: int
    branch: int
    rpn_layers: int
    new_tokens: int
    rounds: int
    visual_tokens: Sequence[int]
    question: Sequence[int]
    per_image: Sequence[int]
    images: Sequence[int]
    base_tokens: int

    def series(self) -> list[Series]:
        """What is measured."""
        base = self.base_tokens
        return [
            Series("visual tokens", {n: Load(n) for n in self.visual_tokens}),
            Series("question tokens", {n: Load(base, question=n) for n in self.question}),
            Series("questions per image", {n: Load(base, per_image=n) for n in self.per_image}),
            Series("images per batch", {n: Load(base, images=n) for n in self.images}),
        ]


FULL = Size(
    n_layers=8,
    width=256,
    branch=4,
    rpn_layers=1,
    new_tokens=8,
    rounds=3,
    visual_tokens=(144, 256, 576, 1024, 2304, 4096),
    question=(16, 64, 256, 1024),
    per_image=(1, 2, 4, 8),
    images=(1, 2, 4, 8),
    base_tokens=576,
)
QUICK = Size(
    n_layers=3,
    width=256,
    branch=1,
    rpn_layers=1,
    new_tokens=2,
    rounds=1,
    visual_tokens=(16, 64),
    question=(8, 32),
    per_image=(1, 2),
    images=(1, 2),
    base_tokens=16,
)


@dataclass(frozen=True)
class Measured:
    """A series with its costs.

    Attributes:
        series: what was measured.
        times: of the cases ``name(case, size)``.
        crop_tokens: by size, visual tokens that the second pass adds in all.
    """

    series: Series
    times: Times
    crop_tokens: dict[int, int]

    def seconds(self, case: str) -> list[float]:
        """Medians, by size."""
        return [self.times.median(name(case, size)) for size in self.series.loads]

    def line(self, case: str) -> tuple[float, float]:
        """Exponent, and the logarithm of the seconds at size 1."""
        slope, start = np.polyfit(np.log(list(self.series.loads)), np.log(self.seconds(case)), 1)
        return float(slope), float(start)


def name(case: str, size: int) -> str:
    """Of one measurement in a series."""
    return f"{case} {size}"


def measure(backbone: Backbone, rpn: RPN, series: Series, size: Size) -> Measured:
    """Answer every load of a series, plainly and in two stages."""
    proposers = {BASELINE: None, TWO_STAGE: FixedCrop(rpn)}
    cases: dict[str, Callable[[], object]] = {}
    crop_tokens = {}
    for n, load in series.loads.items():
        questions = load.questions()
        for case in CASES:
            cases[name(case, n)] = partial(
                answer_batch,
                backbone,
                questions,
                proposers[case],
                max_new_tokens=size.new_tokens,
                min_new_tokens=size.new_tokens,
            )
        crop_tokens[n] = len(questions) * load.visual_tokens // 4
    return Measured(series, in_turns(cases, size.rounds), crop_tokens)


def report(measured: Measured) -> None:
    """One line per size."""
    seconds = {case: measured.seconds(case) for case in CASES}
    for index, size in enumerate(measured.series.loads):
        print_row(
            BENCHMARK,
            grows=measured.series.grows,
            size=size,
            baseline_seconds=seconds[BASELINE][index],
            two_stage_seconds=seconds[TWO_STAGE][index],
            ratio=measured.times.ratio(name(TWO_STAGE, size), name(BASELINE, size)),
            crop_tokens=measured.crop_tokens[size],
            baseline_exponent=measured.line(BASELINE)[0],
            two_stage_exponent=measured.line(TWO_STAGE)[0],
        )


def draw(results: Sequence[Measured], path: Path) -> None:
    """A panel per series, both axes logarithmic."""
    figure = Figure(figsize=(10, 8), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, measured in zip(figure.subplots(2, 2).flat, results, strict=True):
        sizes = np.array(list(measured.series.loads))
        for case, color in zip(CASES, ("tab:blue", "tab:orange"), strict=True):
            slope, start = measured.line(case)
            axes.loglog(sizes, measured.seconds(case), "o", color=color)
            axes.loglog(
                sizes,
                np.exp(start) * sizes**slope,
                "--",
                color=color,
                label=f"{case}, exponent {slope:.2f}",
            )
        axes.set_xlabel(measured.series.grows)
        axes.set_ylabel("seconds per call")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--out", type=Path, help="folder for the plot")
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        write_random_qwen2_5_vl(Path(folder), n_layers=size.n_layers, width=size.width)
        backbone = load_backbone(folder, device="cpu")
        rpn = RPN.from_backbone(
            backbone,
            branch=size.branch,
            n_layers=size.rpn_layers,
            head_options={"rope": True},
        )
        results = []
        for series in size.series():
            results.append(measure(backbone, rpn, series, size))
            report(results[-1])
    if arguments.out:
        draw(results, arguments.out / "growth.png")


if __name__ == "__main__":
    main()
