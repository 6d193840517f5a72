"""Whether methods look at the right place: of which questions that is said."""

from __future__ import annotations

import pytest

from sdrpn_bench.cost import Cost
from sdrpn_bench.metrics.exact_match import ExactMatch
from sdrpn_bench.model_report import model_lines
from sdrpn_bench.report_notes import notes
from sdrpn_bench.summary import summarize

#: What items have of a method beside the outcome.
ANSWERED = {"text": "", "score": 1, "counts": {}, "seconds": 1.0, "cost": Cost().to_dict()}
SDRPN = [
    {"outcome": "ok", "map_hit": True, "crop_hit": True},
    {"outcome": "no_roi", "map_hit": True, "crop_hit": False},
    {"outcome": "not_needed", "crop_hit": False},
    {"outcome": "error"},
]
ORACLE = [{"outcome": "ok", "crop_hit": True}] * 4
PLAIN = [{"outcome": "plain"}] * 4


def report(**methods):
    """The model's part of the report, and the notes."""
    names = list(methods)
    rows = [
        {"methods": {name: {**ANSWERED, **one} for name, one in zip(names, item, strict=True)}}
        for item in zip(*methods.values(), strict=True)
    ]
    model = {"model": "m", "rpn": None, "refused": {}, **summarize(rows, names, ExactMatch())}
    results = {"models": {"m": model}, "batch_size": 1, "method_options": {}}
    return model, "\n".join(model_lines(model)), "\n".join(notes(results))


def test_a_question_without_a_crop_is_a_miss_and_one_without_a_map_does_not_count():
    model, _, _ = report(sdrpn=SDRPN)
    pointing = model["methods"]["sdrpn"]["pointing"]
    assert (pointing["map"]["correct"], pointing["map"]["n"]) == (2, 2)
    assert (pointing["crop"]["correct"], pointing["crop"]["n"]) == (1, 3)


def test_the_report_says_of_how_many_questions_a_share_is():
    _, lines, said = report(baseline=PLAIN, sdrpn=SDRPN, oracle=ORACLE)
    table = lines[lines.index("| method | map peak in a true box | crop contains its center |") :]
    assert table.splitlines()[2:4] == [
        "| sdrpn | 100.0% (34.2% to 100.0%), 2 of 2 | 33.3% (6.1% to 79.2%), 1 of 3 |",
        "| oracle | – | 100.0% (51.0% to 100.0%), 4 of 4 |",
    ]
    assert "- Map peak in a true box: of the questions with true boxes for which" in said
    assert "A question that was not cropped counts as a miss in the second" in said


@pytest.mark.parametrize("said", report(baseline=PLAIN)[1:])
def test_without_boxes_nothing_is_said(said):
    assert "map peak" not in said.lower()
