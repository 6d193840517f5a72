"""How a check fails: with the method to look at, and what it did."""

from __future__ import annotations

from typing import Any

import torch


def check(holds: bool, message: str) -> None:
    """Fail a check unless something holds.

    Args:
        holds: whether it does.
        message: ``"<method to look at>: <what is wrong>"``.

    Raises:
        AssertionError: it does not.
    """
    __tracebackhide__ = True
    if not holds:
        raise AssertionError(message)


def check_close(
    found: torch.Tensor, expected: torch.Tensor, message: str, *, tolerance: float
) -> None:
    """Fail a check unless two tensors agree in shape, dtype and, within a tolerance, in value.

    Args:
        found: what the adapter led to.
        expected: what it should have been.
        message: as of :func:`check`.
        tolerance: relative and absolute.

    Raises:
        AssertionError: they do not; says by how much.
    """
    __tracebackhide__ = True

    def explained(difference: str) -> str:
        return f"{message}\n{difference}"

    options: dict[str, Any] = {"rtol": tolerance, "atol": tolerance, "msg": explained}
    torch.testing.assert_close(found, expected, **options)
