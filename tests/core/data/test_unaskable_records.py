"""Texts that cannot be tokenized: a skipped record with a reason, in every command.

The placeholder of an image is text like any other.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from sdrpn_bench import run_benchmark
from sdrpn_bench.bench_model import BenchModel
from sdrpn_core import find_heads, load_backbone
from sdrpn_core.data.record import Record
from sdrpn_core.errors import InputError
from sdrpn_core.labeling.row import LabelStatus
from sdrpn_core.labeling.stage import label
from sdrpn_core.shards.image_cell import portable_image
from tests.families import FAMILIES
from tests.stage_data import RECIPE
from tests.tiny import tiny_image

N = 6
SIDE = 84
BAD = "what \ud800 ?"
#: Whatever the grid, it covers some cells and not all.
BOX = (2, 2, 24, 24)
HEADS = {"batch_size": 4, "max_new_tokens": 4, "progress": False}


@pytest.fixture(params=list(FAMILIES), scope="module")
def backbone(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    FAMILIES[request.param](folder)
    loaded = load_backbone(folder)
    # A random model may end its response before it begins, or utter the placeholder: other reasons
    # to skip a record.
    loaded.model.generation_config.eos_token_id = None
    loaded.model.generation_config.suppress_tokens = [loaded.image_token_id]
    return loaded


@pytest.fixture
def token(backbone) -> str:
    return backbone.tokenizer.convert_ids_to_tokens(backbone.image_token_id)


def make_records(answered: bool = True) -> list[Record]:
    return [
        Record(
            f"r{index}",
            tiny_image(index, (SIDE, SIDE)),
            "what color is the dot?",
            response="red dot" if answered else None,
            answers=("red",),
            boxes=(BOX,),
        )
        for index in range(N)
    ]


@pytest.mark.parametrize("answered", [True, False], ids=["given", "own"])
def test_heads_skips_them(backbone, answered):
    good = make_records(answered)
    long = {"response": "red dot " * 400} if answered else {"question": "what color ? " * 200}
    mixed = [
        good[0],
        replace(good[0], id="question", question=BAD),
        *good[1:4],
        replace(good[0], id="response", response=BAD),
        replace(good[0], id="long", **long),
        *good[4:],
    ]
    report = find_heads(backbone, mixed, **HEADS)
    assert report.n == N
    reasons = {record.id: record.reason for record in report.skipped}
    assert reasons.keys() == {"question", "response", "long"}
    assert "the question is not valid Unicode" in reasons["question"]
    assert "the response is not valid Unicode" in reasons["response"]
    assert "exceeds the context" in reasons["long"]
    assert report.recipe == find_heads(backbone, good, **HEADS).recipe


def test_heads_skips_an_own_response_with_the_placeholder(backbone, monkeypatch):
    """A model may generate it; the second pass could not read such a response again."""
    import sdrpn_core.head_finding.samples as samples

    generate = samples.generate
    first = []

    def spoil_one(*args, **options):
        responses = generate(*args, **options)
        if not first:
            first.append(responses[0])
            responses[0] = (backbone.image_token_id, *responses[0][1:])
        return responses

    monkeypatch.setattr(samples, "generate", spoil_one)
    report = find_heads(backbone, make_records(answered=False), **HEADS)
    assert report.n == N - 1
    ((skipped_id, reason),) = [(record.id, record.reason) for record in report.skipped]
    assert skipped_id == "r0"
    assert "placeholder" in reason


def test_label_skips_them(backbone, token, tmp_path):
    good = make_records()
    mixed = [
        replace(good[0], question=BAD),
        good[1],
        replace(good[2], response=BAD),
        replace(good[3], question=BAD, response=None),
        replace(good[4], question=f"what is {token} ?"),
        replace(good[5], response=f"the {token} dot"),
    ]
    summary = label(backbone, mixed, tmp_path, recipe=RECIPE, progress=False)
    assert summary.counts[LabelStatus.OK] == 3
    assert [(s.id, s.status) for s in summary.skipped] == [
        (name, LabelStatus.INVALID) for name in ("r0", "r2", "r3")
    ]
    for skipped, text in zip(summary.skipped, ("question", "response", "question"), strict=True):
        assert f"the {text} is not valid Unicode" in skipped.reason


def test_images_over_the_limit_are_skipped(backbone, tmp_path):
    encoded = [
        replace(record, images=portable_image(record.images[0])) for record in make_records()
    ]
    with pytest.raises(InputError, match=r"0 of 6 records .* is over the limit of 99 pixels"):
        find_heads(backbone, encoded, **HEADS, max_pixels=99)
    model = BenchModel(backbone, name="model")
    with pytest.raises(InputError, match=r"no item .* is over the limit of 99 pixels"):
        run_benchmark(model, ["baseline"], encoded, out=tmp_path, max_pixels=99)


def test_a_bad_row_in_front_does_not_speak_for_the_data(backbone, tmp_path):
    """What the methods need is looked for in a record that can be used."""
    first = Record("bad", None, "", problem="line 1: not a JSON object")
    model = BenchModel(backbone, name="model")
    results = run_benchmark(
        model, ["oracle"], [first, *make_records()], out=tmp_path, max_new_tokens=2
    )
    assert results["models"]["model"]["skipped"]["n"] == 1


def test_bench_skips_them(backbone, tmp_path):
    records = make_records()
    records[1] = replace(records[1], question=BAD)
    model = BenchModel(backbone, name="model")
    options = {"batch_size": 4, "max_new_tokens": 2}
    results = run_benchmark(model, ["baseline", "oracle"], records, out=tmp_path, **options)
    ((skipped),) = results["models"]["model"]["skipped"]["items"]
    assert skipped["id"] == "r1"
    assert "the question is not valid Unicode" in skipped["error"]
    for values in results["methods"].values():
        assert (values["n"], values["errors"]) == (N - 1, 0)
    assert "the question is not valid Unicode" in (tmp_path / "report.md").read_text()
