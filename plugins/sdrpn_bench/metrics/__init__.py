"""Metrics: how right an answer is, from 0 to 1. One file per metric.

Nothing here imports torch, transformers or another module of the benchmark. Where a metric comes
from, and where it differs from the definition of its paper, is in ``docs/metrics.md``.
"""
