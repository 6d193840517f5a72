"""From batches to cached samples, and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from sdrpn_core.errors import ConfigError
from sdrpn_core.runtime.block import ImagePlace, left_pad
from sdrpn_core.taps.feature_tap import FeatureTap
from sdrpn_core.training.batches import TrainingBatch, make_batch
from sdrpn_core.training.bypass_layers import without_layers
from sdrpn_core.training.samples import CachedSample, TrainingSample

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone


def to_cached(
    batch: TrainingBatch, samples: Sequence[TrainingSample | CachedSample], dtype: torch.dtype
) -> Iterator[CachedSample]:
    """Take a batch apart, on the CPU; padding and what follows the queries stay behind.

    Args:
        batch: made of ``samples``, in their order.
        samples: where the ids come from.
        dtype: of the hidden states.

    Raises:
        ConfigError: the dtype cannot hold them; says which can.
    """
    block = batch.block
    rows = zip(samples, batch.places, block.starts, batch.grids, strict=True)
    for row, (sample, place, first, (h, w)) in enumerate(rows):
        tokens = slice(first, place.query + 1)
        computed = batch.features.hidden[row, tokens]
        stored = computed.to("cpu", dtype).contiguous()
        # Of a few tokens some channels are very large, beyond float16 in some models.
        if not stored.isfinite().all() and computed.isfinite().all():
            raise ConfigError(
                f"record {sample.id!r}: its features reach {float(computed.abs().max()):.3g}, more "
                f"than {str(dtype).removeprefix('torch.')} holds: store them as bfloat16"
            )
        yield CachedSample(
            id=sample.id,
            hidden=stored,
            positions=block.positions[..., row, tokens].cpu().contiguous(),
            start=place.start - first,
            grid=place.grid,
            labels=batch.labels[row, : h * w].view(h, w).cpu().numpy(),
        )


class CachedFeatureBatcher:
    """Batches cached samples; of the decoder only what it computes once per pass is run.

    Args:
        backbone: the frozen model.
        branch: B.
    """

    def __init__(self, backbone: Backbone, branch: int) -> None:
        self.backbone = backbone
        self.branch = branch

    @torch.no_grad()
    def __call__(self, samples: Sequence[CachedSample]) -> TrainingBatch:
        """Make a batch."""
        device, dtype = self.backbone.device, self.backbone.model.dtype
        block = left_pad(
            [sample.hidden.to(device, dtype) for sample in samples],
            [sample.positions for sample in samples],
        )
        decoder = without_layers(self.backbone.decoder, self.branch)
        with FeatureTap(decoder, self.branch) as tap:
            tapped = tap.run(**block.model_inputs())
        places = [
            ImagePlace(row, first + sample.start, sample.grid, block.length - 1)
            for row, (sample, first) in enumerate(zip(samples, block.starts, strict=True))
        ]
        # Not the tapped states: some decoders scale their inputs before the first layer.
        features = replace(tapped, hidden=block.embeds)
        return make_batch(features, block, places, [sample.labels for sample in samples])
