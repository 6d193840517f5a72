"""JSON objects in files: what is broken is one line of the right class."""

from __future__ import annotations

import json

import pytest

from sdrpn_core.errors import CheckpointError, ConfigError, SdrpnError
from sdrpn_core.util.json_files import parse_json_object, read_json_object, write_json


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON: Expecting property name"),
        (b"\xff\xfe", "not JSON: 'utf-8' codec"),
        (b"[1]", "expected a JSON object, found list"),
        (b'"text"', "expected a JSON object, found str"),
        (b'{"a": NaN}', "not JSON: NaN is not allowed"),
        (b'{"a": -Infinity}', "not JSON: -Infinity is not allowed"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "not JSON: Exceeds the limit"),
        (b"[" * 100_000, "not JSON: maximum recursion depth"),
        (b"", "not JSON: Expecting value"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_broken_is_one_line(tmp_path, content, message):
    path = tmp_path / "values.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_json_object(path, CheckpointError)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.json: cannot be read \(No such file"):
        read_json_object(tmp_path / "none.json")
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory"):
        read_json_object(tmp_path)


def test_what_is_written_is_read_again(tmp_path):
    values = {"b": [1, None, "é"], "a": {"x": 1.5}}
    write_json(tmp_path / "values.json", values, sort_keys=True)
    assert read_json_object(tmp_path / "values.json") == values
    text = (tmp_path / "values.json").read_text()
    assert text == json.dumps(values, indent=2, sort_keys=True) + "\n"
    assert parse_json_object(text, "values") == values
    with pytest.raises(SdrpnError, match="cannot write"):
        write_json(tmp_path / "missing" / "values.json", values)
