from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdrpn_core.data.images import open_image
from sdrpn_core.data.record import Record
from sdrpn_core.errors import SdrpnError, ShardError
from sdrpn_core.grid.geometry import PaddedSquare, Resized
from sdrpn_core.labeling.manifest import LabelManifest
from sdrpn_core.labeling.row import LabelRow, LabelStatus, row_from_table, rows_to_table
from sdrpn_core.labeling.run import LabelDataset, LabelRun, open_run
from sdrpn_core.shards.image_cell import portable_image
from sdrpn_core.util.atomic_files import atomic_write, leftovers

RECORDS, SHARD_SIZE = 10, 4
SKIPPED = {2: LabelStatus.UNREADABLE, 5: LabelStatus.NAN_ATTENTION}
PROVENANCE = {"backbone": {"id": "toy", "layers": (1, 2)}, "recipe": {"sink_threshold": 1e-3}}


def manifest(**changes: Any) -> LabelManifest:
    base = {"records": RECORDS, "fingerprint": "f", "shard_size": SHARD_SIZE}
    return LabelManifest(**{**base, "provenance": PROVENANCE, **changes})


def row(index: int, **changes: Any) -> LabelRow:
    generator = np.random.default_rng(index)
    grid = (2 + index % 2, 3)
    values = {
        "index": index,
        "id": f"r{index}",
        "question": f"question {index}",
        "image": generator.bytes(50),
        "response": f"response {index}",
        "response_ids": (index, 2),
        "grounding": generator.random(grid, np.float32),
        "sink": generator.random(grid, np.float32),
        "geometry": Resized(source_size=(60, 40), grid=grid, cell=14),
    }
    return LabelRow(**{**values, **changes})


def rows_of(shard: int, run: LabelRun) -> list[LabelRow]:
    rows = []
    for index in run.manifest.shard_records(shard):
        record = Record(f"r{index}", Path("/data/a.png"), f"question {index}")
        skip = SKIPPED.get(index)
        rows.append(LabelRow.skip(index, record, skip, "too\nbad") if skip else row(index))
    return rows


def finish(folder: Path) -> LabelRun:
    run = open_run(folder, manifest())
    for shard in run.missing_shards():
        run.write_shard(shard, rows_of(shard, run))
    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def same(a: LabelRow, b: LabelRow) -> bool:
    return all(
        np.array_equal(getattr(a, field.name), getattr(b, field.name))
        for field in dataclasses.fields(LabelRow)
    )


@st.composite
def label_rows(draw: st.DrawFn) -> LabelRow:
    text = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
    image = draw(st.none() | st.binary(max_size=30) | st.just(Path("/images/é b.png")))
    common = {
        "index": draw(st.integers(0, 2**40)),
        "id": draw(text),
        "question": draw(text),
        "image": image,
    }
    status = draw(st.sampled_from(LabelStatus))
    if status is not LabelStatus.OK:
        return LabelRow(**common, status=status, reason=draw(text.filter(bool)))
    h, w = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    cells = st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=h * w, max_size=h * w
    )
    maps = (np.array(draw(cells), np.float32).reshape(h, w) for _ in range(2))
    size = (draw(st.integers(1, 9000)), draw(st.integers(1, 9000)))
    return LabelRow(
        **common,
        response=draw(text),
        response_ids=tuple(draw(st.lists(st.integers(0, 2**20), max_size=5))),
        grounding=next(maps),
        sink=draw(st.none() | st.just(next(maps))),
        geometry=Resized(source_size=size, grid=(h, w), cell=14),
    )


@given(st.lists(label_rows(), min_size=1, max_size=4))
def test_rows_survive_the_round_trip_through_a_file(rows: list[LabelRow]):
    buffer = io.BytesIO()
    pq.write_table(rows_to_table(rows), buffer)
    table = pq.read_table(buffer)
    for position, expected in enumerate(rows):
        found = row_from_table(table, position)
        assert same(found, expected)
        assert type(found.geometry) is type(expected.geometry)
        assert found.status is expected.status


NOT_FINITE = np.array([[1, np.nan, 0], [0, 0, np.inf]], np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"response": None}, "needs response, grounding and geometry"),
        ({"grounding": None}, "needs response, grounding and geometry"),
        ({"geometry": None}, "needs response, grounding and geometry"),
        ({"grounding": np.zeros((3, 2), np.float32)}, r"grounding must be float32 \(2, 3\)"),
        ({"sink": np.zeros((2, 3))}, r"sink must be float32 .*float64 \(2, 3\)"),
        ({"sink": NOT_FINITE}, "sink is not finite"),
        ({"grounding": NOT_FINITE}, "grounding is not finite"),
        ({"status": LabelStatus.UNREADABLE}, "comes with a response, maps or geometry"),
    ],
)
def test_contradicting_rows_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ShardError, match=message) as caught:
        row(0, **changes)
    assert "record 'r0'" in str(caught.value)


def test_an_index_is_not_negative():
    with pytest.raises(ShardError, match="index must not be negative"):
        dataclasses.replace(row(0), index=-1)


def test_a_skipped_row_needs_a_reason():
    with pytest.raises(ShardError, match="needs a reason"):
        LabelRow.skip(0, Record("a", None, ""), LabelStatus.INVALID, "  ")


def test_portable_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert portable_image(None) is None
    assert portable_image(b"jpeg") == b"jpeg"
    assert portable_image(Path("x/../a.png")) == tmp_path / "a.png"
    image = Image.new("L", (3, 2), 7)
    encoded = portable_image(image)
    assert isinstance(encoded, bytes)
    assert np.array_equal(open_image(encoded), open_image(image))


def test_a_run_is_written_and_read_back(tmp_path: Path):
    run = open_run(tmp_path / "new" / "run", manifest())
    assert run.missing_shards() == [0, 1, 2]
    for shard in (2, 0, 1):
        run.write_shard(shard, rows_of(shard, run)[::-1])  # the order of the work does not matter
    assert run.missing_shards() == []
    names = ["labels-00000.parquet", "labels-00001.parquet", "labels-00002.parquet"]
    sums = [f"{name}.sha256" for name in names]
    assert sorted(contents(run.folder)) == sorted([*names, *sums, "manifest.json"])

    data = LabelDataset(run.folder)
    expected = [i for i in range(RECORDS) if i not in SKIPPED]
    assert [found.index for found in data] == expected
    assert all(same(found, row(found.index)) for found in data)
    assert same(data[-1], row(9))
    assert [found.index for found in data[2:4]] == expected[2:4]
    assert data.manifest == run.manifest
    assert data[0].grounding.flags.writeable
    with pytest.raises(IndexError):
        data[len(expected)]

    summary = run.summary()
    assert summary.counts == {
        "ok": 8,
        "unreadable": 1,
        "invalid": 0,
        "no_response": 0,
        "nan_attention": 1,
    }
    assert summary.missing_shards == 0
    skipped = [(s.index, s.id, s.status, s.reason) for s in summary.skipped]
    assert skipped == [(i, f"r{i}", status, "too bad") for i, status in SKIPPED.items()]


def test_rows_are_read_lazily_across_row_groups(tmp_path: Path):
    run = open_run(tmp_path, manifest(records=50, shard_size=30))
    for shard in run.missing_shards():
        run.write_shard(shard, [row(i) for i in run.manifest.shard_records(shard)])
    assert pq.ParquetFile(tmp_path / "labels-00000.parquet").num_row_groups > 2
    data = LabelDataset(tmp_path)
    for index in np.random.default_rng(0).permutation(50):
        assert same(data[index], row(int(index)))


def test_a_record_has_one_row(tmp_path: Path):
    run = open_run(tmp_path, manifest(records=2))
    with pytest.raises(ShardError, match="record 1 has 2 rows, not 1"):
        run.write_shard(0, [row(0), row(1), row(1)])
    with pytest.raises(ShardError, match="record 1 has 0 rows, not 1"):
        run.write_shard(0, [row(0)])
    with pytest.raises(ShardError, match="record 2 has 1 rows, not 0"):
        run.write_shard(0, [row(0), row(1), row(2)])


@pytest.mark.parametrize("indices", [[0, 1, 2], [0, 1, 2, 3, 4], [], [4, 5, 6, 7]])
def test_a_shard_holds_exactly_its_records(tmp_path: Path, indices: list[int]):
    run = open_run(tmp_path, manifest())
    with pytest.raises(ShardError, match="shard 0 holds records 0 to 3"):
        run.write_shard(0, [row(i) for i in indices])
    with pytest.raises(ShardError, match="there is no shard 3: the run has 3"):
        run.write_shard(3, [])
    assert run.missing_shards() == [0, 1, 2]


@given(
    records=st.integers(1, 200),
    size=st.integers(1, 60),
    processes=st.integers(1, 9),
)
def test_every_record_falls_to_one_shard_and_every_shard_to_one_process(
    tmp_path_factory: pytest.TempPathFactory, records: int, size: int, processes: int
):
    plan = manifest(records=records, shard_size=size)
    covered = [index for shard in range(plan.shards) for index in plan.shard_records(shard)]
    assert covered == list(range(records))
    run = LabelRun(tmp_path_factory.getbasetemp(), plan)
    shares = [k for rank in range(processes) for k in run.missing_shards(rank, processes)]
    assert sorted(shares) == list(range(plan.shards))


def test_a_share_does_not_depend_on_what_others_finished(tmp_path: Path):
    run = open_run(tmp_path, manifest())
    run.write_shard(0, rows_of(0, run))
    assert run.missing_shards(0, 2) == [2]
    assert run.missing_shards(1, 2) == [1]


WORKER = """
    import os, sys, time
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    import test_run as t

    def hang(where):
        print(where, flush=True)
        time.sleep(60)

    run = t.open_run(Path({folder!r}), t.manifest())
    rank, processes = {rank}, {processes}
    fsync = os.fsync
    for shard in run.missing_shards(rank, processes):
        if {hang!r} == f"writing {{shard}}":
            os.fsync = lambda fd: hang("now")
        run.write_shard(shard, t.rows_of(shard, run))
        if {hang!r} == f"after {{shard}}":
            hang("now")
"""


def worker(folder: Path, hang: str = "", rank: int = 0, processes: int = 1) -> subprocess.Popen:
    code = textwrap.dedent(WORKER).format(
        tests=str(Path(__file__).parent),
        folder=str(folder),
        hang=hang,
        rank=rank,
        processes=processes,
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL")
@pytest.mark.parametrize(
    ("moment", "left"), [("after 0", [1, 2]), ("writing 0", [0, 1, 2]), ("writing 2", [2])]
)
def test_a_killed_run_continues_to_the_same_bytes(tmp_path: Path, moment: str, left: list[int]):
    finish(tmp_path / "whole")
    folder = tmp_path / "killed"
    with worker(folder, moment) as process:
        assert process.stdout.readline() == "now\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    half_written = moment.startswith("writing")
    assert bool(leftovers(folder)) == half_written

    assert open_run(folder, manifest()).missing_shards() == left
    finish(folder)
    assert contents(folder) == contents(tmp_path / "whole")


def test_two_processes_write_what_one_writes(tmp_path: Path):
    finish(tmp_path / "one")
    workers = [worker(tmp_path / "two", rank=rank, processes=2) for rank in range(2)]
    for process in workers:
        with process:
            process.communicate()
        assert process.returncode == 0
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_leftovers_of_finished_shards_are_removed_others_are_let_be(tmp_path: Path):
    run = open_run(tmp_path, manifest())
    run.write_shard(0, rows_of(0, run))
    finished, running = (f".labels-{k:05d}.parquet.123-0123abcd.tmp" for k in (0, 1))
    for name in (finished, running, ".mine.tmp"):
        (tmp_path / name).write_bytes(b"half")
    assert run.missing_shards() == [1, 2]
    assert not (tmp_path / finished).exists()
    assert (tmp_path / running).exists()  # another process may be writing it
    run.write_shard(1, rows_of(1, run))
    assert not (tmp_path / running).exists()
    assert (tmp_path / ".mine.tmp").exists()


def test_two_writers_of_one_shard_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = open_run(tmp_path, manifest())
    replace = os.replace

    def other_is_first(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "replace", replace)
        run.write_shard(0, rows_of(0, run))  # and cleans up, our temporary file included
        replace(source, target)

    monkeypatch.setattr(os, "replace", other_is_first)
    run.write_shard(0, rows_of(0, run))
    assert run.missing_shards() == [1, 2]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def replace_by_garbage(path: Path) -> None:
    path.write_bytes(b"garbage" * 100)


def flip_a_byte_of_the_data(path: Path) -> None:
    data = bytearray(path.read_bytes())
    position = data.index(b"question 6") if b"question 6" in data else 200
    data[position] ^= 0xFF
    path.write_bytes(bytes(data))


def be_another_shard(path: Path) -> None:
    path.write_bytes((path.parent / "labels-00000.parquet").read_bytes())


def be_a_foreign_table(path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), path)


DAMAGES = [
    truncate,
    empty,
    replace_by_garbage,
    flip_a_byte_of_the_data,
    be_another_shard,
    be_a_foreign_table,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_named_and_made_again(tmp_path: Path, damage: Any, caplog: Any):
    run = finish(tmp_path)
    whole = contents(tmp_path)
    path = tmp_path / "labels-00001.parquet"
    damage(path)
    assert contents(tmp_path) != whole
    with pytest.raises(ShardError) as caught:
        list(LabelDataset(tmp_path))
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "delete it, then run `sdrpn label` again" in message
    assert "\n" not in message

    assert run.missing_shards() == [1]
    assert str(path) in caplog.text
    finish(tmp_path)
    assert contents(tmp_path) == whole


def test_a_shard_of_another_run_is_refused(tmp_path: Path):
    finish(tmp_path)
    path = tmp_path / "labels-00001.parquet"
    other = open_run(tmp_path / "other", manifest(fingerprint="g"))
    other.write_shard(1, rows_of(1, other))
    path.write_bytes((other.folder / path.name).read_bytes())
    with pytest.raises(ShardError, match="belongs to another label run or shard"):
        LabelDataset(tmp_path)


def test_an_incomplete_run_is_refused(tmp_path: Path):
    run = finish(tmp_path)
    (tmp_path / "labels-00001.parquet").unlink()
    with pytest.raises(ShardError, match=r"is incomplete: 1 of 3 shards are missing: run `sdrpn"):
        LabelDataset(tmp_path)
    assert run.summary().missing_shards == 1


def test_a_shard_that_disappears_is_named(tmp_path: Path):
    finish(tmp_path)
    data = pickle.loads(pickle.dumps(LabelDataset(tmp_path)))  # noqa: S301 - made here
    (tmp_path / "labels-00002.parquet").unlink()
    with pytest.raises(ShardError, match=r"labels-00002\.parquet is missing"):
        data[-1]


def test_a_dataset_travels_to_worker_processes(tmp_path: Path):
    finish(tmp_path)
    data = LabelDataset(tmp_path)
    first = data[0]  # opens a shard, which must not be sent
    copy = pickle.loads(pickle.dumps(data))  # noqa: S301 - made here
    assert len(copy) == len(data)
    assert same(copy[0], first)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
):
    run = open_run(tmp_path, manifest())
    run.write_shard(0, rows_of(0, run))
    before = contents(tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(SdrpnError) as caught:
        run.write_shard(1, rows_of(1, run))
    path = tmp_path / "labels-00001.parquet.sha256"  # written first
    assert str(caught.value) == f"cannot write {path}: No space left on device"
    assert contents(tmp_path) == before
    monkeypatch.undo()
    assert run.missing_shards() == [1, 2]


def test_a_disk_that_fills_while_rows_are_written(tmp_path: Path):
    """The kernel's own limit on file sizes stands in for a full disk: writes fail with EFBIG."""
    code = f"""
        import resource, signal, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_run as t
        run = t.open_run(Path({str(tmp_path)!r}), t.manifest())
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            run.write_shard(0, t.rows_of(0, run))
        except t.SdrpnError as error:
            print(error)
    """
    pytest.importorskip("resource")
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    path = tmp_path / "labels-00000.parquet"
    assert done.stdout == f"cannot write {path}: {os.strerror(errno.EFBIG)}\n"
    assert list(contents(tmp_path)) == ["manifest.json"]


def interrupted_write(path: Path) -> None:
    with atomic_write(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt


def test_an_error_while_writing_keeps_the_old_file(tmp_path: Path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        interrupted_write(path)
    assert contents(tmp_path) == {"a": b"old"}
    with atomic_write(path) as file:
        file.write(b"new")
    assert contents(tmp_path) == {"a": b"new"}


def test_a_folder_that_cannot_be_used(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SdrpnError, match=r"cannot use .*file for a label run: File exists"):
        open_run(tmp_path / "file", manifest())
    with pytest.raises(SdrpnError, match=r"cannot use .*: Not a directory"):
        open_run(tmp_path / "file" / "run", manifest())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"records": 11}, "records is 10 there and 11 here"),
        ({"shard_size": 5}, "shard_size is 4 there and 5 here"),
        ({"fingerprint": "g"}, 'fingerprint is "f" there and "g" here'),
        (
            {"provenance": {**PROVENANCE, "recipe": {"sink_threshold": 1e-2}}},
            "provenance.recipe.sink_threshold is 0.001 there and 0.01 here",
        ),
        (
            {"provenance": {**PROVENANCE, "max_new_tokens": 8}},
            "provenance.max_new_tokens is absent there and 8 here",
        ),
    ],
)
def test_another_run_in_the_folder_is_refused_or_overwritten(
    tmp_path: Path, changes: dict[str, Any], message: str
):
    finish(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".labels-00001.parquet.1-0123abcd.tmp").write_bytes(b"half")
    before = contents(tmp_path)
    with pytest.raises(ShardError, match="holds another label run") as caught:
        open_run(tmp_path, manifest(**changes))
    assert message in str(caught.value)
    assert "choose another folder, or --overwrite" in str(caught.value)
    assert contents(tmp_path) == before

    run = open_run(tmp_path, manifest(**changes), overwrite=True)
    assert sorted(contents(tmp_path)) == ["manifest.json", "notes.txt"]
    assert run.missing_shards() == list(range(run.manifest.shards))


def test_the_same_data_under_another_name_continues(tmp_path: Path):
    finish(tmp_path)
    assert open_run(tmp_path, manifest(dataset="./elsewhere")).missing_shards() == []


def test_many_differences_are_cut_short(tmp_path: Path):
    open_run(tmp_path, manifest())
    changes = {"records": 11, "shard_size": 5, "fingerprint": "g", "provenance": {}}
    with pytest.raises(ShardError, match=r"; \d+ more: choose"):
        open_run(tmp_path, manifest(**changes))


def test_shards_without_a_manifest_are_refused(tmp_path: Path):
    finish(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ShardError, match=r"without a manifest\.json"):
        open_run(tmp_path, manifest())
    with pytest.raises(ShardError, match=r"is not a label run: it has no manifest\.json"):
        LabelDataset(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "expected a JSON object, found list"),
        ('{"format_version": 99}', "has format version 99, this sdrpn reads 2"),
        (
            '{"format_version": 1}',
            "has format version 1, this sdrpn reads 2: choose another",
        ),
        (
            '{"format_version": 2}',
            "records, fingerprint, shard_size, provenance are missing",
        ),
    ],
)
def test_a_broken_manifest_is_one_line(tmp_path: Path, text: str, message: str):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ShardError, match=message) as caught:
        LabelDataset(tmp_path)
    assert "manifest.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=30)
@given(
    st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda leaf: st.lists(leaf, max_size=3) | st.dictionaries(st.text(), leaf, max_size=3),
            max_leaves=6,
        ).filter(lambda value: "inf" not in repr(value)),
        max_size=4,
    )
)
def test_manifests_survive_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, provenance: dict[str, Any]
):
    folder = tmp_path_factory.mktemp("manifest")
    written = manifest(provenance=provenance)
    written.write(folder)
    found = LabelManifest.read(folder)
    assert found == written
    assert found.digest == written.digest


def test_a_manifest_needs_records_and_plain_values():
    with pytest.raises(ShardError, match="needs records and a positive shard size"):
        manifest(records=0)
    with pytest.raises(ShardError, match="needs records and a positive shard size"):
        manifest(shard_size=0)
    with pytest.raises(ValueError, match="JSON"):
        manifest(provenance={"x": float("nan")})


def test_geometry_keeps_its_kind(tmp_path: Path):
    geometry = PaddedSquare(source_size=(50, 40), grid=(2, 3), side=84)
    run = open_run(tmp_path, manifest(records=1))
    square = np.zeros((2, 3), np.float32)
    run.write_shard(0, [row(0, geometry=geometry, grounding=square, sink=None)])
    assert LabelDataset(tmp_path)[0].geometry == geometry
    assert LabelDataset(tmp_path)[0].sink is None


def test_shards_open_in_the_datasets_library(tmp_path: Path):
    import datasets

    run = open_run(tmp_path / "run", manifest(records=1))
    run.write_shard(0, [row(0, image=portable_image(Image.new("RGB", (3, 2), "red")))])
    shard = str(run.folder / "labels-00000.parquet")
    cache = str(tmp_path / "cache")
    data = datasets.Dataset.from_parquet(shard, cache_dir=cache)
    data = data.cast_column("image", datasets.Image())
    assert data[0]["image"].getpixel((0, 0)) == (255, 0, 0)
    assert json.loads(data[0]["geometry"])["source_size"] == [60, 40]


def test_importing_label_shards_needs_no_torch():
    code = "import sys, sdrpn_core.labeling.run; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers"} & set(done.stdout.split())
