"""Labeling: what a row holds, which records are skipped, and that interruptions leave no trace."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pytest
from PIL import Image

from sdrpn_core.backbone.question import Question
from sdrpn_core.data.images import open_image
from sdrpn_core.data.record import Record, RecordSource
from sdrpn_core.errors import ConfigError, SdrpnError, ShardError
from sdrpn_core.labeling.row import LabelStatus
from sdrpn_core.labeling.run import LabelDataset
from sdrpn_core.labeling.stage import label
from sdrpn_core.taps.response_attention import (
    read_given_responses,
    read_own_responses,
    recipe_heads,
    recipe_maps,
)
from tests.stage_data import RECIPE, files, records
from tests.tiny import tiny_image, tiny_llava

SIZES = {"batch_size": 2, "shard_size": 3, "max_new_tokens": 4}
WHITE = Image.new("RGB", (56, 56), "white")


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava()


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


@pytest.fixture
def nan_for_white(backbone, monkeypatch) -> Iterator[None]:
    """Images that are white all over make the model compute NaN."""
    original = backbone.image_features

    def features(inputs):
        found = original(inputs)
        for item, tensor in zip(inputs, found, strict=True):
            pixels = item.tensors["pixel_values"]
            if bool((pixels.flatten(2).std(dim=2) == 0).all()):
                tensor.fill_(float("nan"))
        return found

    monkeypatch.setattr(backbone, "image_features", features)


@pytest.mark.parametrize("answered", [True, False], ids=["given responses", "generated responses"])
def test_rows_hold_what_the_taps_read(backbone, tmp_path, answered):
    given = records(3, answered=answered)
    label(backbone, given, tmp_path, recipe=RECIPE, **SIZES)
    rows = list(LabelDataset(tmp_path))
    assert [row.id for row in rows] == ["r0", "r1", "r2"]
    for record, row in zip(given, rows, strict=True):
        ids = backbone.tokenize_response(record.response) if answered else ()
        prompts = backbone.encode([Question(record.question, (record.images[0],), ids)])
        heads = recipe_heads(RECIPE)
        if answered:
            (reading,) = read_given_responses(backbone, prompts, heads)
            assert row.response == record.response
        else:
            (reading,) = read_own_responses(backbone, prompts, heads, max_new_tokens=4)
            assert row.response == backbone.tokenizer.decode(reading.response_ids).strip()
        grounding, sink = recipe_maps(RECIPE, reading.maps[0])
        assert row.response_ids == reading.response_ids
        np.testing.assert_allclose(row.grounding, grounding, atol=1e-6)
        np.testing.assert_allclose(row.sink, sink, atol=1e-6)
        assert row.geometry == prompts[0].images[0].geometry
        assert open_image(row.image).tobytes() == record.images[0].tobytes()


def test_the_next_batch_is_prepared_while_one_is_labeled(backbone, tmp_path, monkeypatch):
    """By another thread, which leaves nothing of it to the one that labels."""
    batch_size, n = 2, 6
    ready = threading.Semaphore(0)
    threads = []
    preprocess, encode = backbone.preprocess, backbone.image_features

    def watched_preprocess(image):
        found = preprocess(image)
        threads.append(threading.current_thread())
        ready.release()
        return found

    def watched_encode(inputs):
        if not encoded:
            # Those of this batch and, though nobody asked for them yet, those of the next.
            for _ in range(2 * batch_size):
                assert ready.acquire(timeout=30)
        encoded.append(len(inputs))
        return encode(inputs)

    encode_ids = backbone.encode_ids

    def watched_questions(ids, questions):
        assert not any(question.images for question in questions)  # only what is needed waits
        return encode_ids(ids, questions)

    monkeypatch.setattr(backbone, "preprocess", watched_preprocess)
    monkeypatch.setattr(backbone, "image_features", watched_encode)
    monkeypatch.setattr(backbone, "encode_ids", watched_questions)
    encoded: list[int] = []
    label(backbone, records(n), tmp_path, recipe=RECIPE, batch_size=batch_size, shard_size=n)
    assert encoded == [batch_size] * (n // batch_size)
    assert len(threads) == n
    assert threading.current_thread() not in threads
    assert [row.id for row in LabelDataset(tmp_path)] == [f"r{index}" for index in range(n)]


def test_a_recipe_without_sinks_stores_none(backbone, tmp_path):
    label(backbone, records(1), tmp_path, recipe=replace(RECIPE, sink={}))
    assert LabelDataset(tmp_path)[0].sink is None


def test_records_that_cannot_be_used_are_counted_and_spare_the_others(
    backbone, nan_for_white, tmp_path
):
    good = records(2)
    broken = [
        Record("bytes", b"no image", "what?"),
        Record("gone", tmp_path / "gone.png", "what?"),
        Record("blank", tiny_image(), "  "),
        Record("blind", None, "what?"),
        Record("two", (tiny_image(), tiny_image()), "what?"),
        Record("surrogate \udcd5", tiny_image(), "what is \ud800?"),
        Record("silent", tiny_image(), "what?", response=""),
        Record("nan", WHITE, "what?", response="red"),
        Record("long", tiny_image(), "what? " * 300, response="red"),
    ]
    mixed = [good[0], *broken, good[1]]
    summary = label(backbone, mixed, tmp_path / "a", recipe=RECIPE, batch_size=10)
    assert summary.counts == {
        LabelStatus.OK: 2,
        LabelStatus.UNREADABLE: 2,
        LabelStatus.INVALID: 5,
        LabelStatus.NO_RESPONSE: 1,
        LabelStatus.NAN_ATTENTION: 1,
    }
    names = [record.id.replace("\udcd5", "\\udcd5") for record in broken]
    assert [skipped.id for skipped in summary.skipped] == names
    assert all(skipped.reason for skipped in summary.skipped)
    assert "labeling takes records of one image, this one has 2" in summary.skipped[4].reason
    label(backbone, good, tmp_path / "b", recipe=RECIPE)
    for row, alone in zip(LabelDataset(tmp_path / "a"), LabelDataset(tmp_path / "b"), strict=True):
        assert row.response_ids == alone.response_ids
        np.testing.assert_allclose(row.grounding, alone.grounding, atol=1e-6)


def test_nan_while_generating_is_found_as_well(backbone, nan_for_white, tmp_path):
    mixed = [*records(1, answered=False), Record("nan", WHITE, "what?")]
    summary = label(backbone, mixed, tmp_path, recipe=RECIPE, **SIZES)
    assert [(s.id, s.status) for s in summary.skipped] == [("nan", LabelStatus.NAN_ATTENTION)]
    assert "layer" in summary.skipped[0].reason


def test_an_interrupted_run_continues_with_the_same_bytes(backbone, tmp_path):
    given = records(8)
    label(backbone, Source(given), tmp_path / "whole", recipe=RECIPE, **SIZES)
    with pytest.raises(KeyboardInterrupt):
        label(backbone, Source(given, stop_at=5), tmp_path / "cut", recipe=RECIPE, **SIZES)
    assert set(files(tmp_path / "cut")) == {
        "manifest.json",
        "labels-00000.parquet",
        "labels-00000.parquet.sha256",
    }
    rest = Source(given)
    summary = label(backbone, rest, tmp_path / "cut", recipe=RECIPE, **SIZES)
    assert rest.read == [3, 4, 5, 6, 7]
    assert summary.counts[LabelStatus.OK] == 8
    assert summary.missing_shards == 0
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("answered", [True, False], ids=["given responses", "generated responses"])
def test_an_interrupted_run_continues_with_another_batch_size(
    backbone, tmp_path, answered, batch_size
):
    given = records(8, answered=answered)
    label(backbone, given, tmp_path / "whole", recipe=RECIPE, **SIZES)
    with pytest.raises(KeyboardInterrupt):
        label(backbone, Source(given, stop_at=5), tmp_path / "cut", recipe=RECIPE, **SIZES)
    other = {**SIZES, "batch_size": batch_size}
    label(backbone, Source(given), tmp_path / "cut", recipe=RECIPE, **other)
    rows, wholes = LabelDataset(tmp_path / "cut"), LabelDataset(tmp_path / "whole")
    for row, whole in zip(rows, wholes, strict=True):
        assert (row.id, row.response_ids) == (whole.id, whole.response_ids)
        np.testing.assert_allclose(row.grounding, whole.grounding, rtol=0, atol=1e-6)
        np.testing.assert_allclose(row.sink, whole.sink, rtol=0, atol=1e-6)


def test_a_finished_run_is_not_made_again(backbone, tmp_path):
    label(backbone, Source(records(3)), tmp_path, recipe=RECIPE, **SIZES)
    again = Source(records(3))
    summary = label(backbone, again, tmp_path, recipe=RECIPE, **SIZES)
    assert summary.counts[LabelStatus.OK] == 3
    assert again.read == []


def test_a_run_with_other_settings_is_refused_unless_overwritten(backbone, tmp_path):
    label(backbone, records(3), tmp_path, recipe=RECIPE, **SIZES)
    other = replace(RECIPE, grounding={2: (0,)})
    with pytest.raises(ShardError, match=r"another label run.*recipe\.grounding"):
        label(backbone, records(3), tmp_path, recipe=other, **SIZES)
    with pytest.raises(ShardError, match="max_new_tokens is 4 there and 5 here"):
        label(backbone, records(3), tmp_path, recipe=RECIPE, **{**SIZES, "max_new_tokens": 5})
    label(backbone, records(3), tmp_path, recipe=other, overwrite=True, **SIZES)
    assert LabelDataset(tmp_path).manifest.provenance["recipe"] == other.to_dict()


def test_provenance_names_backbone_recipe_and_versions(backbone, tmp_path):
    label(backbone, records(1), tmp_path, recipe=RECIPE, **SIZES)
    provenance = LabelDataset(tmp_path).manifest.provenance
    assert provenance["backbone"]["name"] == "tiny-llava-0"
    assert provenance["recipe"] == RECIPE.to_dict()
    assert provenance["versions"]["torch"] == version("torch")
    assert provenance["compute"] == {
        "attn_implementation": "sdpa",
        "device": "cpu",
        "dtype": "float32",
        "max_new_tokens": 4,
        "max_pixels": 89_478_485,
    }


def test_a_full_disk_is_one_line_and_the_run_can_be_finished(backbone, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    label(backbone, records(2), tmp_path / "whole", recipe=RECIPE, **SIZES)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(SdrpnError, match="No space left on device"):
            label(backbone, records(2), tmp_path / "full", recipe=RECIPE, **SIZES)
    label(backbone, records(2), tmp_path / "full", recipe=RECIPE, **SIZES)
    assert files(tmp_path / "full") == files(tmp_path / "whole")


def test_bad_arguments_are_refused_before_anything_is_written(backbone, tmp_path):
    with pytest.raises(ConfigError, match="batch_size"):
        label(backbone, records(1), tmp_path / "out", recipe=RECIPE, batch_size=0)
    deep = replace(RECIPE, grounding={6: (0,)})
    with pytest.raises(ConfigError, match=r"grounding names layer 6, .* layers 0 to 5"):
        label(backbone, records(1), tmp_path / "out", recipe=deep)
    assert not (tmp_path / "out").exists()


def test_a_backbone_without_preset_needs_a_recipe(backbone, tmp_path):
    with pytest.raises(ConfigError, match="pass a recipe"):
        label(backbone, records(1), tmp_path)
