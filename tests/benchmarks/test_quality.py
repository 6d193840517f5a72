"""The benchmark of quality compares every method that there is."""

from __future__ import annotations

import quality

from sdrpn_core.plugins.manager import get_plugins


def test_no_method_is_forgotten():
    assert sorted(quality.METHODS) == sorted(get_plugins().methods.names())
    assert set(quality.OPTIONS) <= set(quality.METHODS)


def test_the_page_was_written_by_it():
    text = (quality.HERE / quality.PAGE).read_text(encoding="utf-8")
    assert quality._INTRODUCTION in text
    assert (quality.HERE / quality.RESULTS / quality.FIGURE).is_file()
