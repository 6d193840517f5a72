"""The metrics: equal to lmms-eval's on a table of pairs, and strict where they are our own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdrpn_bench.metrics.anls import ANLS
from sdrpn_bench.metrics.edit_distance import edit_distance
from sdrpn_bench.metrics.exact_match import ExactMatch, normalize
from sdrpn_bench.metrics.multiple_choice import MultipleChoice, chosen_letter
from sdrpn_bench.metrics.relaxed_accuracy import RelaxedAccuracy
from sdrpn_bench.metrics.vqa_accuracy import vqa_accuracy
from sdrpn_bench.metrics.yes_no import YesNo
from sdrpn_bench.scoring import find_metric, score
from sdrpn_core.data.record import Record
from sdrpn_core.errors import ConfigError, InputError
from sdrpn_core.plugins.manager import get_plugins
from tests.peers.metric_pairs import GENERATORS
from tests.peers.metric_table import read_table

NAMES = [*GENERATORS, "exact_match"]


def record(*answers, **columns):
    return Record("7", (), "q", answers=answers, **columns)


@pytest.mark.parametrize("name", GENERATORS)
def test_scores_are_those_of_lmms_eval(name):
    """What their functions gave; `make peers` asks them again, about more pairs."""
    rows = [(pair, expected) for pair, expected in read_table() if pair.metric == name]
    assert len(rows) >= 60
    metric = find_metric(name, [])
    for pair, expected in rows:
        metric.check(pair.record)
        found = score(metric, pair.prediction, pair.record)
        assert found == pytest.approx(expected, abs=1e-12), pair


def test_all_metrics_are_registered_with_a_line_of_help():
    entries = {entry.name: entry for entry in get_plugins().metrics.entries()}
    assert {*NAMES, "glyphs_answer"} <= entries.keys()
    for name in NAMES:
        assert entries[name].help
        assert get_plugins().metrics.get(name).name == name


@pytest.mark.parametrize("name", NAMES)
def test_a_record_without_an_answer_cannot_be_scored(name):
    with pytest.raises(InputError, match=rf"'7' has no answer, which '{name}' needs"):
        find_metric(name, []).check(record())


SAME = [
    ("Red.", "red"),
    ("  red   blue\n", "Red, blue!"),
    ("ＲＥＤ", "red"),  # full-width letters
    ("STRASSE", "straße"),
    ("3.5", "3.5"),
    ("?", "?"),
    ("\u22125", "-5"),  # U+2212, the minus sign
    ("\u20135", "-5"),
    ('"Highway 61"', "Highway 61"),
    ("“red”", "'red'"),
    ("(B)", "b"),
    ("**Red**", "red"),
    ("5.", "5"),
    ("½", "1/2"),
    ("10 %.", "10 %"),
    ("don’t", "don't"),
]
DIFFERENT = [
    ("3.5", "35"),
    ("red", "reddish"),
    ("", "red"),
    ("+", "-"),
    ("-5", "5"),
    ("\u22125", "5"),
    ("+5", "5"),
    ("10%", "10"),
    ("C++", "C"),
    ("C#", "C"),
    ("A+", "A"),
    ("A+", "A-"),
    ("A*", "A"),
    ("$5", "5"),
    ("€5", "$5"),
    (".5", "5"),
    ("5'", "5"),
    ('6"', "6"),
    ("5°", "5"),
    ("<5", "5"),
    ("~5", "5"),
    ("#1", "1"),
    ("5²", "52"),
    ("H₂O", "H20"),
    ("5½", "51/2"),
    ("1,000", "1000"),
]


@pytest.mark.parametrize(("prediction", "answer"), SAME)
def test_exact_match_ignores_how_it_is_typed(prediction, answer):
    assert ExactMatch().score(prediction, record(answer)) == 1
    assert ExactMatch().score(answer, record("other", prediction)) == 1


@pytest.mark.parametrize(("prediction", "answer"), DIFFERENT)
def test_exact_match_keeps_what_is_meant(prediction, answer):
    assert ExactMatch().score(prediction, record(answer)) == 0
    assert ExactMatch().score(answer, record(prediction)) == 0


@given(st.text(max_size=40))
def test_normalizing_twice_changes_nothing(text):
    assert normalize(normalize(text)) == normalize(text)


@given(st.text(max_size=40))
def test_case_and_outer_space_never_matter(text):
    assert normalize(f"  {text}\t") == normalize(text)


@pytest.mark.parametrize(
    ("agreeing", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)]
)
def test_vqa_accuracy_of_ten_annotators(agreeing, expected):
    """By the definition: min(1, agreeing of nine / 3), averaged over the one who is left out."""
    answers = ["red"] * agreeing + ["blue"] * (10 - agreeing)
    assert vqa_accuracy("Red!", answers) == pytest.approx(expected)


def test_vqa_accuracy_needs_annotators():
    metric = find_metric("vqa_accuracy", [])
    metric.check(record(*["red"] * 4))
    with pytest.raises(InputError, match="at least 4 annotators, not 3"):
        metric.check(record(*["red"] * 3))


@given(st.text(max_size=8), st.text(max_size=8), st.text(max_size=8))
def test_edit_distance_is_one(a, b, c):
    assert edit_distance(a, b) == edit_distance(b, a) >= abs(len(a) - len(b))
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [("kitten", "sitting", 3), ("saturday", "sunday", 3), ("", "abc", 3), ("flaw", "lawn", 2)],
)
def test_edit_distance_known_values(first, second, expected):
    assert edit_distance(first, second) == expected


def test_anls_threshold():
    assert ANLS().score("readed", record("reader")) == pytest.approx(5 / 6)
    assert ANLS().score("abxx", record("abcd")) == 0.5  # as lmms-eval; by the definition 0
    assert ANLS(0.51).score("abxx", record("abcd")) == 0
    with pytest.raises(ConfigError, match="between 0 and 1"):
        ANLS(1.5)


def test_relaxed_accuracy_tolerance():
    assert RelaxedAccuracy().score("104", record("wrong", "100")) == 1
    assert RelaxedAccuracy(0.01).score("104", record("100")) == 0
    with pytest.raises(ConfigError, match="0 or more"):
        RelaxedAccuracy(-1)


def test_more_options_have_more_letters():
    six = ("a", "b", "c", "d", "e", "f")
    assert chosen_letter("F.") is None
    assert chosen_letter("F.", 6) == "F"
    assert MultipleChoice().score("(e)", record("E", options=six)) == 1
    assert MultipleChoice().score("E", record("A", options=six[:4])) == 0


def test_a_letter_that_is_part_of_a_word_chooses_nothing_if_so_wished():
    assert MultipleChoice().score("Blue", record("B")) == 1  # as lmms-eval
    strict = MultipleChoice(whole_words=True)
    assert strict.score("Blue", record("B")) == 0
    for text in ("B", "b.", "(B)", "The answer is B", "B: Blue"):
        assert strict.score(text, record("B")) == 1


@pytest.mark.parametrize(
    ("answers", "options"), [(["E"], "abcd"), (["AB"], ""), (["red"], ""), (["A", "B"], "abcd")]
)
def test_the_right_option_is_a_letter(answers, options):
    with pytest.raises(InputError, match=r"a letter from A to"):
        MultipleChoice().check(record(*answers, options=tuple(options)))


@pytest.mark.parametrize("answers", [["maybe"], ["yes", "no"]])
def test_the_right_word_is_yes_or_no(answers):
    with pytest.raises(InputError, match="is yes or no, not"):
        YesNo().check(record(*answers))


def test_a_first_sentence_says_yes_or_no_if_so_wished():
    for text, answer in [
        ("Yes, there is.", "yes"),
        ("No. There is a cat.", "no"),
        ("There is not a dog", "no"),
        ("A dog is there. No cat.", "yes"),
    ]:
        assert YesNo(first_sentence=True).score(text, record(answer)) == 1
        assert YesNo().score(text, record(answer)) == 0


def test_precision_recall_and_f1():
    found = YesNo().aggregate(
        {
            "true_positives": np.array([6.0, 0, 0]),
            "false_positives": np.array([2.0, 3, 0]),
            "false_negatives": np.array([4.0, 3, 0]),
        }
    )
    assert found["precision"].tolist() == [0.75, 0, 0]
    assert found["recall"].tolist() == [0.6, 0, 0]
    assert found["f1"].tolist() == pytest.approx([12 / 18, 0, 0])
