"""Which samples make up which global batch, and which process takes which of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class DataOrder:
    """The order of the samples: a function of seed and epoch, whatever the number of processes.

    Each epoch is a permutation of all samples, cut into global batches; the last one of an epoch
    may be smaller. The position in the data is the number of the step, so that resuming needs
    nothing else.

    Args:
        n_samples: size of the data set.
        global_batch_size: samples per optimizer step.
        seed: of the permutations.
    """

    n_samples: int
    global_batch_size: int
    seed: int
    _epoch: int = field(default=-1, init=False, repr=False)
    _permutation: list[int] = field(default_factory=list, init=False, repr=False)

    @property
    def steps_per_epoch(self) -> int:
        """Global batches per pass over the samples."""
        return -(-self.n_samples // self.global_batch_size)

    def global_batch(self, step: int) -> list[int]:
        """The samples of an optimizer step, steps counted from 0 through all epochs."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._permutation = epoch, _permutation(self.n_samples, self.seed, epoch)
        start = position * self.global_batch_size
        return self._permutation[start : start + self.global_batch_size]

    def micro_batches(
        self, step: int, micro_batch_size: int, process: int = 0, n_processes: int = 1
    ) -> list[list[int]]:
        """One process's share of a global batch, cut up; empty if there is nothing left for it."""
        share = self.global_batch(step)[process::n_processes]
        return [
            share[start : start + micro_batch_size]
            for start in range(0, len(share), micro_batch_size)
        ]


@dataclass(frozen=True)
class MicroBatches:
    """The batch sampler of one process's data loader, from a step on.

    The numbers that it yields go on from one epoch to the next: number ``i`` of a data set of ``n``
    is sample ``i % n`` in epoch ``i // n``.

    Args:
        order: the order of the samples.
        first: number of the first step.
        last: number of the last step, exclusive.
        micro_batch_size: samples per forward pass.
        process: index of this process.
        n_processes: how many there are.
    """

    order: DataOrder
    first: int
    last: int
    micro_batch_size: int
    process: int
    n_processes: int

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first, self.last):
            first = step // self.order.steps_per_epoch * self.order.n_samples
            for batch in self.of_step(step):
                yield [first + index for index in batch]

    def of_step(self, step: int) -> list[list[int]]:
        """The micro-batches of a step, as indices of samples."""
        return self.order.micro_batches(step, self.micro_batch_size, self.process, self.n_processes)


def _permutation(n: int, seed: int, epoch: int) -> list[int]:
    # Of this generator only random() is promised to repeat across Python versions.
    generator = random.Random(f"{seed}/{epoch}")
    keys = [generator.random() for _ in range(n)]
    return sorted(range(n), key=keys.__getitem__)
