"""Benchmark runner: backbones x methods x a dataset -> accuracy, cost and a report.

Example:
    >>> from sdrpn_bench import BenchModel, run_benchmark
    >>> results = run_benchmark(  # doctest: +SKIP
    ...     BenchModel("path/to/backbone", rpn="path/to/rpn"),
    ...     ["baseline", "sdrpn", "oracle"],
    ...     "glyphs/small",
    ...     out="runs/bench",
    ...     n=300,
    ... )
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lazy_loader

from sdrpn_core import hookimpl

if TYPE_CHECKING:
    from sdrpn_bench.bench_model import BenchModel as BenchModel
    from sdrpn_bench.calibrate import calibrate_gate as calibrate_gate
    from sdrpn_bench.calibrate_cascade import calibrate_confidence as calibrate_confidence
    from sdrpn_bench.compare import compare_runs as compare_runs
    from sdrpn_bench.method import Method as Method
    from sdrpn_bench.method import MethodContext as MethodContext
    from sdrpn_bench.metrics.metric import Metric as Metric
    from sdrpn_bench.runner import run_benchmark as run_benchmark
    from sdrpn_core.plugins.registry import Registry

SDRPN_API = 1

# Not its __dir__: the hooks below are found by the module's own.
__getattr__, _, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "bench_model": ["BenchModel"],
        "calibrate": ["calibrate_gate"],
        "calibrate_cascade": ["calibrate_confidence"],
        "compare": ["compare_runs"],
        "method": ["Method", "MethodContext"],
        "metrics.metric": ["Metric"],
        "runner": ["run_benchmark"],
    },
)


@hookimpl
def sdrpn_register_methods(registry: Registry[Any]) -> None:
    """Register the method of the paper, its training-free alternative, and the controls."""
    registry.add("baseline", "sdrpn_bench.methods:Baseline", help="the plain answer, without crops")
    registry.add("sdrpn", "sdrpn_bench.methods:TrainedRPN", help="crops proposed by an RPN")
    registry.add(
        "cascade",
        "sdrpn_bench.cascade:Cascade",
        help="the plain answer; crops proposed by an RPN where it is unsure",
    )
    registry.add(
        "attention",
        "sdrpn_bench.methods:RawAttention",
        help="crops by the raw grounding attention of a plain answer, without training",
    )
    registry.add(
        "random",
        "sdrpn_bench.known_boxes:RandomBox",
        help="control: a crop of the oracle's size at a random position",
    )
    registry.add(
        "oracle", "sdrpn_bench.known_boxes:Oracle", help="upper bound: crops of the true boxes"
    )
    registry.add(
        "full",
        "sdrpn_bench.whole_image:FullImage",
        help="control: the plain answer with as many visual tokens as the two-stage answer had",
    )
    registry.add(
        "full_max",
        "sdrpn_bench.whole_image:MostTokens",
        help="control: the plain answer with as many visual tokens as the image has pixels for",
    )
    registry.add(
        "tiles",
        "sdrpn_bench.whole_image:Tiles",
        help="control: the whole image and its tiles, for families that were trained on them",
    )


@hookimpl
def sdrpn_register_metrics(registry: Registry[Any]) -> None:
    """Register the metrics that published benchmarks report."""
    for name, target, help_line in (
        ("exact_match", "ExactMatch", "an accepted answer, word for word; signs and units count"),
        ("vqa_accuracy", "VQAAccuracy", "agreement with the annotators (VQA, TextVQA)"),
        ("anls", "ANLS", "similarity of spelling (DocVQA, InfographicVQA)"),
        ("relaxed_accuracy", "RelaxedAccuracy", "numbers within 5%, else equal texts (ChartQA)"),
        ("multiple_choice", "MultipleChoice", "the letter of an option (V*, HR-Bench)"),
        ("yes_no", "YesNo", "yes or no, with precision, recall and F1 of yes (POPE)"),
        ("containment", "Containment", "an accepted answer occurs in the response (OCRBench)"),
    ):
        registry.add(name, f"sdrpn_bench.metrics.{name}:{target}", help=help_line)


@hookimpl
def sdrpn_register_commands(registry: Registry[Any]) -> None:
    """Register the commands ``bench``, ``compare`` and ``calibrate``."""
    registry.add(
        "bench",
        "sdrpn_bench.bench_command:bench",
        help="Compare methods on one or more models: accuracy, cost, and a report with figures.",
    )
    registry.add(
        "compare",
        "sdrpn_bench.compare_command:compare",
        help="Compare two benchmark runs on the questions that both answered.",
    )
    registry.add(
        "calibrate",
        "sdrpn_bench.calibrate_command:calibrate",
        help="Choose on held-out questions where to look closer: a gate's threshold, or how "
        "sure a plain answer must be.",
    )
