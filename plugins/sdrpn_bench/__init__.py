"""Cross-model benchmark runner: backbones x methods x a dataset -> accuracy, cost, a report.

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

import importlib
from typing import TYPE_CHECKING, Any

from sdrpn_core import hookimpl

if TYPE_CHECKING:
    from sdrpn_bench.bench_model import BenchModel
    from sdrpn_bench.method import Method, MethodContext
    from sdrpn_bench.runner import run_benchmark
    from sdrpn_core.plugins.registry import Registry

SDRPN_API = 1

__all__ = ["BenchModel", "Method", "MethodContext", "run_benchmark"]

_HOME = {
    "BenchModel": "bench_model",
    "Method": "method",
    "MethodContext": "method",
    "run_benchmark": "runner",
}


@hookimpl
def sdrpn_register_methods(registry: Registry[Any]) -> None:
    """The paper's method, its training-free rival, and the controls."""
    registry.add(
        "baseline", "sdrpn_bench.methods:Baseline", help="the plain answer, nothing is cropped"
    )
    registry.add("sdrpn", "sdrpn_bench.methods:TrainedRPN", help="crops that an RPN proposes")
    registry.add(
        "attention",
        "sdrpn_bench.methods:RawAttention",
        help="crops by the raw grounding attention of a plain answer, training-free",
    )
    registry.add(
        "random",
        "sdrpn_bench.known_boxes:RandomBox",
        help="control: a crop as large as the oracle's, at a random place",
    )
    registry.add(
        "oracle", "sdrpn_bench.known_boxes:Oracle", help="upper bound: crops of the true boxes"
    )


@hookimpl
def sdrpn_register_commands(registry: Registry[Any]) -> None:
    """The command ``bench``."""
    registry.add(
        "bench",
        "sdrpn_bench.bench_command:bench",
        help="Compare methods on one or more models: accuracy, cost, and a report with figures.",
    )


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
