"""The page about inputs: its code runs, its limits and formats are those of the code."""

from __future__ import annotations

from sdrpn_core.data.images import FORMATS
from sdrpn_core.data.limits import MAX_FILE_BYTES, MAX_PIXELS
from sdrpn_core.util.formatting import readable_bytes
from tests.docs.fences import ROOT, run_blocks
from tests.tiny import tiny_image, tiny_llava

PAGE = "docs/inputs.md"


def test_the_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_text('{"image": "a.png", "question": "what?"}\n\n[1]\n')
    namespace = {"text": "what </s> ?", "images": (tiny_image(),), "backbone": tiny_llava()}
    defined = run_blocks(PAGE, namespace)
    assert defined["bad"] == ["data.jsonl: line 3: not a JSON object but list"]


def test_the_limits_and_formats_are_those_of_the_code():
    text = (ROOT / PAGE).read_text()
    assert f"{MAX_PIXELS:,} (`MAX_PIXELS`)" in text
    assert f"{readable_bytes(MAX_FILE_BYTES)} (`MAX_FILE_BYTES`)" in text
    spelled = {"WEBP": "WebP", "JPEG2000": "JPEG 2000", "HEIF": "HEIC"}
    for name in FORMATS:
        assert f"{spelled.get(name, name)}" in text
