"""The committed table of pairs, with the scores of lmms-eval's functions.

``python -m tests.peers.metric_table`` writes it again, after ``make peers``.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from tests.peers.environment import their_scores
from tests.peers.metric_pairs import CORNERS, GENERATORS, Pair, pairs

TABLE = Path(__file__).with_name("metric_table.jsonl")
N_PAIRS = 60
SEED = 7


def read_table() -> list[tuple[Pair, float]]:
    """The pairs and their scores."""
    rows = [json.loads(line) for line in TABLE.read_text(encoding="utf-8").splitlines()]
    return [(Pair(**{k: v for k, v in row.items() if k != "score"}), row["score"]) for row in rows]


def scored_pairs() -> list[dict[str, object]]:
    """The rows of the table, with the scores that the functions give now."""
    drawn = [pair for name in GENERATORS for pair in pairs(name, N_PAIRS, SEED)]
    rows = [asdict(pair) for pair in (*CORNERS, *drawn)]
    return [{**row, "score": s} for row, s in zip(rows, their_scores(rows), strict=True)]


def main() -> None:
    """Write the table."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in scored_pairs())
    TABLE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
