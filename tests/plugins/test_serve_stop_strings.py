"""Stop strings: what is passed on does not depend on the pieces in which a response arrives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sdrpn_serve.stop_strings import StopFilter

TEXTS = st.text("ab \n", max_size=12)
STOPS = st.lists(st.text("ab \n", min_size=1, max_size=3), max_size=4)


def expected(text: str, stop: list[str]) -> str:
    """The text before the stop string that is complete first, in a loop over its ends."""
    for end in range(len(text) + 1):
        found = [one for one in stop if text[:end].endswith(one)]
        if found:
            return text[: end - max(map(len, found))].strip()
    return text.strip()


@given(st.lists(TEXTS, max_size=4), STOPS)
def test_pieces_add_up_to_the_text_before_the_first_stop_string(pieces, stop):
    text = "".join(pieces)
    passed = StopFilter(stop)
    found = [passed.feed(piece) for piece in pieces]
    found.append(passed.feed("", last=True))
    assert "".join(found) == passed.text == expected(text, stop)
    assert passed.stopped == any(one in text for one in stop)


def test_what_cannot_become_a_stop_string_is_passed_on_at_once():
    passed = StopFilter(["\n\n", "END"])
    assert passed.feed(" A red") == "A red"
    assert passed.feed(" E") == ""
    assert passed.feed("gg.\n") == " Egg."
    assert not passed.stopped
    assert passed.feed("\nmore") == ""
    assert passed.stopped
    assert passed.feed("more", last=True) == ""
    assert passed.text == "A red Egg."
