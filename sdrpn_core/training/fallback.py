"""Batches of the samples that the backbone takes; those that it refuses are named and left out.

A data set knows whether an image can be opened, but not whether the backbone can encode it, or
whether the prompt fits its context: that shows when a batch is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdrpn_core.errors import AttentionError, InputError
from sdrpn_core.training.samples import CachedSample, SkippedSample, TrainingSample, warn_of

if TYPE_CHECKING:
    from sdrpn_core.training.batches import Batcher, TrainingBatch


@dataclass(frozen=True, eq=False)
class UsableBatch:
    """A batch and what it was made of.

    Attributes:
        samples: one or more.
        batch: their features, places and labels.
    """

    samples: Sequence[TrainingSample | CachedSample]
    batch: TrainingBatch


def usable_batches(
    batcher: Batcher, samples: Sequence[TrainingSample | CachedSample]
) -> Iterator[UsableBatch | SkippedSample]:
    """Make one batch of all samples; if one of them spoils it, one batch of each that is fine.

    Args:
        batcher: makes the batches.
        samples: may be empty.

    Yields:
        In the order of the samples, batches and the samples that were skipped; the latter are named
        in the log.
    """
    if not samples:
        return
    try:
        whole = UsableBatch(samples, batcher(samples))
    except (InputError, AttentionError) as error:
        if len(samples) > 1:
            for sample in samples:
                yield from usable_batches(batcher, [sample])
            return
        skipped = SkippedSample(samples[0].id, str(error))
        warn_of(skipped)
        yield skipped
        return
    yield whole
