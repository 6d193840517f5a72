"""Every message is one line that a terminal can show, whatever names and values it quotes."""

from __future__ import annotations

import pytest

from sdrpn_core.errors import (
    InputError,
    MissingExtraError,
    PluginError,
    SdrpnError,
    UnknownNameError,
)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a sentence", "a sentence"),
        ("two\n  lines\r\n", "two lines"),
        ("clear \x1b[2J the screen", r"clear \x1b[2J the screen"),
        ("half \ud800 a pair \udcd5", r"half \ud800 a pair \udcd5"),
        ("Größe, 大小, 🙂", "Größe, 大小, 🙂"),
        ("", ""),
    ],
)
def test_a_message_is_one_printable_line(given, shown):
    assert str(SdrpnError(given)) == str(InputError(given)) == shown
    assert InputError(given).args == (shown,)


def test_a_message_is_cut_in_its_middle():
    text = str(InputError(f"{'x' * 5_000_000}: what to do"))
    assert len(text) < 4100
    assert text.startswith("xxx")
    assert text.endswith("x: what to do")
    assert "(4996012 characters)" in text


def test_messages_that_classes_write_are_of_the_same_kind():
    assert str(PluginError("x", "broken\n\x00")).isprintable()
    assert str(MissingExtraError("a\nfeature", "ray")).startswith("a feature needs a package")
    assert isinstance(MissingExtraError("a", "b"), ImportError)


@pytest.mark.parametrize("name", [None, 3, ("bbox",), object()])
def test_a_name_that_is_no_text_is_unknown_like_any_other(name):
    error = UnknownNameError("crop policy", name, ["mask", "bbox"])
    assert error.name is name
    assert "(known: bbox, mask)" in str(error)
