"""Columns as other tools and benchmarks have them: options, images in every form, conversations."""

from __future__ import annotations

import base64
import http.server
import io
import json
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sdrpn_core.data.images import open_image
from sdrpn_core.data.read import read_records
from sdrpn_core.errors import ConfigError, InputError, UnknownNameError
from tests.core.data.test_records import png, questions, write_jsonl

RED, BLUE = png("red"), png("blue")
BASE64 = base64.b64encode(RED).decode()
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(folder: Path, kind: str, rows: list[dict[str, Any]]) -> Path:
    """The rows in a file of one of the kinds."""
    path = folder / f"data.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "json":
        path.write_text(json.dumps(rows))
    else:
        write_jsonl(path, rows)
    return path


every_kind = pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])


@every_kind
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a.png", ["a.png"]),
        ("/9j/is/a/path.jpg", ["/9j/is/a/path.jpg"]),
        ("images/" + 64 * "x", ["images/" + 64 * "x"]),
        (BASE64, [RED]),
        (f"data:image/png;base64,{BASE64}", [RED]),
        ({"bytes": None, "path": "a.png"}, ["a.png"]),
        (["a.png", "b.png"], ["a.png", "b.png"]),
        ([BASE64, "b.png"], [RED, "b.png"]),
        ([{"bytes": None, "path": "a.png"}], ["a.png"]),
        ([], []),
    ],
    ids=["path", "path like base64", "long path", "base64", "data URI", "struct", "paths", "mixed",
         "structs", "none"],
)  # fmt: skip
def test_images_in_every_form(tmp_path, kind, value, expected):
    rows = [{"question": "q", "image": value}, {"question": "q", "image": value}]
    (record, _) = read_records(write(tmp_path, kind, rows))
    images = [tmp_path / one if isinstance(one, str) else one for one in expected]
    assert (record.problem, list(record.images)) == (None, images)
    elsewhere = read_records(tmp_path / f"data.{kind}", image_root=tmp_path / "images")[0]
    roots = [tmp_path / "images" / one if isinstance(one, str) else one for one in expected]
    assert list(elsewhere.images) == roots


def test_lists_of_structs_as_the_datasets_library_writes_them(tmp_path):
    cells = [[{"bytes": RED, "path": "r"}], [{"bytes": RED, "path": "r"}, {"bytes": BLUE}]]
    table = pa.table({"question": ["q", "q"], "images": pa.array(cells, pa.list_(STRUCT))})
    pq.write_table(table, tmp_path / "a.parquet")
    assert [r.images for r in read_records(tmp_path / "a.parquet")] == [(RED,), (RED, BLUE)]


@every_kind
def test_damaged_base64_is_the_record_s_problem(tmp_path, kind):
    rows = [{"question": "q", "image": f"{BASE64[:-8]}*{BASE64[-7:]}"}]
    (record,) = read_records(write(tmp_path, kind, rows))
    assert f"data.{kind}: " in record.problem
    assert "'image' is not valid base64" in record.problem


class _Images(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/a.png" else 404)
        self.end_headers()
        self.wfile.write(RED)

    def log_message(self, *args):
        """Say nothing."""


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Images) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


@every_kind
def test_urls_are_downloaded_only_when_asked(tmp_path, kind, server):
    rows = [{"question": "q", "image": f"{server}/{name}.png"} for name in ("a", "b")]
    path = write(tmp_path, kind, rows)
    if kind == "parquet":  # whose images are looked at when they are read
        refused = read_records(path)[0].problem
    else:
        with pytest.raises(InputError, match="none of 2 records can be used") as caught:
            read_records(path)
        refused = str(caught.value)
    assert "the image is a URL, 'http://127.0.0.1" in refused
    assert "give --allow-urls" in refused
    found, gone = read_records(path, allow_urls=True)
    assert found.images == (RED,)
    assert "/b.png' cannot be downloaded: HTTP Error 404" in gone.problem


@every_kind
def test_columns_of_other_names(tmp_path, kind):
    rows = [
        {"query": "q?", "img": "a.png", "label": ["x", "y"], "A": "cat", "B": "dog", "kind": "k"}
    ]
    names = {"question": "query", "images": "img", "answers": "label", "category": "kind"}
    (record,) = read_records(write(tmp_path, kind, rows), columns=names)
    assert (record.question, record.answers, record.category) == ("q?", ("x", "y"), "k")
    assert record.images == (tmp_path / "a.png",)
    assert record.extra == {"A": "cat", "B": "dog"}
    with pytest.raises(UnknownNameError, match="'quest': did you mean 'question'"):
        read_records(tmp_path / f"data.{kind}", columns={"quest": "query"})
    with pytest.raises(InputError, match="column 'nothing' is missing"):
        read_records(tmp_path / f"data.{kind}", columns={**names, "boxes": "nothing"})


@every_kind
def test_options_have_letters(tmp_path, kind):
    base = {"question": "q", "image": "a.png"}
    options = ["red", "blue", "3"]
    rows = [{**base, "options": options, "answer": one} for one in ("b", "blue", "C", "3")]
    records = read_records(write(tmp_path, kind, rows))
    assert [record.answer for record in records] == ["B", "B", "C", "C"]
    assert records[0].options == ("red", "blue", "3")
    rows = [{**base, "options": ["red", "blue"], "answer": one} for one in (0, 1, 2)]
    first, second, third = read_records(write(tmp_path, kind, rows))
    assert (first.answer, second.answer) == ("A", "B")
    assert "answer '2' is none of the options" in third.problem
    rows = [{**base, "options": ["B", "A"], "answer": "A"}, {**base, "options": None}]
    assert "answer 'A' means several of the options" in (
        read_records(write(tmp_path, kind, rows))[0].problem
    )


@every_kind
def test_options_in_columns_named_by_letters(tmp_path, kind):
    base = {"question": "q", "image": "a.png"}
    rows = [
        {**base, "A": "B", "B": "A", "C": "C", "answer": "A"},
        {**base, "A": "x", "B": "y", "C": None, "answer": "B"},
        {**base, "A": "x", "B": None, "C": "z", "answer": "C"},
    ]
    records = read_records(write(tmp_path, kind, rows), columns={"options": "A,B,C"})
    assert [record.options for record in records] == [("B", "A", "C"), ("x", "y"), ()]
    assert [record.answer for record in records] == ["A", "B", None]
    assert "option B is missing" in records[2].problem


def test_answers_in_the_forms_of_vqa_sets(tmp_path):
    rows = [
        {"answers": [{"answer": "net", "answer_id": 1}, {"answer": "nets", "answer_id": 2}]},
        {"answers": {"text": ["a", "b"], "answer_start": [0, 3]}},
        {"answers": [3, "three"], "answer": "three"},
    ]
    rows = [{"question": "q", "image": "a.png", **row} for row in rows]
    found = [record.answers for record in read_records(write(tmp_path, "jsonl", rows))]
    assert found == [("net", "nets"), ("a", "b"), ("3", "three")]


CONVERSATION = [
    {"from": "human", "value": "<image>\nWhat color is the bus?"},
    {"from": "gpt", "value": "White and red."},
    {"from": "human", "value": "How many people?"},
    {"from": "gpt", "value": "Two."},
]


@every_kind
def test_every_turn_of_a_conversation_is_a_question(tmp_path, kind):
    rows = [
        {"id": "33471", "image": "coco/a.jpg", "conversations": CONVERSATION},
        {"id": "33472", "image": "coco/b.jpg", "conversations": CONVERSATION[:2]},
        {"id": "33473", "image": "coco/c.jpg", "conversations": CONVERSATION[1:2]},
    ]
    records = read_records(write(tmp_path, kind, rows))
    assert [record.id for record in records] == ["33471/0", "33471/1", "33472", "33473"]
    assert [one.question for one in records[:3]] == [
        "What color is the bus?", "How many people?", "What color is the bus?",
    ]  # fmt: skip
    assert [one.response for one in records[:2]] == ["White and red.", "Two."]
    assert records[1].answers == ("Two.",)
    assert records[1].images == (tmp_path / "coco" / "a.jpg",)
    assert "a response without a question" in records[3].problem
    assert [one.id for one in records.outlines()] == [one.id for one in records]


def test_json_holds_one_list_of_objects(tmp_path):
    path = tmp_path / "a.json"
    row = {"question": "q", "image": "a.png"}
    path.write_text(json.dumps({"version": 1, "data": [row, 3]}))
    first, second = read_records(path)
    assert first.images == (tmp_path / "a.png",)
    assert second.problem == f"{path}: row 1: not a JSON object but int"
    for text, message in {
        '{"a": [], "b": []}': "must hold a list of objects, not dict",
        "[": "not JSON",
        "[]": "holds no records",
    }.items():
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_records(path)


def test_columns_that_look_meant_are_named_once(tmp_path, caplog):
    rows = [{"question": "q", "image": "a.png", "bbox": [1, 2, 3, 4], "choices": ["x"]}] * 3
    for row in rows:
        row.pop("id", None)
    read_records(write_jsonl(tmp_path / "a.jsonl", rows))
    (message,) = caplog.messages
    assert "bbox (--column boxes=bbox)" in message
    assert "choices (--column options=choices)" in message
    caplog.clear()
    named = read_records(
        tmp_path / "a.jsonl", columns={"boxes": "bbox", "options": "choices", "id": ""}
    )
    assert caplog.messages == []
    assert named[0].boxes == ((1, 2, 3, 4),)
    write_jsonl(tmp_path / "b.jsonl", [{"query": "q", "image": "a.png"}])
    with pytest.raises(InputError, match="'question' is missing: --column question=query"):
        read_records(tmp_path / "b.jsonl")
    pq.write_table(pa.table({"text": ["q"], "image": ["a"]}), tmp_path / "c.parquet")
    with pytest.raises(InputError, match=r"'question' is missing .*: --column question=text"):
        read_records(tmp_path / "c.parquet")


def shards(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(questions(1, id=[f"{number}"]), path)
    return folder


def test_splits_are_chosen_and_never_mixed(tmp_path):
    folder = shards(
        tmp_path / "a",
        "data/test-00000-of-00001.parquet",
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
    )
    with pytest.raises(InputError, match=r"several splits \(test, train\): choose one"):
        read_records(folder)
    assert [one.id for one in read_records(folder, split="train")] == ["1", "2"]
    with pytest.raises(InputError, match=r"no split 'dev' \(splits: test, train\)"):
        read_records(folder, split="dev")
    for names in (("train/0.parquet", "test/0.parquet"), ("x.parquet", "validation.parquet")):
        with pytest.raises(InputError, match="choose one with --split"):
            read_records(shards(tmp_path / names[1].replace("/", "-"), *names))
    assert len(read_records(shards(tmp_path / "b", "0.parquet", "1.parquet"))) == 2
    # No split: a word that begins like one, and folders above.
    assert len(read_records(shards(tmp_path / "test" / "c", "trainers.parquet", "1.parquet"))) == 2
    both = shards(
        tmp_path / "d", "DocVQA/test-00000-of-00001.parquet", "Info/test-00000-of-00001.parquet"
    )
    with pytest.raises(InputError, match="several configurations: give the folder of one"):
        read_records(both)
    with pytest.raises(ConfigError, match="one file, which has no splits"):
        read_records(folder / "data" / "test-00000-of-00001.parquet", split="test")


def test_records_of_the_datasets_library(tmp_path):
    import datasets

    features = datasets.Features(
        question=datasets.Value("string"),
        images=datasets.List(datasets.Image()),
        answers=datasets.List(datasets.Value("string")),
    )
    rows = {
        "question": ["q0", "q1", "q2"],
        "images": [[{"bytes": RED}], [{"bytes": RED}, {"bytes": BLUE}], []],
        "answers": [["a"], ["b", "c"], []],
    }
    dataset = datasets.Dataset.from_dict(rows, features=features)
    records = read_records(dataset)
    assert [one.answers for one in records] == [("a",), ("b", "c"), ()]
    assert records[1].images == (RED, BLUE)
    assert open_image(records[1].images[1]).getpixel((0, 0)) == (0, 0, 255)
    assert [one.question for one in records.outlines()] == ["q0", "q1", "q2"]
    assert read_records(dataset, n=2, seed=1).fingerprint != records.fingerprint
    stream = dataset.to_iterable_dataset()
    assert [one.question for one in read_records(stream, n=2)] == ["q0", "q1"]
    with pytest.raises(InputError, match="has no length: give n"):
        read_records(stream)
    with pytest.raises(InputError, match="choose of train"):
        read_records(datasets.DatasetDict(train=dataset))
    with pytest.raises(InputError, match=r"column 'question' is missing .*: --column"):
        read_records(dataset.rename_column("question", "query"))


def test_a_sample_of_a_large_data_set_is_streamed(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    pq.write_table(questions(40), tmp_path / "test-00000-of-00001.parquet")
    where = f"hf:{tmp_path}:test"
    chosen = [one.question for one in read_records(where, n=5, seed=3)]
    assert chosen == [f"q{i}" for i in sorted(int(one[1:]) for one in chosen)]
    info = "download_size: 9000000000\n  dataset_size: 9000000000"
    splits = "splits:\n  - name: test\n    num_bytes: 9\n    num_examples: 40"
    features = (
        "features:\n  - name: question\n    dtype: string\n  - name: image\n    dtype: string"
    )
    (tmp_path / "README.md").write_text(
        f"---\ndataset_info:\n  {features}\n  {splits}\n  {info}\n---\n"
    )
    loads = []
    load = datasets.load_dataset
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *a, **k: loads.append(k.get("streaming")) or load(*a, **k)
    )
    assert [one.question for one in read_records(where, n=5, seed=3)] == chosen
    assert loads == [True]


def test_a_damaged_hub_file_is_one_line(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / "test-00000-of-00001.parquet"
    pq.write_table(questions(40), path)
    good = path.read_bytes()
    for damaged in (good[:-100] + bytes(100), good[:4] + bytes(100) + good[104:]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"^hf:.*:test: cannot be loaded: ") as caught:
            read_records(f"hf:{tmp_path}:test")
        assert "\n" not in str(caught.value)


def test_hub_names_are_spelled_in_one_way():
    for name in ("hf:", "hf:org/name", "hf:a:b:c:d", "hf:a::test"):
        with pytest.raises(InputError, match="write hf:ORG/NAME:SPLIT"):
            read_records(name)


def test_pillow_images_and_bytes_may_be_mixed():
    from sdrpn_core.data.record import Record

    image = Image.open(io.BytesIO(RED))
    record = Record("a", [image, RED, "x.png"], "q", answers="yes")
    assert record.images == (image, RED, Path("x.png"))
    assert (record.answers, record.answer) == (("yes",), "yes")
    assert (
        read_records([record]).fingerprint
        != read_records([Record("a", [image, BLUE, "x.png"], "q", answers="yes")]).fingerprint
    )
