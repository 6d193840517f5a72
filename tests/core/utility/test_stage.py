"""Judging crops: likelihoods of the stock model, records that are skipped, runs that resume."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.backbone.question import Question
from sdrpn_core.crops.candidates import RegionSampler
from sdrpn_core.data.images import open_image
from sdrpn_core.data.record import Record, RecordSource
from sdrpn_core.errors import ConfigError, ShardError
from sdrpn_core.gate.config import GateConfig
from sdrpn_core.grid.geometry import PaddedSquare
from sdrpn_core.rpn.model import RPN
from sdrpn_core.testing.regions import FixedRegion
from sdrpn_core.utility import stage
from sdrpn_core.utility.likelihoods import crop_likelihoods
from sdrpn_core.utility.reference import Reference, ReferenceKind
from sdrpn_core.utility.row import Candidate, UtilityRow, UtilityStatus
from sdrpn_core.utility.run import UtilityDataset, UtilityManifest
from sdrpn_core.utility.stage import judge_crops
from sdrpn_core.utility.summary import SourceSummary, summarize
from tests.core.utility.stock_likelihood import stock_log_likelihood
from tests.tiny import CHAT_TEMPLATE, tiny_image, tiny_llava
from tests.tiny_qwen2_5_vl import tiny_qwen2_5_vl

SIZES = {"batch_size": 2, "shard_size": 3, "progress": False}
ANSWERS = Reference(ReferenceKind.ANSWER)
OWN = Reference(max_new_tokens=3)
TOLERANCE = 2e-4


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava(chat_template=CHAT_TEMPLATE)


@pytest.fixture(scope="module")
def rpn(backbone):
    torch.manual_seed(0)
    made = RPN.from_backbone(backbone, branch=1, n_layers=1)
    policy = {"threshold": 0.5, "relative": True, "min_area": 1, "keep_single": True}
    made.config = replace(made.config, policy="bbox", policy_options=policy)
    return made.eval()


def records(n: int = 5, **changes) -> list[Record]:
    return [
        Record(
            id=f"r{i}",
            images=(tiny_image(i, size=(60, 48)),),
            question=f"which color is {i} ?",
            answers=("a red square",),
            boxes=((5, 5, 25, 30),) if i % 2 else None,
            **changes,
        )
        for i in range(n)
    ]


class Source(RecordSource):
    """Records whose reading can be interrupted, and that remembers which were read."""

    name = "test"

    def __init__(self, given: list[Record], stop_at: int | None = None) -> None:
        self.given, self.stop_at = given, stop_at
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.given)

    @property
    def fingerprint(self) -> str:
        return "abc"

    def _record(self, index: int) -> Record:
        if index == self.stop_at:
            raise KeyboardInterrupt
        self.read.append(index)
        return self.given[index]


def rows_of(folder) -> list[UtilityRow]:
    return list(UtilityDataset(folder))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("make", [tiny_llava, tiny_qwen2_5_vl])
def test_likelihoods_are_those_of_the_stock_model(make, tmp_path):
    """The given region of each record, cropped as the oracle of the benchmark does."""
    options = {"chat_template": CHAT_TEMPLATE} if make is tiny_llava else {}
    backbone = make(**options)
    size = (112, 84)
    given = [
        replace(one, images=(tiny_image(i, size=size),), boxes=((0, 0, *size),))
        for i, one in enumerate(records(2))
    ]
    judge_crops(backbone, given, tmp_path, reference=ANSWERS, **SIZES)
    response = backbone.tokenize_response("a red square")
    for row, record in zip(rows_of(tmp_path), given, strict=True):
        question = Question(record.question, (open_image(record.images[0]),))
        assert row.response_ids == tuple(response)
        plain = stock_log_likelihood(backbone, question, None, response)
        assert row.plain == pytest.approx(plain, abs=TOLERANCE)
        (candidate,) = row.candidates
        assert (candidate.source, candidate.boxes) == ("given", ((0, 0, *size),))
        whole = FixedRegion((0.0, 0.0, 1.0, 1.0))
        cropped = stock_log_likelihood(backbone, question, whole, response)
        assert candidate.log_likelihood == pytest.approx(cropped, abs=TOLERANCE)
        assert abs(cropped - plain) > 10 * TOLERANCE
        assert candidate.crop_tokens > 0


def test_candidates_come_from_the_policy_from_the_map_and_from_the_record(backbone, rpn, tmp_path):
    given = records(4)
    sampler = RegionSampler(n=4, min_area=1)
    judge_crops(backbone, given, tmp_path, rpn, reference=ANSWERS, sampler=sampler, **SIZES)
    rows = rows_of(tmp_path)
    questions = [Question(one.question, (open_image(one.images[0]),)) for one in given]
    answers = answer_batch(backbone, questions, RPNProposer(rpn), max_new_tokens=1)
    for row, record, answer in zip(rows, given, answers, strict=True):
        sources = [one.source for one in row.candidates]
        first, *others = row.candidates
        assert (first.source, list(first.boxes)) == ("rpn", answer.boxes)
        drawn = [one for one in others if one.source == "sampled"]
        assert 1 <= len(drawn) <= 4
        regions = [one.grid_boxes for one in (first, *drawn)]
        assert len(set(regions)) == len(regions)
        proposed = answer.proposals[0]
        expected = sampler(proposed.roi.probabilities(), proposed.geometry.content(), record.id)
        assert {one.grid_boxes for one in drawn} == {*expected} - {first.grid_boxes}
        assert (sources[-1] == "given") == bool(record.boxes)
        if record.boxes:  # with half of the longer side around it, within the image
            assert row.candidates[-1].boxes == ((0, 0, 37, 42),)
    assert any(abs(utility) > 1e-3 for row in rows for utility in row.utilities)


def test_regions_are_drawn_as_large_as_the_policy_that_crops_makes_them(backbone, rpn, tmp_path):
    policy = rpn.config.crop_policy("bbox", {"min_area": 6})
    judge_crops(backbone, records(1), tmp_path, rpn, policy=policy, reference=ANSWERS, **SIZES)
    facts = UtilityManifest.read(tmp_path).provenance["candidates"]
    assert facts["sampled"]["min_area"] == 6


def test_the_own_reference_is_the_answer_with_the_crop(backbone, rpn, tmp_path):
    given = records(3)
    given[1] = replace(given[1], response="blue")
    judge_crops(backbone, given, tmp_path, rpn, reference=OWN, n_candidates=0, **SIZES)
    questions = [Question(one.question, (open_image(one.images[0]),)) for one in given]
    answers = answer_batch(backbone, questions, RPNProposer(rpn), max_new_tokens=3)
    rows = rows_of(tmp_path)
    assert rows[1].response_ids == tuple(backbone.tokenize_response("blue"))
    for place in (0, 2):
        assert rows[place].response_ids == answers[place].ids


def test_an_image_runs_once_for_its_own_reference_and_its_candidates(
    backbone, rpn, tmp_path, monkeypatch
):
    """Crops aside, of which the reference's is encoded once more when it is judged."""
    given, encoded = records(3), []
    features = backbone.image_features

    def counted(inputs):
        encoded.extend(inputs)
        return features(inputs)

    monkeypatch.setattr(backbone, "image_features", counted)
    judge_crops(backbone, given, tmp_path, rpn, reference=OWN, n_candidates=0, **SIZES)
    n_own = sum(len(row.candidates[0].boxes) for row in rows_of(tmp_path))
    n_given = sum(record.boxes is not None for record in given)
    assert len(encoded) == len(given) + 2 * n_own + n_given


def test_a_reference_may_have_more_visual_tokens(tmp_path):
    backbone = tiny_qwen2_5_vl()
    given = [
        replace(one, images=(tiny_image(i, size=(224, 224)),)) for i, one in enumerate(records(2))
    ]
    coarse = backbone.with_visual_tokens(4)
    judge_crops(coarse, given, tmp_path, reference=replace(OWN, n_tokens=16), **SIZES)
    questions = [Question(one.question, (open_image(one.images[0]),)) for one in given]
    fine = answer_batch(backbone.with_visual_tokens(16), questions, max_new_tokens=3)
    assert [row.response_ids for row in rows_of(tmp_path)] == [answer.ids for answer in fine]


def test_crops_and_first_look_keep_to_their_budgets(tmp_path):
    """All crops to that of the policy, and none is judged beside more than a look shows."""
    backbone = tiny_qwen2_5_vl()
    torch.manual_seed(0)
    rpn = RPN.from_backbone(backbone, branch=1, n_layers=1)
    policy = rpn.config.crop_policy("bbox", {"threshold": 1e-6, "max_area_fraction": 1.0})
    given = [
        replace(one, images=(tiny_image(i, size=(224, 224)),), boxes=((0, 0, 200, 200),))
        for i, one in enumerate(records(2))
    ]
    found = {}
    for name, budget in (("free", None), ("tight", 4)):
        chosen = {"policy": replace(policy, max_crop_tokens=budget), "first_look_tokens": 9}
        judge_crops(backbone, given, tmp_path / name, rpn, reference=ANSWERS, **chosen, **SIZES)
        found[name] = rows_of(tmp_path / name)
    look = backbone.with_visual_tokens(9)
    response = backbone.tokenize_response("a red square")
    for row, free, record in zip(found["tight"], found["free"], given, strict=True):
        assert row.geometry.grid == (3, 3)
        question = Question(record.question, (open_image(record.images[0]),))
        plain = stock_log_likelihood(look, question, None, response)
        assert row.plain == pytest.approx(plain, abs=TOLERANCE)
        assert {one.source for one in row.candidates} == {"rpn", "sampled", "given"}
        for one, other in zip(row.candidates, free.candidates, strict=True):
            assert one.boxes == other.boxes
            assert one.crop_tokens <= 4 * len(one.boxes) < other.crop_tokens


def test_a_candidate_whose_likelihood_is_not_finite_costs_its_record_alone(
    backbone, tmp_path, monkeypatch
):
    def broken(*args, **options):
        found = crop_likelihoods(*args, **options)
        return [replace(found[0], cropped=(float("nan"),)), *found[1:]]

    monkeypatch.setattr(stage, "crop_likelihoods", broken)
    given = [replace(one, boxes=((5, 5, 25, 30),)) for one in records(2)]
    summary = judge_crops(backbone, given, tmp_path, reference=ANSWERS, **SIZES)
    (skipped,) = summary.skipped
    assert (skipped.index, skipped.status) == (0, UtilityStatus.INVALID)
    assert [row.id for row in rows_of(tmp_path)] == ["r1"]


def test_records_that_cannot_be_judged_are_skipped_with_a_reason(backbone, rpn, tmp_path):
    given = records(5)
    given[0] = replace(given[0], answers=())
    given[1] = replace(given[1], images=(Path("missing.png"),))
    given[2] = replace(given[2], question="")
    given[3] = replace(given[3], images=(tiny_image(0), tiny_image(1)), boxes=None)
    summary = judge_crops(backbone, given, tmp_path, rpn, reference=ANSWERS, **SIZES)
    statuses = {skipped.index: skipped.status for skipped in summary.skipped}
    assert statuses == {
        0: UtilityStatus.NO_RESPONSE,
        1: UtilityStatus.UNREADABLE,
        2: UtilityStatus.INVALID,
        3: UtilityStatus.INVALID,
    }
    assert [row.id for row in rows_of(tmp_path)] == ["r4"]
    assert all(skipped.reason for skipped in summary.skipped)


def test_an_interrupted_run_is_finished_without_loss_or_repetition(backbone, rpn, tmp_path):
    given = records(8)
    options = {"reference": ANSWERS, "n_candidates": 2, **SIZES}
    judge_crops(backbone, Source(given), tmp_path / "whole", rpn, **options)
    with pytest.raises(KeyboardInterrupt):
        judge_crops(backbone, Source(given, stop_at=4), tmp_path / "again", rpn, **options)
    assert len(list((tmp_path / "again").glob("*.parquet"))) == 1
    rest = Source(given)
    judge_crops(backbone, rest, tmp_path / "again", rpn, **options)
    assert sorted(rest.read) == list(range(3, 8))
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def test_the_batch_size_does_not_matter(backbone, rpn, tmp_path):
    given = records(5)
    options = {"reference": ANSWERS, "shard_size": 5, "progress": False}
    judge_crops(backbone, given, tmp_path / "one", rpn, batch_size=1, **options)
    judge_crops(backbone, given, tmp_path / "all", rpn, batch_size=5, **options)
    for one, other in zip(rows_of(tmp_path / "one"), rows_of(tmp_path / "all"), strict=True):
        assert one.utilities == pytest.approx(other.utilities, abs=TOLERANCE)
        assert [c.boxes for c in one.candidates] == [c.boxes for c in other.candidates]


def test_another_rpn_or_reference_does_not_continue_a_run(backbone, rpn, tmp_path):
    options = {"n_candidates": 0, **SIZES}
    judge_crops(backbone, records(2), tmp_path, rpn, reference=ANSWERS, **options)
    torch.manual_seed(1)
    other = RPN.from_backbone(backbone, branch=1, n_layers=1)
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    with pytest.raises(ShardError, match="rpn"):
        judge_crops(backbone, records(2), tmp_path, other, reference=ANSWERS, **options)
    with pytest.raises(ShardError, match="reference"):
        judge_crops(backbone, records(2), tmp_path, rpn, reference=OWN, **options)
    judge_crops(backbone, records(2), tmp_path, rpn, reference=OWN, overwrite=True, **options)


def test_a_gate_does_not_make_it_another_rpn(backbone, rpn, tmp_path):
    given, options = records(2), {"n_candidates": 0, "reference": ANSWERS, **SIZES}
    judge_crops(backbone, given, tmp_path / "run", rpn, **options)
    before = contents(tmp_path / "run")
    gated = RPN.from_pretrained(rpn.save_pretrained(tmp_path / "rpn"), backbone=backbone)
    gated.add_gate(backbone, GateConfig("linear"))
    judge_crops(backbone, given, tmp_path / "run", gated, **options)
    assert contents(tmp_path / "run") == before


def test_what_gives_no_reference_is_refused(backbone, tmp_path):
    with pytest.raises(ConfigError, match="more than the plain answer"):
        judge_crops(backbone, records(1), tmp_path, reference=OWN, **SIZES)
    with pytest.raises(ConfigError, match="resolution is fixed"):
        judge_crops(backbone, records(1), tmp_path, reference=Reference(n_tokens=9), **SIZES)
    with pytest.raises(ConfigError, match="own answers"):
        Reference(ReferenceKind.ANSWER, n_tokens=9)


def test_shards_of_labels_are_no_utilities(tmp_path):
    os.makedirs(tmp_path / "x")
    (tmp_path / "x" / "manifest.json").write_text(json.dumps({"format_version": 2}))
    with pytest.raises(ShardError, match="not a utility run"):
        UtilityDataset(tmp_path / "x")


def test_the_summary_takes_the_best_candidate_of_a_source(backbone, rpn, tmp_path):
    judge_crops(backbone, records(4), tmp_path, rpn, reference=ANSWERS, n_candidates=3, **SIZES)
    rows = rows_of(tmp_path)
    found = summarize(rows)
    assert set(found) == {"rpn", "sampled", "given"}
    assert found["rpn"].records == 4
    assert found["given"].records == 2
    best = [
        max(u for u, c in zip(row.utilities, row.candidates, strict=True) if c.source == "sampled")
        for row in rows
    ]
    assert found["sampled"].helped == sum(value > 0.7 for value in best) / 4


def test_the_summary_is_what_one_counts_by_hand():
    def row(index, *worth):
        """Of a region that the RPN found, and others, at -5 nats without any."""
        candidates = [Candidate(source, (), (), 0, utility - 5) for source, utility in worth]
        facts = {"response": "red", "response_ids": (5,), "plain": -5.0}
        geometry = PaddedSquare((28, 28), (4, 4), 28)
        return UtilityRow(
            index, f"r{index}", "q", None, candidates=tuple(candidates), geometry=geometry, **facts
        )

    found = summarize(
        [
            row(0, ("rpn", 0.75), ("sampled", -1.0), ("sampled", 2.0)),
            row(1, ("rpn", 0.5), ("sampled", -4.0)),
            row(2, ("rpn", -3.0)),
            row(3),
        ]
    )
    assert list(found) == ["rpn", "sampled"]
    assert found["rpn"] == SourceSummary(3, helped=1 / 3, median=0.5)
    assert found["sampled"] == SourceSummary(2, helped=0.5, median=-1.0)


def test_rows_contradicting_themselves_are_refused():
    with pytest.raises(ShardError, match="needs a response"):
        UtilityRow(0, "a", "q", None, plain=0.0)
    with pytest.raises(ShardError, match="needs a reason"):
        UtilityRow(0, "a", "q", None, status=UtilityStatus.INVALID)
    with pytest.raises(ShardError, match="comes with"):
        UtilityRow(
            0,
            "a",
            "q",
            None,
            status=UtilityStatus.INVALID,
            reason="x",
            candidates=(Candidate("rpn", (), (), 0, 0.0),),
        )
