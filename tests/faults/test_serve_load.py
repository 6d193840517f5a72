"""Right answers or clear errors while a replica dies under load: see ``serve_load.py``."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("ray.serve", reason="the extra 'serve' is not installed")

from tests.faults.serve_load import with_a_death

N_REQUESTS = 400
N_CLIENTS = 8

#: What a client may be told of a death: an answer that had begun to arrive cannot begin again.
CLEAR = "the replica that was answering is gone: try again"


@pytest.mark.faults
def test_load_with_a_death():
    figures = with_a_death(N_REQUESTS, N_CLIENTS)
    print(json.dumps(figures.shown(), indent=2))
    assert not figures.wrong
    assert figures.right + sum(figures.errors.values()) == N_REQUESTS
    assert all(CLEAR in error for error in figures.errors)
    assert sum(figures.errors.values()) <= N_CLIENTS
