from __future__ import annotations

import io
import json
import os
import pickle
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sdrpn_core.data.read import read_records
from sdrpn_core.data.record import Record, validate_record
from sdrpn_core.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from sdrpn_core.plugins.manager import Plugins

EXTRA = {"other": {"x": 1}}
ROWS = [
    {
        "id": "first",
        "image": "images/a.png",
        "question": "Which color?",
        "response": "red",
        "answer": "blue",
        "boxes": [[0, 0, 3, 4], [1, 1, 2, 2]],
    },
    {"image": "/absolute/b.png", "question": "How many?", "answer": 3, **EXTRA},
    {"id": 7, "image": None, "question": ""},
]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def png(color: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), color).save(buffer, "PNG")
    return buffer.getvalue()


def questions(n: int, **columns: list[Any]) -> pa.Table:
    base = {"question": [f"q{i}" for i in range(n)], "image": [f"{i}.png" for i in range(n)]}
    return pa.table({**base, **columns})


def test_jsonl_rows_become_records_with_paths_beside_the_file(tmp_path: Path):
    records = read_records(write_jsonl(tmp_path / "a.jsonl", ROWS))
    boxes = ((0, 0, 3, 4), (1, 1, 2, 2))
    image = tmp_path / "images" / "a.png"
    assert list(records) == [
        Record("first", image, "Which color?", "red", ("blue",), boxes=boxes),
        Record("00000001", Path("/absolute/b.png"), "How many?", answers=("3",), extra=EXTRA),
        Record("7", (), ""),
    ]
    assert records[-1] == records[2]
    assert records[1:] == [records[1], records[2]]
    with pytest.raises(IndexError):
        records[3]


def test_jsonl_ignores_blank_lines_and_a_byte_order_mark(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    lines = '{"image": "a", "question": "é"}\r\n\n  \n{"image": "b", "question": "ü"}'
    path.write_bytes(b"\xef\xbb\xbf" + lines.encode())
    records = read_records(str(path))
    assert [record.question for record in records] == ["é", "ü"]
    assert [record.id for record in records] == ["00000000", "00000001"]


GOOD = '{"image": "a.png", "question": "q"}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "a.png", "question": ', "not a JSON object"),
        ("[1]", "not a JSON object but list"),
        ('{"image": "a.png"}', "'question' is missing"),
        ('{"image": 3, "question": "q"}', "'image' must be a path, got int"),
        ('{"image": [["a.png", true]], "question": "q"}', "'image' must be a path, got bool"),
        ('{"image": "a\\udcd5.png", "question": "q"}', "'image' is not valid Unicode"),
        ('{"image": "a.png", "question": 3}', "'question' must be text, got int"),
        ('{"image": "a.png", "question": "q", "id": true}', "'id' must be text, got bool"),
        ('{"image": "a.png", "question": "q", "answer": NaN}', "'answer' must be text, got float"),
        ('{"image": "a.png", "question": "q", "answer": [["a", "b"]]}', "must be text, got list"),
        ('{"image": "a.png", "question": "\\ud800"}', "'question' is not valid Unicode"),
        ('{"image": "a.png", "question": "q", "boxes": [1, 2, 3]}', "four numbers of pixels"),
        ('{"image": "a.png", "question": "q", "boxes": [[0, 0, 1, 1e99]]}', "four numbers of pix"),
        ('{"image": "a.png", "question": "q", "boxes": [[0, 0, NaN, 2]]}', "four numbers of pixel"),
        ('{"image": "a.png", "question": "q", "boxes": [[3, 0, 3, 2]]}', "is empty"),
        ('{"image": "a.png", "question": "q", "boxes": "0 0 1 1"}', "must be a list of"),
        ('{"image": "a.png", "question": "q", "boxes": [0.1, 0, 0.5, 1]}', "relative to the image"),
        ("[" * 100_000, "not a JSON object"),
        (f'{{"image": "a.png", "question": ["{"x" * 3_000_000}"]}}', "must be text, got list"),
        ("\udce9", "not a JSON object: 'utf-8'"),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_bad_line_spoils_no_other(tmp_path: Path, line: str, message: str, place: int):
    path = tmp_path / "a.jsonl"
    lines = [GOOD, GOOD]
    lines.insert(place, line)
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
    records = read_records(path)
    assert [record.problem is None for record in records] == [i != place for i in range(3)]
    record = records[place]
    with pytest.raises(InputError) as caught:
        validate_record(record)
    assert str(caught.value) == record.problem
    assert record.problem.startswith(f"{path}: line {2 * place + 1}: ")
    assert message in record.problem
    assert record.problem.isprintable()
    assert len(record.problem) < 500
    # Where an image is missing is for the reader of the record to say.
    assert record.id == f"{place:08d}" or '"id"' in line


def test_a_file_without_a_usable_line_is_refused(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text("one\ntwo\n")
    with pytest.raises(InputError, match=r"none of 2 records .*; the first: .*line 1: not"):
        read_records(path)


def test_what_has_one_meaning_is_accepted(tmp_path: Path):
    rows = [
        {"question": "no image"},
        {"image": ["a.png"], "question": "q", "answer": ["red"]},
        {"image": "a.png", "question": "q", "answer": 3.5, "id": 7.0},
        {"image": "a.png", "question": "q", "answer": 3.0, "boxes": [1, 2, 3, 4]},
        {"image": "a.png", "question": "q", "boxes": [[0.5, 1.0, 2.1, 3.9], [-0.5, 0, 1, 1]]},
    ]
    records = read_records(write_jsonl(tmp_path / "a.jsonl", rows))
    assert [record.problem for record in records] == [None] * 5
    with pytest.raises(InputError, match="comes without an image"):
        validate_record(records[0])
    assert records[1].images[0] == tmp_path / "a.png"
    assert [record.answer for record in records] == [None, "red", "3.5", "3", None]
    assert records[2].id == "7"
    assert records[3].boxes == ((1, 2, 3, 4),)
    assert records[4].boxes == ((0, 1, 3, 4), (-1, 0, 1, 1))


@pytest.mark.parametrize("clash", ["00000000", "same"])
def test_a_repeated_id_names_both_lines(tmp_path: Path, clash: str):
    first = {} if clash == "00000000" else {"id": clash}
    rows = [first, {"id": "other"}, {"id": clash}]
    path = write_jsonl(tmp_path / "a.jsonl", [{"image": "a", "question": "q"} | r for r in rows])
    records = read_records(path)
    assert [record.problem is None for record in records] == [True, True, False]
    assert f"line 3: id '{clash}' is already used by line 1" in records[2].problem


def test_a_line_that_is_too_long_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sdrpn_core.data.jsonl.MAX_LINE_BYTES", 100)
    path = tmp_path / "a.jsonl"
    long = GOOD.replace("q", "q" * 500)
    path.write_text(f"{GOOD}\n{long}\n{GOOD}\n{long}")
    records = read_records(path)
    assert [record.problem is None for record in records] == [True, False, True, False]
    assert "line 2: longer than 100 B" in records[1].problem
    path.write_bytes(GOOD.encode() + b"\n" + bytes(1000))
    with pytest.raises(InputError, match="line 2: not text: not a JSONL file"):
        read_records(path)


def test_jsonl_that_vanishes_after_opening_is_an_input_error(tmp_path: Path):
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    records = read_records(path)
    path.unlink()
    with pytest.raises(InputError, match="cannot be read: No such file"):
        records[0]


STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([b"one", b"two"]), [b"one", b"two"]),
        (pa.array([b"one", None], pa.large_binary()), [b"one", None]),
        (pa.array(["a.png", "/b.png"]), ["a.png", "/b.png"]),
        (pa.array(["a.png", ""], pa.large_string()), ["a.png", None]),
        (
            pa.array(
                [{"bytes": b"one", "path": "a.png"}, {"bytes": None, "path": "b.png"}], STRUCT
            ),
            [b"one", "b.png"],
        ),
        (pa.array([None, {"bytes": None, "path": None}], STRUCT), [None, None]),
        (pa.nulls(2), [None, None]),
    ],
    ids=["bytes", "large-bytes", "path", "large-path", "struct", "empty-struct", "null"],
)
def test_parquet_images(tmp_path: Path, column: pa.Array, expected: list[Any]):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"question": ["q0", "q1"], "image": column}), path)
    images = [next(iter(record.images), None) for record in read_records(path)]
    assert images == [tmp_path / e if isinstance(e, str) else e for e in expected]


def test_parquet_written_by_the_datasets_library(tmp_path: Path):
    import datasets

    rows = {
        "question": ["q0", "q1"],
        "image": [Image.new("RGB", (4, 3), color) for color in ("red", "blue")],
        "boxes": [[[0, 0, 1, 2]], None],
    }
    features = datasets.Features(
        question=datasets.Value("string"),
        image=datasets.Image(),
        boxes=datasets.Sequence(datasets.Sequence(datasets.Value("int32"), length=4)),
    )
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    records = read_records(path)
    assert [record.boxes for record in records] == [((0, 0, 1, 2),), None]
    first = records[0].images[0]
    assert isinstance(first, bytes)
    assert Image.open(io.BytesIO(first)).getpixel((0, 0)) == (255, 0, 0)


def test_a_folder_of_parquet_files_is_read_in_the_order_of_names(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / ".cache").mkdir()
    pq.write_table(questions(3, id=["a", "b", "c"]), tmp_path / "data" / "0.parquet")
    pq.write_table(questions(2, id=["d", None]), tmp_path / "data" / "1.parquet")
    pq.write_table(questions(1, id=["hidden"]), tmp_path / ".cache" / "0.parquet")
    records = read_records(tmp_path)
    assert [record.id for record in records] == ["a", "b", "c", "d", "00000004"]
    assert records[3].images[0] == tmp_path / "data" / "0.png"


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=3).filter(any),
    group=st.integers(1, 50),
    order=st.lists(st.integers(min_value=0), max_size=12),
)
def test_parquet_rows_can_be_read_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], group: int, order: list[int]
):
    folder = tmp_path_factory.mktemp("parquet")
    start = 0
    for number, size in enumerate(sizes):
        names = [f"q{i}" for i in range(start, start + size)]
        table = pa.table(
            {
                "question": pa.array(names, pa.string()),
                "image": pa.array([b"x"] * size, pa.binary()),
            }
        )
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=group)
        start += size
    records = read_records(folder)
    assert len(records) == sum(sizes)
    for position in order:
        index = position % len(records)
        assert records[index].question == f"q{index}"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"image": ["a"]}), "column 'question' is missing (columns: image)"),
        (pa.table({"question": ["a"]}), "column 'image' is missing"),
        (questions(1, image=[3]), "column 'image' must hold paths, encoded bytes"),
        (questions(1, image=[{"url": "x"}]), "column 'image' must hold paths, encoded bytes"),
        (questions(2, question=[1, 2]), "row 0: 'question' must be text, got int"),
        (questions(2, boxes=[[[1, 2, 3]]] * 2), "row 0: a box must be four numbers of pixels"),
        (questions(0, question=pa.array([], pa.string())), "holds no records"),
    ],
)
def test_bad_parquet_is_named_when_it_is_opened(tmp_path: Path, table: pa.Table, message: str):
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    with pytest.raises(InputError) as caught:
        read_records(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


NOT_UTF_8 = pa.array([b"q", b"\xff\xfe"]).cast(pa.string(), safe=False)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (questions(2, boxes=[None, [[1, 2, 3]]]), "row 1: a box must be four numbers of pixels"),
        (questions(2, id=["x", "x"]), "record 1: id 'x' is already used by record 0"),
        (questions(2, question=NOT_UTF_8), "row 1: cannot be read: 'utf-8'"),
        (questions(2, image=NOT_UTF_8), "row 1: cannot be read: 'utf-8'"),
    ],
    ids=["boxes", "repeated", "not UTF-8", "path"],
)
def test_a_bad_row_spoils_no_other(tmp_path: Path, table: pa.Table, message: str):
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    records = read_records(path)
    first, second = records
    assert first.problem is None
    assert message in second.problem
    assert second.problem.startswith(str(path))
    assert list(records) == [first, second]


def test_parquet_rows_are_read_by_several_threads(tmp_path: Path):
    """As by the one of `answer_stream` and by its caller, who looks up what is expected."""
    n = 200
    names = [str(index) for index in range(n)]
    pq.write_table(questions(n, id=names), tmp_path / "a.parquet", row_group_size=40)
    source = read_records(tmp_path / "a.parquet")

    def ids(seed: int) -> bool:
        order = random.Random(seed).choices(range(n), k=300)
        return [source[index].id for index in order] == [names[index] for index in order]

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(ids, range(4)))


def test_a_truncated_parquet_file_is_one_line(tmp_path: Path):
    path = tmp_path / "a.parquet"
    pq.write_table(questions(20), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="cannot be read") as caught:
        read_records(path)
    assert "\n" not in str(caught.value)


def test_opening_parquet_does_not_read_the_images(tmp_path: Path):
    path = tmp_path / "a.parquet"
    rows, size = 40, 1 << 20
    table = questions(rows, image=pa.array([bytes([i]) * size for i in range(rows)]))
    pq.write_table(table, path, compression="none", use_dictionary=False)
    del table
    before = pa.total_allocated_bytes()
    records = read_records(path)
    assert pa.total_allocated_bytes() - before < size
    assert records[rows - 1].images[0] == bytes([rows - 1]) * size
    assert pa.total_allocated_bytes() - before < rows * size * 3 // 4


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_sources_travel_to_other_processes(tmp_path: Path, suffix: str):
    path = tmp_path / f"a.{suffix}"
    if suffix == "jsonl":
        write_jsonl(path, ROWS)
    else:
        pq.write_table(questions(3), path)
    records = read_records(path, n=2)
    first = records[0]  # opens what must not be sent
    copy = pickle.loads(pickle.dumps(records))  # noqa: S301 - made here
    assert list(copy) == list(records)
    assert copy[0] == first
    assert copy.fingerprint == records.fingerprint


def test_n_takes_a_growing_seeded_sample_in_order(tmp_path: Path):
    rows = [{"image": "a", "question": f"{i:03d}"} for i in range(50)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    few, more, other = (
        [r.question for r in read_records(path, n=n, seed=s)] for n, s in ((5, 1), (20, 1), (5, 2))
    )
    assert few == sorted(few)
    assert len(set(few)) == 5
    assert set(few) < set(more)
    assert few != other
    assert len(read_records(path, n=500)) == 50
    chosen = read_records(path, n=5, seed=1)[0]
    assert chosen.id == f"{int(chosen.question):08d}"  # its place in the file, not in the sample
    with pytest.raises(InputError, match="at least 1"):
        read_records(path, n=0)
    for n in ("3", 2.5):
        with pytest.raises(InputError, match=f"a whole number of at least 1, got {n!r}$"):
            read_records(path, n=n)


def test_fingerprint_follows_content_not_place(tmp_path: Path):
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    write_jsonl(tmp_path / "b.jsonl", ROWS)
    write_jsonl(tmp_path / "c.jsonl", [*ROWS[:2], ROWS[2] | {"question": "new"}])
    a, b, c = (read_records(tmp_path / f"{name}.jsonl").fingerprint for name in "abc")
    assert a == b
    assert a != c
    path = tmp_path / "a.jsonl"
    samples = {read_records(path, n=2, seed=seed).fingerprint for seed in (0, 1)}
    assert len(samples | {a}) == 3
    folders = []
    for name, answer in (("x", "1"), ("y", "1"), ("z", "2")):
        (tmp_path / name).mkdir()
        pq.write_table(questions(1, answer=[answer]), tmp_path / name / "0.parquet")
        folders.append(read_records(tmp_path / name).fingerprint)
    assert folders[0] == folders[1] != folders[2]


def toy(n: int | None, seed: int) -> list[Record]:
    color = (seed, 0, 0)
    return [Record(f"{i}", Image.new("RGB", (2, 2), color), f"q{i}") for i in range(n or 4)]


def test_a_registered_dataset_is_made_by_name(
    fresh_plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fresh_plugins.datasets.add("toy/small", toy)
    records = read_records("toy/small", n=3, seed=5)
    assert records.name == "toy/small"
    assert [record.id for record in records] == ["0", "1", "2"]
    assert records[0].images[0].getpixel((0, 0)) == (5, 0, 0)
    assert records.fingerprint == read_records("toy/small", n=3, seed=5).fingerprint
    assert records.fingerprint != read_records("toy/small", n=3, seed=6).fingerprint
    assert len(read_records("toy/small")) == 4

    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy" / "small").mkdir(parents=True)
    pq.write_table(questions(1), tmp_path / "toy" / "small" / "0.parquet")
    assert read_records("toy/small").name == "toy/small"
    assert len(read_records("toy/small")) == 4
    assert len(read_records("./toy/small")) == 1


def test_an_unknown_name_lists_the_near_ones(fresh_plugins: Plugins):
    fresh_plugins.datasets.add("toy/small", toy)
    with pytest.raises(UnknownNameError, match="unknown file, folder or dataset 'toy/smal'") as e:
        read_records("toy/smal")
    assert "did you mean 'toy/small'" in str(e.value)


def test_missing_and_foreign_files_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"a\.jsonl: no such file"):
        read_records(str(tmp_path / "a.jsonl"))
    with pytest.raises(InputError, match="no such file or folder"):
        read_records(tmp_path / "folder")
    with pytest.raises(InputError, match=r"holds no \.parquet files"):
        read_records(tmp_path)
    (tmp_path / "a.csv").write_text("image,question\n")
    with pytest.raises(InputError, match=r"cannot read a \.csv file: give one of \.jsonl"):
        read_records(str(tmp_path / "a.csv"))
    for name in ("pipe.jsonl", "pipe.parquet", "parts/pipe.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        os.mkfifo(tmp_path / name)
        with pytest.raises(InputError, match="not a regular file"):
            read_records((tmp_path / name).parent if "/" in name else tmp_path / name)
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(InputError, match="holds no records"):
        read_records(tmp_path / "a.jsonl")


def test_records_made_in_python(tmp_path: Path):
    given_records = [Record("a", png("red"), "q"), Record("b", str(tmp_path / "b.png"), "q")]
    records = read_records(given_records)
    assert list(records) == given_records
    assert records[1].images[0] == tmp_path / "b.png"
    assert read_records(records) is records
    repainted = [Record("a", png("blue"), "q"), given_records[1]]
    assert read_records(repainted).fingerprint != records.fingerprint
    with pytest.raises(InputError, match="record 1: id 'a' is already used by record 0"):
        read_records([given_records[0], given_records[0]])
    with pytest.raises(InputError, match="no records were given"):
        read_records([])
    with pytest.raises(InputError, match="record 0 is not a Record but dict"):
        read_records([{"question": "q"}])
    with pytest.raises(InputError, match="expected a path or records, not int"):
        read_records(7)
    broken = Image.open(io.BytesIO(png("red")[:-20]))
    assert read_records([Record("a", broken, "q"), Record("b", Path("\ud800"), "q")]).fingerprint


def test_validate_record(tmp_path: Path):
    validate_record(Record("a", tmp_path / "a.png", "q"))
    with pytest.raises(InputError, match="record 'a': the question is empty"):
        validate_record(Record("a", tmp_path / "a.png", " \n"))
    with pytest.raises(InputError, match="record 'a': the question comes without an image"):
        validate_record(Record("a", None, "q"))
    for field in ("question", "response", "answers", "options", "category"):
        bad = replace(Record("a", tmp_path / "a.png", "q"), **{field: "\ud800"})
        with pytest.raises(
            InputError, match=f"record 'a': the {field.removesuffix('s')} is not valid Unicode"
        ):
            validate_record(bad)
    with pytest.raises(InputError, match="the image path is not valid Unicode"):
        validate_record(Record("a", Path("\udcd5\udce2.png"), "q"))
    with pytest.raises(InputError, match="the question must be text, got int"):
        validate_record(Record("a", tmp_path / "a.png", 7))


def test_importing_records_is_light():
    code = "import sys, sdrpn_core.data.read; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "pyarrow", "numpy", "PIL"}
    assert not heavy & set(done.stdout.split())
