"""What the backbone is asked while it labels, and what is kept of it."""

from __future__ import annotations

import numpy as np
import pytest

from sdrpn_core.data.record import Record
from sdrpn_core.errors import ConfigError
from sdrpn_core.labeling.record_labeler import RecordLabeler
from sdrpn_core.labels.recipe import LabelRecipe
from tests.tiny import tiny_image, tiny_llava

PLAIN = LabelRecipe(grounding={3: (0, 1)}, sink={2: (3,)})
GROUNDING = LabelRecipe(
    grounding={3: (0, 1)},
    sink={2: (3,)},
    question_template="where : {question} left or right ?",
    drop_instruction="name one word.",
)


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava()


def labeled(backbone, recipe, question, response=None):
    record = Record(id="one", question=question, images=tiny_image(), response=response)
    labeler = RecordLabeler(backbone, recipe, max_new_tokens=5)
    (row,) = labeler.rows([labeler.prepare(0, record)])
    return row


def test_own_responses_follow_the_template_and_the_question_is_kept(backbone):
    question = "what color is it ? name one word."
    found = labeled(backbone, GROUNDING, question)
    spelled = labeled(backbone, PLAIN, "where : what color is it ? left or right ?")
    plain = labeled(backbone, PLAIN, question)
    assert found.question == question
    assert found.response_ids == spelled.response_ids
    assert np.array_equal(found.grounding, spelled.grounding)
    assert not np.array_equal(found.grounding, plain.grounding)


def test_given_responses_follow_the_question_as_it_is(backbone):
    question = "what color is it ?"
    found, plain = (
        labeled(backbone, recipe, question, "red square") for recipe in (GROUNDING, PLAIN)
    )
    assert np.array_equal(found.grounding, plain.grounding)
    assert np.array_equal(found.sink, plain.sink)


def test_braces_of_a_question_stay():
    assert (
        GROUNDING.labeling_question("is {x} {question} ?")
        == "where : is {x} {question} ? left or right ?"
    )


def test_the_template_survives_json():
    assert LabelRecipe.from_json(GROUNDING.to_json()) == GROUNDING


@pytest.mark.parametrize("template", ["where ?", "{question} {question}", ""])
def test_a_template_without_the_question_is_refused(template):
    with pytest.raises(ConfigError, match=r"question_template must hold .question. once"):
        LabelRecipe(grounding={0: (0,)}, question_template=template)
