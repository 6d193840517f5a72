"""The contract brings no marker; here its checks on CUDA have the one that all such tests have."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "cuda_backbone" in getattr(item, "fixturenames", ()):
            item.add_marker("cuda")
