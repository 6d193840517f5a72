"""What lmms-eval's own functions give for pairs: a script for an environment that has lmms-eval.

Reads a JSON list of pairs (metric, prediction, answers, extra) from stdin, and writes the list of
scores to stdout; for a list of such lists of yes-or-no questions, with ``--totals``, their totals.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from lmms_eval.api.metrics import anls
from lmms_eval.tasks.chartqa.utils import relaxed_correctness
from lmms_eval.tasks.ocrbench.utils import ocrbench_process_results
from lmms_eval.tasks.pope import utils as pope
from lmms_eval.tasks.textvqa.utils import textvqa_process_results
from lmms_eval.tasks.vstar_bench.utils import vstar_process_results

Pair = dict[str, Any]
TOTALS = {"accuracy": "accuracy", "precision": "precision", "recall": "recall", "f1": "f1_score"}


def vqa_accuracy(pair: Pair) -> float:
    document = {"answers": list(pair["answers"]), "question_id": 0}
    return textvqa_process_results(document, [pair["prediction"]])["exact_match"]


def multiple_choice(pair: Pair) -> float:
    document = {"label": pair["answers"][0], "text": "", "question_id": 0}
    return vstar_process_results(document, [pair["prediction"]])["vstar_overall_acc"]["score"]


def yes_no(pair: Pair) -> dict[str, Any]:
    document = {"answer": pair["answers"][0], "question_id": 0}
    return pope.pope_process_results(document, [pair["prediction"]])["pope_accuracy"]


def containment(pair: Pair) -> float:
    document = {"answer": pair["answers"], "question_type": "", **pair["extra"]}
    result = ocrbench_process_results(document, [pair["prediction"]])
    return result["ocrbench_accuracy"]["score"]


SCORES = {
    "vqa_accuracy": vqa_accuracy,
    "anls": lambda pair: anls(pair["answers"], [pair["prediction"]])["anls"],
    "relaxed_accuracy": lambda pair: relaxed_correctness(pair["prediction"], pair["answers"][0]),
    "multiple_choice": multiple_choice,
    "yes_no": lambda pair: yes_no(pair)["score"],
    "containment": containment,
}


def totals(pairs: list[Pair]) -> dict[str, float]:
    results = [yes_no(pair) for pair in pairs]
    return {k: float(getattr(pope, f"pope_aggregate_{v}")(results)) for k, v in TOTALS.items()}


def main() -> None:
    given = json.load(sys.stdin)
    if sys.argv[1:] == ["--totals"]:
        found: list[Any] = [totals(pairs) for pairs in given]
    else:
        found = [float(SCORES[pair["metric"]](pair)) for pair in given]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
