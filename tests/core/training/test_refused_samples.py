"""Records that the backbone refuses while an RPN is trained: named, counted, and no harm done."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from sdrpn_core import load_backbone
from sdrpn_core.data.read import read_records
from sdrpn_core.errors import ImageError, SdrpnError
from sdrpn_core.labeling.run import LabelDataset
from sdrpn_core.labeling.stage import label
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_core.shards.image_cell import portable_image
from sdrpn_core.training.settings import TrainingSettings
from sdrpn_core.training.sources import answered_records, stored_labels
from sdrpn_core.training.stage import train
from tests.families import FAMILIES
from tests.stage_data import RECIPE, SAME_UP_TO_LAST_BITS, records
from tests.tiny import tiny_llava

CONFIG = RPNConfig(branch=2, n_layers=2)
#: One step per epoch: what else is in the data does not change which samples share a step. Plain
#: descent: Adam divides by the gradient's own size, which makes last bits of it into whole steps.
ONE_STEP = TrainingSettings(
    optimizer="sgd",
    learning_rate=1.0,
    epochs=2,
    global_batch_size=16,
    micro_batch_size=3,
    log_every=1,
)
N = 4
REFUSED = (61, 47)
TOO_LONG = "red dot " * 400


@pytest.fixture(params=list(FAMILIES), scope="module")
def backbone(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    FAMILIES[request.param](folder)
    return load_backbone(folder)


@pytest.fixture
def strict(backbone, monkeypatch):
    """Call it, and the backbone refuses images of one size."""

    def make_strict():
        original = backbone.preprocess

        def preprocess(image):
            if image.size == REFUSED:
                raise ImageError("an image of 61x47 pixels is refused")
            return original(image)

        monkeypatch.setattr(backbone, "preprocess", preprocess)

    return make_strict


def refused_record(record):
    return replace(record, id="refused", images=Image.new("RGB", REFUSED))


def reasons(caplog) -> dict[str, str]:
    """Why each record was skipped, by id, from the log."""
    found = {}
    for entry in caplog.records:
        if entry.levelno == logging.WARNING and "is skipped" in entry.msg:
            record_id, reason = entry.args
            found[record_id] = reason
    return found


def assert_same(found, expected) -> None:
    a, b = (load_file(folder / "rpn" / "model.safetensors") for folder in (found, expected))
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], **SAME_UP_TO_LAST_BITS)


def test_images_over_the_limit_are_left_out(tmp_path):
    """The limit is a setting: of labels while training, and of stored ones."""
    backbone = tiny_llava()
    settings = replace(ONE_STEP, max_pixels=99)
    labels = tmp_path / "labels"
    encoded = [replace(record, images=portable_image(record.images[0])) for record in records(1)]
    label(backbone, encoded, labels, recipe=RECIPE, progress=False)
    answered = answered_records(backbone, read_records(encoded), 2, settings, RECIPE)
    stored = stored_labels(backbone, LabelDataset(labels), 2, settings)
    for source in (answered, stored):
        assert "is over the limit of 99 pixels" in source.samples[0].reason


@pytest.mark.parametrize("cached", [False, True], ids=["plain", "cached"])
def test_records_that_the_backbone_refuses_are_left_out(backbone, strict, tmp_path, caplog, cached):
    good = records(N)
    train(backbone, good, tmp_path / "good", ONE_STEP, CONFIG, recipe=RECIPE, progress=False)

    strict()
    bad = [
        refused_record(good[0]),
        replace(good[0], id="question", question="what is \ud800 ?"),
        replace(good[0], id="response", response="red \ud800 dot"),
        replace(good[0], id="long", response=TOO_LONG),
    ]
    mixed = [bad[0], good[0], bad[1], *good[1:3], *bad[2:], good[3]]
    options = {"feature_cache": tmp_path / "cache"} if cached else {}
    result = train(
        backbone, mixed, tmp_path / "mixed", ONE_STEP, CONFIG, recipe=RECIPE, progress=False,
        **options,
    )  # fmt: skip
    epochs = ONE_STEP.epochs
    assert (result.samples, result.skipped) == (N * epochs, len(bad) * epochs)
    found = reasons(caplog)
    assert found.keys() == {record.id for record in bad}
    assert found["refused"] == "an image of 61x47 pixels is refused"
    assert "the question is not valid Unicode" in found["question"]
    assert "the response is not valid Unicode" in found["response"]
    assert "exceeds the context of" in found["long"]
    assert_same(tmp_path / "mixed", tmp_path / "good")


@pytest.mark.parametrize("cached", [False, True], ids=["plain", "cached"])
def test_a_labeled_image_that_is_refused_later_is_left_out(
    backbone, strict, tmp_path, caplog, cached
):
    """As after an update of the adapter or of the processor's limits."""
    good = records(N)
    label(backbone, good, tmp_path / "good-labels", recipe=RECIPE, progress=False)
    mixed = [*good[:2], refused_record(good[0]), *good[2:]]
    label(backbone, mixed, tmp_path / "labels", recipe=RECIPE, progress=False)
    train(backbone, tmp_path / "good-labels", tmp_path / "good", ONE_STEP, CONFIG, progress=False)

    strict()
    options = {"feature_cache": tmp_path / "cache"} if cached else {}
    result = train(
        backbone, tmp_path / "labels", tmp_path / "mixed", ONE_STEP, CONFIG, progress=False,
        **options,
    )  # fmt: skip
    assert (result.samples, result.skipped) == (N * ONE_STEP.epochs, ONE_STEP.epochs)
    assert reasons(caplog) == {"refused": "an image of 61x47 pixels is refused"}
    assert_same(tmp_path / "mixed", tmp_path / "good")


def test_a_run_in_which_every_record_is_refused_ends_with_an_error(
    backbone, strict, tmp_path, caplog
):
    strict()
    refused = [replace(refused_record(record), id=record.id) for record in records(3)]
    with pytest.raises(SdrpnError, match=r"none of the first 6 samples .* \(6 could not be used\)"):
        train(backbone, refused, tmp_path / "run", ONE_STEP, CONFIG, recipe=RECIPE, progress=False)
    assert reasons(caplog).keys() == {"r0", "r1", "r2"}
    assert not (tmp_path / "run" / "rpn").exists()


def test_attention_that_is_nan_is_left_out_as_in_labeling(tmp_path, caplog, monkeypatch):
    backbone = tiny_llava()
    features = backbone.image_features

    def nan_for_one(inputs):
        return [
            torch.full_like(found, float("nan")) if item.geometry.source_size == REFUSED else found
            for item, found in zip(inputs, features(inputs), strict=True)
        ]

    monkeypatch.setattr(backbone, "image_features", nan_for_one)
    good = records(N)
    mixed = [good[0], refused_record(good[0]), *good[1:]]
    for name, data in (("good", good), ("mixed", mixed)):
        result = train(
            backbone, data, tmp_path / name, ONE_STEP, CONFIG, recipe=RECIPE, progress=False
        )
    assert (result.samples, result.skipped) == (N * ONE_STEP.epochs, ONE_STEP.epochs)
    assert reasons(caplog).keys() == {"refused"}
    assert "NaN or infinite" in reasons(caplog)["refused"]
    assert_same(tmp_path / "mixed", tmp_path / "good")
