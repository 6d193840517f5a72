"""Numbers of bytes, as people read them."""

from __future__ import annotations

import pytest

from sdrpn_core.util.formatting import readable_bytes


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (2.5e9, "2.5 GB"),
        (999.4e6, "999 MB"),
        (999.6e6, "1 GB"),
        (1e15, "1000 TB"),
        (123456e12, "123456 TB"),
    ],
)
def test_three_digits_and_never_an_exponent(count, text):
    assert readable_bytes(count) == text
