"""Batches of the samples that the backbone accepts; those that it refuses are named and left out.

A data set knows whether an image can be opened, but not whether the backbone can encode it, or
whether the prompt fits its context: that shows when a batch is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdrpn_core.errors import SdrpnError
from sdrpn_core.training.samples import CachedSample, SkippedSample, TrainingSample, log_skipped
from sdrpn_core.util.isolate_failures import ITEM_ERRORS, isolate_failures

if TYPE_CHECKING:
    from sdrpn_core.training.batches import Batcher


@dataclass(frozen=True, eq=False)
class AcceptedBatch:
    """A batch and what it was made of.

    Attributes:
        samples: one or more.
        batch: what the batcher made of them.
    """

    samples: Sequence[TrainingSample | CachedSample]
    batch: Any


def accepted_batches(
    batcher: Batcher, samples: Sequence[TrainingSample | CachedSample]
) -> Iterator[AcceptedBatch | SkippedSample]:
    """Make one batch of all samples; if one of them fails, one batch of each that does not.

    Args:
        batcher: makes the batches.
        samples: may be empty.

    Yields:
        In the order of the samples, batches and the samples that were skipped; the latter are named
        in the log.
    """
    if not samples:
        return
    for part, result in isolate_failures(samples, batcher, ITEM_ERRORS):
        if isinstance(result, SdrpnError):
            skipped = SkippedSample(part[0].id, str(result))
            log_skipped(skipped)
            yield skipped
        else:
            yield AcceptedBatch(part, result)
