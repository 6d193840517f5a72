"""Counts what would make a GPU wait for the host, on whatever device the test runs."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

import torch
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode

#: Methods that read a tensor's values on the host.
_READS = {
    f"torch.Tensor.{name}"
    for name in (
        "item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__",
        "__contains__", "__array__",
    )
}  # fmt: skip
#: Operators that do, or whose result has a size that depends on values.
_OPERATORS = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
)


class _Methods(TorchFunctionMode):
    def __init__(self, counts):
        super().__init__()
        self.counts = counts

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if (name := resolve_name(func)) in _READS:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    def __init__(self, counts):
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in _OPERATORS:
            self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


class Synchronizations(ExitStack):
    """Context manager; ``counts`` says how often each thing happened, and ``total`` all of them.

    A method may come down to an operator; both are then counted.
    """

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __enter__(self):
        super().__enter__()
        self.enter_context(_Methods(self.counts))
        self.enter_context(_Operators(self.counts))
        return self

    @property
    def total(self):
        return self.counts.total()
