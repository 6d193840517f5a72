"""Images are prepared the same without the model, here and in other processes."""

from __future__ import annotations

import pickle

import pytest
import torch

from sdrpn_core.backbone.preprocessing import Preprocessor
from sdrpn_core.backbone.question import Question
from sdrpn_core.errors import ImageError, InputError
from tests.families import FAMILIES
from tests.tiny import tiny_image, tiny_llava

SIZES = ((60, 90), (200, 40), (57, 57))


@pytest.fixture(params=list(FAMILIES), scope="module")
def backbone(request, tmp_path_factory):
    from sdrpn_core import load_backbone

    folder = tmp_path_factory.mktemp(request.param)
    FAMILIES[request.param](folder)
    return load_backbone(folder)


def same(one, other):
    assert one.geometry == other.geometry
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        assert tensor.dtype == other.tensors[name].dtype
        assert torch.equal(tensor, other.tensors[name])


def test_inputs_are_those_of_the_backbone(backbone):
    alone = Preprocessor(backbone)
    data = pickle.dumps(alone)
    assert len(data) < sum(part.nbytes for part in backbone.model.parameters())
    sent = pickle.loads(data)  # noqa: S301 - as a worker gets it
    for seed, size in enumerate(SIZES):
        image = tiny_image(seed, size)
        expected = backbone.preprocess(image)
        same(alone(image), expected)
        same(sent(image), expected)


@torch.no_grad()
def test_prompts_are_those_of_the_images(backbone):
    questions = [
        Question("how many ?", tuple(tiny_image(seed, size) for seed, size in enumerate(SIZES))),
        Question("what is it ?"),
        Question("what color ?", (tiny_image(7),)),
    ]
    alone = Preprocessor(backbone)
    prepared = [alone.prepared(question) for question in questions]
    assert [len(one.inputs) for one in prepared] == [3, 0, 1]
    without = [Question(one.text, inputs=one.inputs) for one in prepared]
    for made in (prepared, without):
        for found, expected in zip(backbone.encode(made), backbone.encode(questions), strict=True):
            assert found.geometries == expected.geometries
            assert torch.equal(backbone.embed(found), backbone.embed(expected))


def test_inputs_get_the_dtype_of_the_model():
    backbone = tiny_llava()
    backbone.model.to(torch.bfloat16)
    item = Preprocessor(backbone)(tiny_image(0))
    assert item.tensors["pixel_values"].dtype == torch.bfloat16


def test_a_refused_image_is_refused_when_it_is_encoded(monkeypatch):
    backbone = tiny_llava()

    def refuse(image):
        raise ImageError("not this one")

    monkeypatch.setattr(backbone, "preprocess", refuse)
    question = Preprocessor(backbone).prepared(Question("what is it ?", (tiny_image(0),)))
    assert question.inputs == ()
    with pytest.raises(ImageError, match="not this one"):
        backbone.encode([question])


def test_inputs_are_counted_against_the_placeholders():
    backbone = tiny_llava()
    item = backbone.preprocess(tiny_image(0))
    with pytest.raises(InputError, match="1 image placeholders for 2 images"):
        backbone.encode_ids(
            [backbone.tokenize("what ?", 1)], [Question("what ?", inputs=(item, item))]
        )
