"""The scores that an RPN gives the visual tokens of a batch of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from sdrpn_core.grid.roi_map import RoIMap, ScoreKind


@dataclass(frozen=True)
class RoIScores:
    """Scores of several images, padded to the largest.

    Attributes:
        scores: ``(images, n)`` float32, logits or distributions.
        valid: ``(images, n)`` bool.
        grids: per image ``(h, w)``.
        is_distribution: whether the scores are distributions rather than logits.
        by_question: ``{image: (n,)}``, the highest score that any token of its question gives each
            cell; for the images whose place asks for it.
    """

    scores: torch.Tensor
    valid: torch.Tensor
    grids: tuple[tuple[int, int], ...]
    is_distribution: bool
    by_question: Mapping[int, torch.Tensor] = field(default_factory=dict)

    def resized(self, grids: Sequence[tuple[int, int]]) -> RoIScores:
        """The scores on other grids, e.g. those that labels were made on.

        Bilinear with ``align_corners`` off, as published. Scores by question are dropped.

        Args:
            grids: per image ``(h, w)``; an image that already has this grid is left unchanged.
        """
        if tuple(grids) == self.grids:
            return self
        rows = []
        for scores, (h, w), grid in zip(self.scores, self.grids, grids, strict=True):
            plane = scores[: h * w].view(1, 1, h, w)
            if grid != (h, w):
                plane = F.interpolate(plane, size=grid, mode="bilinear", align_corners=False)
            rows.append(plane.flatten())
        lengths = torch.tensor([len(row) for row in rows], device=self.valid.device)
        return RoIScores(
            pad_sequence(rows, batch_first=True),
            torch.arange(max(map(len, rows)), device=lengths.device) < lengths[:, None],
            tuple(grids),
            self.is_distribution,
        )

    def maps(self) -> list[RoIMap]:
        """One RoI map per image, on the CPU."""
        kind: ScoreKind = "distribution" if self.is_distribution else "logit"

        def plane(scores: torch.Tensor, grid: tuple[int, int]) -> npt.NDArray[np.float32]:
            h, w = grid
            values: npt.NDArray[np.float32] = scores[: h * w].numpy()
            return values.reshape(h, w)

        # One copy to the host for all images, and one for each with scores by question.
        scores = self.scores.detach().float().cpu()
        questions = {index: row.detach().float().cpu() for index, row in self.by_question.items()}
        return [
            RoIMap(
                plane(scores[index], grid),
                kind,
                plane(questions[index], grid) if index in questions else None,
            )
            for index, grid in enumerate(self.grids)
        ]
