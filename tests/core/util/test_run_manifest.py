"""Manifests: the same run goes on, another one is refused by what differs."""

from __future__ import annotations

import hashlib
import json

import pytest

from sdrpn_core.errors import CheckpointError
from sdrpn_core.util.run_manifest import ManifestFormat

FORMAT = ManifestFormat(
    name="run.json",
    kind="trial",
    error=CheckpointError,
    version=3,
    uncompared=("note", "made.by"),
)
VALUES = {"note": "mine", "made": {"by": "me", "size": (1, 2)}, "options": {}, "n": 4}


def test_the_same_run_goes_on_whatever_is_uncompared(tmp_path):
    FORMAT.write(tmp_path, VALUES)
    there = json.loads((tmp_path / "run.json").read_text())
    assert there == {**json.loads(json.dumps(VALUES)), "format_version": 3}
    assert FORMAT.exists(tmp_path)
    assert FORMAT.read(tmp_path) == json.loads(json.dumps(VALUES))
    same = {"made": {"by": "you", "size": [1, 2]}, "options": {}, "n": 4}
    FORMAT.require_same(tmp_path, same)
    assert FORMAT.digest(same) == FORMAT.digest(VALUES)
    leaves = {"made.size": "[1, 2]", "n": "4", "options": "{}"}
    expected = hashlib.sha256(json.dumps(leaves, sort_keys=True).encode()).hexdigest()
    assert FORMAT.digest(VALUES) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 5}, "n is 4 there and 5 here: choose another folder, or --overwrite"),
        ({"made": {"size": [2]}}, r"made\.size is \[1, 2\] there and \[2\] here"),
        ({"options": {"x": {"y": 1}}}, r"options is \{\} there and absent here; options\.x\.y is"),
        ({"a": 1, "b": 1, "c": 1, "d": 1}, r"a is absent there and 1 here; b .*; c .*; 1 more: "),
    ],
)
def test_another_run_is_refused_by_what_differs(tmp_path, changes, message):
    FORMAT.write(tmp_path, VALUES)
    assert FORMAT.digest({**VALUES, **changes}) != FORMAT.digest(VALUES)
    with pytest.raises(CheckpointError, match=f"holds another trial: {message}") as caught:
        FORMAT.require_same(tmp_path, {**VALUES, **changes})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"is not a trial: it has no run\.json"),
        ("{", "not JSON: .*: choose another folder"),
        ("[]", "expected a JSON object, found list: choose another folder"),
        ("{}", "has format version None, this sdrpn reads 3: choose another folder"),
        ('{"format_version": 4}', "has format version 4, this sdrpn reads 3"),
    ],
)
def test_a_broken_manifest_is_one_line(tmp_path, text, message):
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(CheckpointError, match=message) as caught:
        FORMAT.require_same(tmp_path, VALUES)
    assert "\n" not in str(caught.value)
