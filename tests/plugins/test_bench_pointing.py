"""Whether methods look at the right place: of which questions that is said."""

from __future__ import annotations

import numpy as np
import pytest

from sdrpn_bench.cost import Cost
from sdrpn_bench.measure import OpenedItem, _holds_center, _result, object_size
from sdrpn_bench.metrics.exact_match import ExactMatch
from sdrpn_bench.model_report import model_lines
from sdrpn_bench.report_notes import notes
from sdrpn_bench.summary import summarize
from sdrpn_core.answering.proposer import Proposal
from sdrpn_core.answering.results import Answer
from sdrpn_core.crops.policy import CropPlan, Outcome
from sdrpn_core.data.record import Record
from sdrpn_core.grid.geometry import Resized
from sdrpn_core.grid.roi_map import RoIMap

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


def test_a_crop_holds_a_center_that_lies_on_its_first_pixels_but_not_behind_its_last():
    crop = (10, 20, 30, 40)
    centers = {
        (10, 20): True,
        (29.5, 39.5): True,
        (30, 30): False,
        (20, 40): False,
        (9.5, 30): False,
    }
    for (x, y), expected in centers.items():
        box = (x - 4, y - 4, x + 4, y + 4)
        assert _holds_center(crop, box) == expected, (x, y)


@pytest.mark.parametrize(("row", "column"), [(0, 4), (2, 0), (1, 2)])
def test_the_peak_of_a_map_is_looked_for_in_its_row_and_column(row, column):
    geometry = Resized((500, 300), (3, 5), 28)
    scores = np.zeros((3, 5), np.float32)
    scores[row, column] = 1.0
    proposal = Proposal(CropPlan(Outcome.NO_ROI), RoIMap(scores), geometry)
    answer = Answer("red", (5,), (proposal,), 20, 15, {})
    hits = {}
    for place in np.ndindex(3, 5):
        y, x = (100 * cell + 40 for cell in place)
        record = Record("r", (), "q", answers=("red",), boxes=((x, y, x + 20, y + 20),))
        found = _result(OpenedItem(0, record, ()), answer, Cost(), ExactMatch())
        hits[place] = found["map_hit"]
        assert (found["crop_hit"], found["score"]) == (False, 1)
    assert [place for place, hit in hits.items() if hit] == [(row, column)]


def test_objects_are_as_large_as_the_smallest_true_box():
    """The side of a square of its area, relative to that of a square of the image's."""
    assert object_size([(0, 0, 100, 100), (5, 5, 25, 10)], (400, 100)) == pytest.approx(0.05)
    assert object_size([], (400, 100)) is None


def test_costs_and_gates_are_what_one_counts_by_hand():
    def one(score, seconds, **facts):
        costs = {"token_layers": 10.0, "backward_token_layers": 0.0, "passes": 1.0}
        peak = facts.pop("peak", None)
        return {"outcome": "ok", "score": score, "seconds": seconds, **facts,
                "cost": {**costs, "peak_memory": peak}}  # fmt: skip

    gated = {"outcome": "not_needed", "gate": 0.01}
    model, _, _ = report(
        baseline=[one(1, 1.0), one(0.5, 1.0), one(0, 2.0), one(1, 4.0)],
        sdrpn=[
            one(1, 1.0, peak=5, stages={"prefix": 2.0}, **gated),
            one(1, 3.0, peak=7, stages={"prefix": 1.0, "crop": 3.0}, gate=0.9),
            one(1, 5.0, **gated),
            one(0, 7.0, peak=6, gate=0.8),
        ],
    )
    values = model["methods"]["sdrpn"]
    assert values["time_ratio"] == 2
    assert values["seconds_per_question"] == 4
    assert values["cost"]["peak_memory"] == 7
    # What a question did not go through took no time.
    assert values["stages"] == {"prefix": 1.5, "crop": 1.5}
    shares = {name: (part["share"], part["n"]) for name, part in values["gate"].items()}
    # Half a score is not right.
    assert shares == {
        "skipped": (0.5, 4),
        "skipped_of_right": (0.5, 2),
        "skipped_of_wrong": (0.5, 2),
    }
