"""Checksums against hashlib and sha256sum; anything about a tensor counts."""

from __future__ import annotations

import hashlib
import shutil
import subprocess

import pytest
import torch

from sdrpn_core.util.checksums import (
    HashingWriter,
    file_checksum,
    read_checksum,
    tensor_checksum,
    write_checksum,
)


def test_a_file_is_hashed_while_it_is_written_and_when_it_is_read(tmp_path):
    path = tmp_path / "a.bin"
    with path.open("wb") as file:
        writer = HashingWriter(file)
        writer.write(b"first")
        writer.write(b"second")
        assert writer.tell() == 11
    assert writer.checksum == file_checksum(path) == hashlib.sha256(b"firstsecond").hexdigest()


def test_sha256sum_reads_what_lies_beside_a_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"data")
    write_checksum(path, file_checksum(path))
    assert read_checksum(path) == file_checksum(path)
    tool = shutil.which("sha256sum")
    if tool is None:
        pytest.skip("no sha256sum")
    subprocess.run([tool, "--check", "--strict", "a.bin.sha256"], cwd=tmp_path, check=True)


@pytest.mark.parametrize("text", [b"", b"abc  a.bin\n", b"\xff" * 70, b"0" * 64 + b"  b.bin\n"])
def test_what_is_no_checksum_of_the_file_is_none(tmp_path, text):
    (tmp_path / "a.bin.sha256").write_bytes(text)
    assert read_checksum(tmp_path / "a.bin") is None
    assert read_checksum(tmp_path / "missing.bin") is None


def test_name_dtype_shape_and_value_of_a_tensor_count_and_the_order_does_not():
    one = {"a": torch.zeros(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    others = [
        {"c": one["a"], "b": one["b"]},
        {"a": one["a"].double(), "b": one["b"]},
        {"a": one["a"].view(3, 2), "b": one["b"]},
        {"a": one["a"] + 1e-30, "b": one["b"]},
        {"a": one["a"]},
    ]
    sums = [tensor_checksum(values) for values in (one, *others)]
    assert len(set(sums)) == len(sums)
    assert tensor_checksum(dict(reversed(one.items()))) == sums[0]
