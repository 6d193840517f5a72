"""What the demo does with a question, without a browser."""

from __future__ import annotations

import io

import pytest

from sdrpn_core import (
    ConfigError,
    ImageError,
    InputError,
    RoIModel,
    answer,
    open_image,
    read_records,
)
from sdrpn_demo.session import ask
from sdrpn_glyphs import rpn_dir

LIMITS = {"max_new_tokens": 4, "max_pixels": 10**6, "max_bytes": 10**6}


@pytest.fixture(scope="module")
def model():
    return RoIModel.from_pretrained(rpn_dir("llava"))


@pytest.fixture(scope="module")
def record():
    return read_records("glyphs/small", n=1)[0]


@pytest.fixture(scope="module")
def png(record):
    buffer = io.BytesIO()
    open_image(record.images[0]).save(buffer, format="PNG")
    return buffer.getvalue()


def test_both_answers_are_those_of_the_library(model, record, png):
    *growing, last = ask(model, png, record.question, **LIMITS)
    plain = answer(model.backbone, png, record.question, max_new_tokens=4)
    found = model.answer(png, record.question, max_new_tokens=4)
    assert (last.plain, last.found) == (plain.text, found.text)
    assert last.facts["boxes"] == [list(box) for box in found.boxes]
    assert last.facts["outcome"] == "ok"
    sizes = [(x1 - x0, y1 - y0) for x0, y0, x1, y1 in found.boxes]
    assert [one.size for one in last.crops] == sizes
    assert set(last.facts["seconds"]["region"]) == set(found.seconds)
    assert any(one.overlay is None and one.plain and not one.found for one in growing)


def test_the_threshold_is_used(model, record, png):
    *_, last = ask(model, png, record.question, threshold=0.9, **LIMITS)
    strict = model.with_policy(policy_options={"threshold": 0.9}).propose(png, record.question)
    default = model.propose(png, record.question)
    assert last.facts["boxes"] == [list(box) for box in strict[0].boxes]
    assert strict[0].boxes != default[0].boxes
    assert default[0].boxes


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"source": b"broken"}, ImageError),
        ({"source": None}, ImageError),
        ({"question": " "}, InputError),
        ({"threshold": -1.0}, ConfigError),
        ({"max_pixels": 4}, ImageError),
        ({"max_bytes": 4}, ImageError),
    ],
)
def test_what_cannot_be_asked_is_said(model, record, png, changes, error):
    given = {"source": png, "question": record.question, **LIMITS, **changes}
    with pytest.raises(error):
        list(ask(model, given.pop("source"), given.pop("question"), **given))
