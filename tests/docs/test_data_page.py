"""The page on data: its code runs, and its table is the catalog."""

from __future__ import annotations

import types

from sdrpn_core.data.fields import FIELDS
from sdrpn_core.plugins.manager import get_plugins
from sdrpn_datasets import CATALOG
from tests.docs.fences import ROOT, run_blocks, shell_lines

PAGE = "docs/data.md"


def test_the_code_runs(tmp_path, monkeypatch, capsys, fresh_plugins):
    monkeypatch.chdir(tmp_path)
    defined = run_blocks(PAGE, {})
    assert capsys.readouterr().out.splitlines() == [
        "('red', 'dark red') {'source': 'mine'}",
        "1 yes",
    ]
    plugin = types.ModuleType("signs")
    plugin.SDRPN_API = 1
    plugin.sdrpn_register_datasets = defined["sdrpn_register_datasets"]
    fresh_plugins.register(plugin, "signs")
    assert get_plugins().datasets.entry("signs").metadata["metric"] == "exact_match"


def test_all_fields_are_listed():
    text = (ROOT / PAGE).read_text()
    for columns in FIELDS.values():
        assert ", ".join(f"`{name}`" for name in reversed(columns)) in text or (
            ", ".join(f"`{name}`" for name in columns) in text
        )


def test_the_table_is_the_catalog():
    text = (ROOT / PAGE).read_text()
    for name, one in CATALOG.items():
        where = f"`{one.repo}`" + (f", `{one.config}`" if one.config else "")
        metric = f"`{one.metric}`" + (f" (`{one.total}`)" if one.total else "")
        assert f"| `{name}` | {where} | {one.split} | {metric} |" in text


def test_the_command_names_registered_data():
    (line,) = shell_lines(PAGE)
    data = line.split("--data ")[1].split()[0]
    assert set(data.split(",")) <= CATALOG.keys()
