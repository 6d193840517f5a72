"""The benchmarks that `make bench` runs, and what of their rows is shown."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Table:
    """The columns of one kind of rows.

    Attributes:
        benchmark: the kind, as the rows name it.
        columns: heading by key, in order; some rows of a kind may lack a key.
        title: above the table.
    """

    benchmark: str
    columns: Mapping[str, str]
    title: str = ""


@dataclass(frozen=True)
class Script:
    """A benchmark.

    Attributes:
        name: of the file, without ``.py``.
        tables: one per kind of rows that it prints.
        plot: the file that it draws where ``--out`` says; ``None`` if it draws nothing.
        folder: where the script lies.
    """

    name: str
    tables: tuple[Table, ...]
    plot: str | None = None
    folder: Path = HERE

    @property
    def path(self) -> Path:
        """Of the script."""
        return self.folder / f"{self.name}.py"

    @property
    def docstring(self) -> str:
        """Of the script, which is not imported for it."""
        return ast.get_docstring(ast.parse(self.path.read_text(encoding="utf-8"))) or ""

    @property
    def summary(self) -> str:
        """What it measures, in one sentence."""
        return self.docstring.partition("\n")[0]


SCRIPTS = (
    Script(
        "answer_cost",
        (
            Table(
                "answer_cost",
                {
                    "model": "model",
                    "answer_tokens": "tokens per answer",
                    "case": "case",
                    "to_plain": "time / plain answer",
                    "spread": "half of the rounds",
                    "to_stock": "time / stock generate()",
                    "to_recomputed": "time / recomputed",
                    "least": "least / plain answer",
                    "over_least": "time / least",
                    "first_token": "seconds to first token",
                    "per_token": "seconds per further token",
                    "per_token_to_longer": "per token / plain answer, as long",
                    "prompt_tokens": "prompt tokens",
                    "token_layers": "token-layers",
                    "least_token_layers": "least token-layers",
                },
            ),
            Table(
                "answer_cost_stages",
                {
                    "model": "model",
                    "answer_tokens": "tokens per answer",
                    "case": "case",
                    "vision": "vision",
                    "prefill": "prefill",
                    "prefix": "prefix",
                    "question": "question",
                    "proposal": "proposal",
                    "crop": "crop",
                    "roi_prefill": "second prefill",
                    "decode": "decode",
                },
                title="Seconds per stage:",
            ),
        ),
    ),
    Script(
        "batch_cost",
        (
            Table(
                "batch_cost",
                {
                    "questions": "questions",
                    "answer_tokens": "tokens per answer",
                    "case": "case",
                    "per_second": "questions per second",
                    "throughput": "throughput / one at a time",
                    "spread": "half of the rounds",
                    "work": "token-layers / one at a time",
                },
            ),
        ),
    ),
    Script(
        "large_inputs",
        (
            Table(
                "large_inputs",
                {
                    "kind": "what is large",
                    "case": "case",
                    "seconds": "seconds",
                    "to_plain": "time / plain answer",
                    "spread": "half of the rounds",
                    "proposal_to_prefix": "proposal / prefix",
                },
            ),
        ),
    ),
    Script(
        "label_cost",
        (
            Table(
                "label_cost",
                {
                    "case": "case",
                    "ratio_to": "ratios to",
                    "ratio": "time",
                    "spread": "half of the rounds",
                    "to_published": "time / labels, as published",
                    "memory_ratio": "peak memory",
                    "working_memory_ratio": "working memory",
                    "extra_memory_bytes": "extra memory",
                },
            ),
        ),
    ),
    Script(
        "train_cost",
        (
            Table(
                "train_cost",
                {
                    "case": "case",
                    "ratio": "step time / whole model",
                    "memory_ratio": "peak memory / whole model",
                },
            ),
        ),
    ),
    Script(
        "growth",
        (
            Table(
                "growth",
                {
                    "grows": "what grows",
                    "size": "size",
                    "crop_tokens": "crop tokens",
                    "ratio": "two-stage / baseline",
                    "baseline_exponent": "exponent, baseline",
                    "two_stage_exponent": "exponent, two-stage",
                },
            ),
        ),
        plot="growth.png",
    ),
    Script(
        "startup",
        (
            Table(
                "startup",
                {
                    "case": "case",
                    "ratio": "time / bare Python",
                    "to_torch": "time / torch, transformers",
                    "modules": "modules",
                    "imports_torch": "imports torch",
                    "imports_transformers": "imports transformers",
                },
            ),
        ),
    ),
)
