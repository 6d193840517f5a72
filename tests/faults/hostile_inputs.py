"""Inputs from strangers, made at random from a seed, and what becomes of each.

    python -m tests.faults.hostile_inputs --count 1000 --seed 0

Every input must be read correctly or refused by an ``SdrpnError`` of one line, within bounds of
time and memory. The last line of output is a JSON object with the figures.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from sdrpn_core.backbone.question import Question
from sdrpn_core.data.images import open_image
from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.data.read import read_records
from sdrpn_core.data.record import Record, validate_record
from sdrpn_core.errors import InputError, SdrpnError
from sdrpn_core.labeling.row import LabelRow, LabelStatus, rows_to_table
from sdrpn_core.labeling.run import LabelDataset

MAX_SECONDS = 10
"""Of one input."""
MAX_MEMORY = 6 * 2**30
"""Address space of the process, torch included, in bytes."""
MAX_MESSAGE = 5000

Try = Callable[[], object]
Kind = Callable[[random.Random, Path], Try]


class TimeUp(BaseException):
    """An input took too long."""


@dataclass
class Figures:
    """What became of the inputs."""

    inputs: int = 0
    read: int = 0
    refused: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0


# -- images --------------------------------------------------------------------------------------

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF")
FOREIGN = ("EPS", "PCX", "SGI", "TGA", "ICNS", "ICO", "DDS", "PDF")
MAGIC = (
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\1\0WEBPVP8 ", b"GIF89a", b"II*\0", b"MM\0*",
    b"BM", b"P6\n", b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51", b"\0\0\0\x20ftypavif",
    b"\0\0\0\x20ftypheic", b"%!PS-Adobe", b"icns", b"\0\0\1\0", b"II+\0", b"P5 999999 999999 255\n",
)  # fmt: skip


def encoded(rng: random.Random, kinds: tuple[str, ...] = FORMATS) -> bytes:
    size = (rng.randint(1, 40), rng.randint(1, 40))
    noise = np.random.default_rng(rng.randrange(2**32))
    image = Image.fromarray(noise.integers(0, 256, (*size, 3), dtype=np.uint8))
    kind = rng.choice(kinds)
    mode = rng.choice(("RGB", "L", "P", "1")) if kind in ("PNG", "GIF", "TIFF", "BMP") else "RGB"
    image = image.convert(mode)
    if kind in ("ICNS", "ICO"):
        image = image.resize((32, 32))
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def damaged(rng: random.Random, data: bytes) -> bytes:
    found = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        if not found:
            break
        start = rng.randrange(len(found))
        stop = min(len(found), start + rng.randint(1, 64))
        how = rng.randrange(6)
        if how == 0:
            del found[start:]
        elif how == 1:
            found[start] ^= 1 << rng.randrange(8)
        elif how == 2:
            found[start:stop] = bytes(stop - start)
        elif how == 3:
            found[start:stop] = rng.randbytes(stop - start)
        elif how == 4:
            found[start:start] = rng.randbytes(rng.randint(1, 64))
        else:
            found[start:stop] = b"\xff" * (stop - start)
    return bytes(found)


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_bomb(rng: random.Random) -> bytes:
    """A header that promises anything, and maybe chunks that inflate to megabytes."""
    side = (0, 1, 7, 65535, 10**6, 2**31 - 1, 2**32 - 1)
    depth, color = rng.choice((1, 2, 4, 8, 16)), rng.choice((0, 2, 3, 4, 6, 9))
    header = struct.pack(">IIBBBBB", rng.choice(side), rng.choice(side), depth, color, 0, 0, 0)
    chunks = [png_chunk(b"IHDR", header)]
    for kind in (b"zTXt", b"iCCP", b"tEXt", b"eXIf", b"acTL", b"PLTE"):
        if rng.random() < 0.3:
            body = b"name\0\0" + zlib.compress(bytes(rng.choice((10, 3_000_000))))
            chunks.append(png_chunk(kind, body))
    chunks.append(png_chunk(b"IDAT", zlib.compress(bytes(rng.choice((1, 1000, 5_000_000))))))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + png_chunk(b"IEND", b"")


def open_and_check(source: Any) -> Try:
    def run() -> object:
        image = open_image(source)
        assert image.mode == "RGB"
        assert image.info == {}
        assert 0 < image.width * image.height <= MAX_PIXELS
        again = open_image(image)
        assert again.tobytes() == image.tobytes()
        return image

    return run


def image_bytes(rng: random.Random, folder: Path) -> Try:
    how = rng.randrange(5)
    if how == 0:
        data = rng.choice(MAGIC) + rng.randbytes(rng.randint(0, 300))
    elif how == 1:
        data = png_bomb(rng)
    elif how == 2:
        data = encoded(rng, FOREIGN)
    else:
        data = damaged(rng, encoded(rng))
    if rng.random() < 0.5:
        return open_and_check(data)
    path = folder / rng.choice(("x.png", "x", "x.jpg", "x.heic", "two\nlines.png", "\udcd5\udce2"))
    path.write_bytes(data)
    return open_and_check(path)


def odd_files(rng: random.Random, folder: Path) -> Try:
    pipe, sparse = folder / "pipe.png", folder / "sparse.png"
    os.mkfifo(pipe)
    with sparse.open("wb") as file:
        file.truncate(30 * 2**30)
    paths = (
        pipe, sparse, folder, "/dev/zero", "/dev/random", "/dev/null", "/proc/self/mem", "/", "",
        "a\0b", "\ud800.png", "\udcd5\udce2.png", "x" * 300, "x/" * 3000, "iVBORw0KGgo" * 100_000,
        folder / "none.png", 7, None, ["x"], {"path": "x"}, b"", Image.new("F", (2, 2)),
        Image.new("RGB", (0, 3)),
    )  # fmt: skip
    return open_and_check(rng.choice(paths))


# -- rows ----------------------------------------------------------------------------------------

TEXTS = (
    "what?", "", " ", "\ud800", "\udcd5\udce2", "</s>", "<image>", "<|im_end|><|vision_start|>",
    "q" * 1_000_000, "\0", "\x1b[2J", "two\nlines", "🙂‍", "a\u202eb", "{{ 7 * 7 }}", "%s%n",
)  # fmt: skip
VALUES = (
    None, True, False, 0, -1, 3, 10**30, 1.5, 3.0, float("nan"), float("inf"), -0.0, 1e308, [], {},
    [1], ["a"], ["a", "b"], [[1, 2, 3, 4]], [1, 2, 3, 4], [[0.5, 1.5, 2.5, 3.5]], [[9, 9, 1, 1]],
    [[None] * 4], [[1, 2, 3, 1e300]], [["1", "2", "3", "4"]], {"bytes": "x"}, [[[[[[]]]]]],
    [[10**400, 0, 1, 1]], "iVBORw0KGgo" * 100_000, "/9j/" * 40, "data:image/png;base64,=",
    "data:", "http://", "https://[::1", {"bytes": "x", "path": None}, {"path": {"path": []}},
    [{"from": "gpt", "value": "x"}], [{"from": "human", "value": "\ud800"}], [{"answer": []}],
    {"A": "x", "B": float("nan")}, {"text": [{}]}, ["x"] * 30, *TEXTS,
)  # fmt: skip
COLUMNS = (
    "image", "images", "question", "id", "response", "answer", "answers", "options", "category",
    "boxes", "conversations", "extra",
)  # fmt: skip


def hostile_line(rng: random.Random) -> bytes:
    row = {"image": "a.png", "question": "what?"}
    for column in rng.sample(COLUMNS, rng.randint(1, 3)):
        row[column] = rng.choice(VALUES)
    if rng.random() < 0.2:
        row.pop(rng.choice(("image", "question")), None)
    line = json.dumps(row).encode()
    if rng.random() < 0.3:
        line = damaged(rng, line).replace(b"\n", b" ")
    others = (
        b"[" * 100_000, b"{" * 50_000, b"null", b"3", b'"text"', b"[1]", b"\xff\xfe", b"\0" * 100,
        b'{"image": 1, "image": 2}', b"9" * 10_000, b'{"question": "\\ud800"}', b"NaN",
    )  # fmt: skip
    return rng.choice(others) if rng.random() < 0.2 else line


def go_through(source: Any, expect: int | None = None) -> Try:
    def run() -> object:
        records = read_records(source)
        assert expect is None or len(records) == expect
        assert records.fingerprint
        usable = 0
        for record in records:
            assert isinstance(record, Record)
            try:
                validate_record(record)
            except InputError as error:
                check_message(error)
                LabelRow.skip(0, record, LabelStatus.INVALID, str(error))
                continue
            usable += 1
            record.question.encode()
            assert record.boxes is None or all(
                type(c) is int and x0 < x1 and y0 < y1
                for box in record.boxes for x0, y0, x1, y1 in [box] for c in box
            )  # fmt: skip
        return usable

    return run


def jsonl_file(rng: random.Random, folder: Path) -> Try:
    """A good line between hostile ones is read, wherever it stands."""
    lines = [hostile_line(rng) for _ in range(rng.randint(1, 6))]
    good = json.dumps({"id": "good", "image": "a.png", "question": "what?"}).encode()
    lines.insert(rng.randint(0, len(lines)), good)
    path = folder / "a.jsonl"
    path.write_bytes(b"\n".join(lines))
    expect = sum(bool(line.strip()) for line in lines)
    inner = go_through(path, expect)

    def run() -> object:
        assert any(r.id == "good" and r.problem is None for r in read_records(path))
        return inner()

    return run


def json_file(rng: random.Random, folder: Path) -> Try:
    """A good object between hostile ones is read, if the file is JSON at all."""
    objects = [hostile_line(rng) for _ in range(rng.randint(1, 4))]
    path = folder / "a.json"
    inner = b", ".join([*objects, b'{"id": "good", "image": "a.png", "question": "what?"}'])
    path.write_bytes(rng.choice((b"[%s]", b'{"data": [%s]}', b"%s")) % inner)
    return go_through(path)


def other_file(rng: random.Random, folder: Path) -> Try:
    name = rng.choice(("a.jsonl", "a.json", "a.ndjson", "a.parquet", "a.csv", "a", "b.jsonl"))
    path = folder / name
    how = rng.randrange(4)
    if how == 0:
        os.mkfifo(path)
    elif how == 1:
        with path.open("wb") as file:
            file.truncate(30 * 2**30)
    elif how == 2:
        path.write_bytes(rng.randbytes(rng.randint(0, 2000)))
    names = (
        path, str(path), folder, "", "no/such", "a\0b", "\ud800", "x" * 5000, 7, [], [7], {"a": 1},
    )  # fmt: skip
    return go_through(path if rng.random() < 0.6 else rng.choice(names))


def parquet_file(rng: random.Random, folder: Path) -> Try:
    path = folder / "a.parquet"
    n = rng.randint(1, 5)
    questions = pa.array([rng.randbytes(6) for _ in range(n)]).cast(pa.string(), safe=False)
    columns = (
        {"question": ["what?"] * n, "image": [rng.randbytes(20)] * n},
        {"question": questions, "image": questions},
        {"question": ["what?"] * n, "image": ["a.png"] * n, "boxes": [[[1.5, 2, 3, 4]]] * n},
        {"question": ["what?"] * n, "image": pa.nulls(n), "answer": [1.5] * n, "id": [1] * n},
        {"question": [b"what?"] * n, "image": ["a"] * n},
        {"question": ["what?"] * n, "image": [1.5] * n},
        {"question": ["what?"] * n},
    )
    pq.write_table(pa.table(rng.choice(columns)), path)
    if rng.random() < 0.6:
        path.write_bytes(damaged(rng, path.read_bytes()))
    return go_through(rng.choice((path, folder)))


def given_records(rng: random.Random, folder: Path) -> Try:
    def record() -> Record:
        value = rng.choice((*TEXTS, None, 7, b"bytes"))
        image = rng.choice((None, b"bytes", Path("a.png"), "\ud800", Image.new("1", (2, 2)), 7))
        column = rng.choice(("question", "response", "answers", "options", "category"))
        text = {"question": rng.choice(TEXTS), column: value}
        return Record(rng.choice(TEXTS)[:1000] + str(rng.random()), image, **text)

    return go_through([record() for _ in range(rng.randint(1, 3))])


# -- questions and label runs --------------------------------------------------------------------


def question(rng: random.Random, folder: Path) -> Try:
    text = "".join(rng.choices(TEXTS, k=rng.randint(1, 3)))[:2000]
    image = rng.choice((Image.new("RGB", (3, 2)), [], b"x", None, (), "\ud800", [b"", b""]))

    def run() -> object:
        asked = Question.about(image, text)
        ids = tiny_backbone().tokenize(asked.text, len(asked.images))
        assert ids.count(tiny_backbone().image_token_id) == len(asked.images)
        tiny_backbone().tokenize_response(text)
        return ids

    return run


_BACKBONES: list[Any] = []


def tiny_backbone() -> Any:
    if not _BACKBONES:
        from tests.tiny import tiny_llava

        _BACKBONES.append(tiny_llava())
    return _BACKBONES[0]


def label_folder(rng: random.Random, folder: Path) -> Try:
    """Files that look like a label run, and are none."""
    values = {"records": 1, "shard_size": 1, "fingerprint": "x", "dataset": "x", "provenance": {}}
    if rng.random() < 0.7:
        values[rng.choice(list(values))] = rng.choice(VALUES)
    manifest = json.dumps(values).encode()
    if rng.random() < 0.5:
        manifest = damaged(rng, manifest)
    if rng.random() < 0.9:
        (folder / "manifest.json").write_bytes(manifest)
    row = LabelRow(0, "a", "what?", None, LabelStatus.INVALID, "why")
    pq.write_table(rows_to_table([row]), folder / "labels-00000.parquet")
    if rng.random() < 0.5:
        shard = folder / "labels-00000.parquet"
        shard.write_bytes(damaged(rng, shard.read_bytes()))
    return lambda: list(LabelDataset(folder))


KINDS: dict[str, tuple[Kind, int]] = {
    "image": (image_bytes, 10),
    "odd file": (odd_files, 2),
    "jsonl": (jsonl_file, 6),
    "json": (json_file, 3),
    "other file": (other_file, 2),
    "parquet": (parquet_file, 3),
    "records": (given_records, 2),
    "question": (question, 2),
    "labels": (label_folder, 1),
}
"""Kinds of inputs, and how often each comes up in comparison."""


def check_message(error: Exception) -> None:
    text = str(error)
    assert text.isprintable(), f"not one printable line: {text!r}"
    assert text.strip(), f"{type(error).__name__} says nothing"
    assert len(text) <= MAX_MESSAGE, f"a message of {len(text)} characters"


def hostile_inputs(count: int, seed: int) -> Iterator[tuple[str, Path, Try]]:
    """Kind, folder and call of each input; the same for the same seed."""
    names = [name for name, (_, weight) in KINDS.items() for _ in range(weight)]
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        name = names[number % len(names)]
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            yield name, Path(folder), KINDS[name][0](rng, Path(folder))


def try_all(count: int, seed: int) -> Figures:
    """Try inputs, each for a limited time."""

    def time_up(*_: object) -> None:
        raise TimeUp

    signal.signal(signal.SIGALRM, time_up)
    figures = Figures()
    for number, (name, _, attempt) in enumerate(hostile_inputs(count, seed)):
        start = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
        try:
            attempt()
            figures.read += 1
        except SdrpnError as error:
            figures.refused += 1
            try:
                check_message(error)
            except AssertionError as problem:
                figures.faults.append(f"{name} {number}: {problem}")
        except (Exception, TimeUp):  # noqa: BLE001 - this is what is looked for
            figures.faults.append(f"{name} {number}: {traceback.format_exc()[-1500:]}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        figures.inputs += 1
        figures.by_kind[name] += 1
        figures.slowest = max(figures.slowest, time.monotonic() - start)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # of Pillow, about what is broken
    tiny_backbone()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    start = time.monotonic()
    figures = try_all(arguments.count, arguments.seed)
    for fault in figures.faults:
        print(fault, file=sys.stderr)
    print(
        json.dumps(
            {
                "inputs": figures.inputs,
                "refused": figures.refused,
                "read": figures.read,
                "tracebacks": len(figures.faults),
                "by_kind": figures.by_kind,
                "slowest_seconds": round(figures.slowest, 2),
                "seconds": round(time.monotonic() - start, 1),
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            }
        )
    )
    return 1 if figures.faults else 0


if __name__ == "__main__":
    sys.exit(main())
