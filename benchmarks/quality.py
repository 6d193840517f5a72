"""Compare all methods on the three embedded backbones, and write QUALITY.md.

    python benchmarks/quality.py [--n N] [--out FOLDER]

An interrupted run goes on where it stopped. The run itself, with a report of its own, is in
``runs/quality``; FOLDER (default: the folder of this file) gets the page and its figure.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from result_files import RESULTS
from run_facts import machine_facts
from suite import HERE

from sdrpn_bench import BenchModel, run_benchmark
from sdrpn_bench.curve_report import COST_HEADER, NOTES, cost_row, curve_tables
from sdrpn_bench.markdown import table
from sdrpn_bench.percent import percent
from sdrpn_bench.sweep import Sweep
from sdrpn_core.util.atomic_files import atomic_write
from sdrpn_glyphs import backbone_dir, rpn_dir
from sdrpn_glyphs.families import NAMES
from sdrpn_glyphs.families.base import MAX_NEW_TOKENS

PAGE = "QUALITY.md"
FIGURE = "quality.png"
RUN = HERE.parent / "runs" / "quality"

METHODS = (
    "baseline", "sdrpn", "cascade", "attention", "vicrop", "vicrop_grad_att", "vicrop_pure_grad",
    "zoomeye", "full", "full_max", "tiles", "random", "oracle",
)  # fmt: skip

#: The embedded backbones say yes and no to nothing but whether an object is there.
OPTIONS = {"zoomeye": {"confidence": "answer"}}
SWEEPS = (Sweep("sdrpn", "threshold", (0.05, 0.2, 0.35)),)
DATA = "glyphs/mixed"
N_ITEMS = 100
BATCH_SIZE = 20

_INTRODUCTION = (
    "All methods on the three backbones that ship with the project, which are small and know only "
    "questions like those of `glyphs/mixed`, of which about half need a closer look. "
    "`make bench-quality` writes this page. These models know few words: `zoomeye` is run with "
    "`confidence=answer`, as they do not understand its questions, and the generic prompts of "
    "`vicrop` and `vicrop_pure_grad` say little to them. "
    "What a method does is in [docs/methods.md](../docs/methods.md). Token-layers do not depend on "
    "the machine; seconds do, and on what else it does."
)


def run(n: int) -> dict[str, Any]:
    """Answer ``n`` questions with every method on every backbone."""
    models = [BenchModel(backbone_dir(name), rpn_dir(name), name=name) for name in NAMES]
    return run_benchmark(
        models,
        METHODS,
        DATA,
        out=RUN,
        n=n,
        batch_size=BATCH_SIZE,
        max_new_tokens=MAX_NEW_TOKENS,
        method_options=OPTIONS,
        sweeps=SWEEPS,
        load_options={"device": "cpu"},
    )


def page(results: Mapping[str, Any]) -> str:
    """The page: one table of accuracy over all, then costs and fronts by model."""
    models = results["models"]
    lines = ["# Quality", "", _INTRODUCTION, ""]
    lines += [f"{results['n']} questions, seed {results['seed']}; accuracy in percent, and paired"]
    lines += ["difference from the baseline in points, with 95% intervals.", ""]
    names = dict.fromkeys(name for model in models.values() for name in model["methods"])
    lines += table(
        ("method", *models), [[name, *_accuracies(name, models.values())] for name in names]
    )
    lines += ["", f"![accuracy against cost]({RESULTS}/{FIGURE})"]
    for name, model in models.items():
        methods = model["methods"].items()
        lines += ["", f"## {name}", "", *table(COST_HEADER, [cost_row(*one) for one in methods])]
        for header, rows in curve_tables(results["curves"][name]):
            lines += ["", *table(header, rows)]
        if model["refused"]:
            lines += ["", "Left out:", ""]
            lines += [f"- `{method}`: {reason}" for method, reason in model["refused"].items()]
    lines += ["", "## How to read this", "", *(f"- {note}" for note in NOTES)]
    lines += ["", "## Machine", "", *(f"- {k}: {v}" for k, v in machine_facts().items()), ""]
    return "\n".join(lines)


def _accuracies(method: str, models: Sequence[Mapping[str, Any]]) -> list[str]:
    cells = []
    for model in models:
        values = model["methods"].get(method)
        if values is None:
            cells.append("–")
            continue
        low, high = (100 * limit for limit in values["interval"])
        cell = f"{percent(values['accuracy'])} [{low:.1f}, {high:.1f}]"
        if difference := values.get("difference"):
            least, most = (100 * limit for limit in difference["interval"])
            cell += f", {100 * difference['value']:+.1f} [{least:+.1f}, {most:+.1f}]"
        cells.append(cell)
    return cells


def main(args: Sequence[str] | None = None) -> None:
    """Run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=N_ITEMS, help="number of questions")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the page")
    options = parser.parse_args(args)
    results = run(options.n)
    (options.out / RESULTS).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(RUN / "figures" / "accuracy_and_cost.png", options.out / RESULTS / FIGURE)
    with atomic_write(options.out / PAGE) as file:
        file.write(page(results).encode())
    print(options.out / PAGE)


if __name__ == "__main__":
    main()
