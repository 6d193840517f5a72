"""Answers at several budgets of visual tokens: those of the model at each, runs that resume."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.backbone.question import Question
from sdrpn_core.data.images import open_image
from sdrpn_core.data.record import Record
from sdrpn_core.errors import ConfigError, ShardError
from sdrpn_core.utility.ladder_row import LadderStatus
from sdrpn_core.utility.ladder_run import LadderDataset
from sdrpn_core.utility.ladder_stage import answer_ladders
from tests.core.utility.test_stage import Source, contents
from tests.tiny import tiny_image, tiny_llava
from tests.tiny_qwen2_5_vl import tiny_qwen2_5_vl

BUDGETS = (4, 9, 16, 36)
SIZES = {"batch_size": 2, "shard_size": 2, "max_new_tokens": 4, "progress": False}


@pytest.fixture(scope="module")
def backbone():
    return tiny_qwen2_5_vl()


def records(n: int = 4) -> list[Record]:
    return [
        Record(f"r{i}", (tiny_image(i, (200 + 60 * i, 220)),), f"what is {i} ?", answers=("red",))
        for i in range(n)
    ]


def test_answers_are_those_of_the_model_at_each_budget(backbone, tmp_path):
    given = records()
    answer_ladders(backbone, given, tmp_path, BUDGETS, **SIZES)
    rows = list(LadderDataset(tmp_path))
    questions = [Question(one.question, (open_image(one.images[0]),)) for one in given]
    for rung, budget in enumerate(BUDGETS):
        looking = backbone.with_visual_tokens(budget)
        found = answer_batch(looking, questions, max_new_tokens=4)
        assert [row.answers[rung] for row in rows] == [answer.text for answer in found]
        tokens = [answer.n_visual_tokens for answer in found]
        assert [row.visual_tokens[rung] for row in rows] == tokens
        assert max(tokens) <= budget
    assert len({row.answers for row in rows} | {row.answers[::-1] for row in rows}) > len(rows)
    for row, ladder in zip(rows, LadderDataset(tmp_path).ladders(), strict=True):
        assert (ladder.resolutions, ladder.answers) == (list(BUDGETS), list(row.answers))
        assert row.ladder.difficulty is ladder.difficulty


def test_an_image_that_fills_no_larger_budget_is_answered_once(backbone, tmp_path, monkeypatch):
    """At each budget it has the answer of the largest that it fills."""
    size = (90, 60)  # 3 x 2 tokens
    given = [*records(1), Record("small", (tiny_image(9, size),), "what is 9 ?", answers=("red",))]
    encoded, features = [], backbone.image_features

    def counted(inputs):
        encoded.extend(inputs)
        return features(inputs)

    with monkeypatch.context() as patch:
        patch.setattr(backbone, "image_features", counted)
        answer_ladders(backbone, given, tmp_path, BUDGETS, **SIZES)
    assert len(encoded) == len(BUDGETS) + 2
    _, row = LadderDataset(tmp_path)
    assert row.visual_tokens == (2, 6, 6, 6)
    question = Question(given[1].question, (open_image(given[1].images[0]),))
    found = [
        answer_batch(backbone.with_visual_tokens(budget), [question], max_new_tokens=4)[0].text
        for budget in BUDGETS
    ]
    assert row.answers == tuple(found)


def test_records_without_an_answer_or_an_image_are_skipped(backbone, tmp_path):
    given = records()
    given[0] = replace(given[0], answers=())
    given[1] = replace(given[1], images=(b"no image",))
    summary = answer_ladders(backbone, given, tmp_path, BUDGETS, **SIZES)
    found = {skipped.index: skipped.status for skipped in summary.skipped}
    assert found == {0: LadderStatus.NO_ANSWER, 1: LadderStatus.UNREADABLE}
    assert [row.id for row in LadderDataset(tmp_path)] == ["r2", "r3"]


@pytest.mark.parametrize("answer", ["", " ", "?!"])
def test_an_answer_that_says_nothing_verifies_nothing(answer, backbone, tmp_path):
    given = records()[:2]
    given[1] = replace(given[1], answers=(answer,))
    summary = answer_ladders(backbone, given, tmp_path, BUDGETS, **SIZES)
    assert [(one.index, one.status) for one in summary.skipped] == [(1, LadderStatus.NO_ANSWER)]


def test_every_accepted_answer_is_compared_with(backbone, tmp_path):
    given = [replace(one, answers=("?!", "red", "dark red")) for one in records(1)]
    answer_ladders(backbone, given, tmp_path, BUDGETS, **SIZES)
    (row,) = LadderDataset(tmp_path)
    assert row.truths == ("red", "dark red")
    (ladder,) = LadderDataset(tmp_path).ladders()
    assert list(ladder.truths) == ["red", "dark red"]


def test_an_interrupted_run_is_finished_without_loss_or_repetition(backbone, tmp_path):
    given = records(5)
    answer_ladders(backbone, Source(given), tmp_path / "whole", BUDGETS, **SIZES)
    with pytest.raises(KeyboardInterrupt):
        answer_ladders(backbone, Source(given, 3), tmp_path / "again", BUDGETS, **SIZES)
    rest = Source(given)
    answer_ladders(backbone, rest, tmp_path / "again", BUDGETS, **SIZES)
    assert sorted(rest.read) == [2, 3, 4]
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def test_other_budgets_do_not_continue_a_run(backbone, tmp_path):
    answer_ladders(backbone, records(1), tmp_path, BUDGETS, **SIZES)
    with pytest.raises(ShardError, match="resolutions"):
        answer_ladders(backbone, records(1), tmp_path, BUDGETS[1:], **SIZES)


@pytest.mark.parametrize("budgets", [(4, 9), (9, 4, 16), (4, 4, 9), (0, 4, 9)])
def test_what_is_no_ladder_is_refused(backbone, tmp_path, budgets):
    with pytest.raises(ConfigError, match="3 or more ascending budgets"):
        answer_ladders(backbone, records(1), tmp_path, budgets, **SIZES)


def test_a_family_of_fixed_resolution_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="resolution is fixed"):
        answer_ladders(tiny_llava(), records(1), tmp_path, BUDGETS, **SIZES)
    assert not any(tmp_path.iterdir())
