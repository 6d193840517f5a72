"""The page on results shows the published numbers that the benchmark compares with."""

from __future__ import annotations

from sdrpn_core import get_plugins
from tests.docs.fences import ROOT


def test_the_table_is_what_the_datasets_register() -> None:
    lines = (ROOT / "docs/results.md").read_text(encoding="utf-8").splitlines()
    (header,) = [line for line in lines if line.startswith("| model | method |")]
    columns = [cell.strip("` ") for cell in header.strip("|").split("|")][2:]
    shown = {}
    for line in lines[lines.index(header) + 2 :]:
        if not line.startswith("|"):
            break
        preset, method, *scores = [cell.strip("` ") for cell in line.strip("|").split("|")]
        for name, score in zip(columns, scores, strict=True):
            shown[name, preset, method] = float(score)
    registered = {
        (entry.name, preset, method): score
        for entry in get_plugins().datasets.entries()
        for preset, known in entry.metadata.get("published", {}).items()
        for method, score in known["scores"].items()
    }
    assert len(shown) == 108
    assert shown == registered
