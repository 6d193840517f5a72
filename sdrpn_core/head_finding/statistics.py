"""Sums over the calibration samples, of every head: all that is kept of their maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sdrpn_core.head_finding.measures import Maps, Scores, box_auc, pointing
from sdrpn_core.head_finding.samples import N_HALVES, Target

#: Which response rows a map is averaged over: ``response_rows`` of a label recipe.
ROW_CHOICES: tuple[int | None, ...] = (None, 1)


@dataclass(frozen=True, eq=False)
class HeadTable:
    """Means over samples, ``(layers, heads)`` float64 each.

    Attributes:
        pointing: how often the highest cell lies in a box.
        auc: probability that a cell in a box is higher than one outside.
        mass: share of a response token's attention that goes to the image at all.
        peak: share of the attention to the image that its highest cell has.
        sink: the highest mean share of one and the same cell: near ``peak``, the head looks at the
            same place whatever is asked.
        n: samples.
    """

    pointing: Scores
    auc: Scores
    mass: Scores
    peak: Scores
    sink: Scores
    n: int

    @property
    def quality(self) -> Scores:
        """What heads are ranked by: pointing and AUC in equal parts."""
        return (self.pointing + self.auc) / 2


class HeadStatistics:
    """Adds up measures, layer by layer and sample by sample; its size depends on neither.

    Args:
        n_layers: L.
        n_heads: attention heads per layer.
        grid: (h, w) on which sinks are searched for; maps of other grids are resampled to it.
    """

    def __init__(self, n_layers: int, n_heads: int, grid: tuple[int, int]) -> None:
        self.grid = grid
        shape = (N_HALVES, len(ROW_CHOICES), n_layers, n_heads)
        self._sums = {name: np.zeros(shape) for name in ("pointing", "auc", "mass", "peak")}
        self._shares = np.zeros((*shape[1:], *grid))
        self._counts = np.zeros(N_HALVES, dtype=np.int64)

    def add_sample(self, half: int) -> None:
        """Count a sample; its layers follow through :meth:`add_layer`."""
        self._counts[half] += 1

    def add_layer(self, half: int, layer: int, maps: Maps, target: Target) -> None:
        """Add one layer's maps of one sample.

        Args:
            half: which half the sample belongs to.
            layer: index of the layer.
            maps: ``(row choices, heads, h * w)`` mean attention rows.
            target: the sample's grid and boxes.
        """
        mass = maps.sum(axis=-1, dtype=np.float64)
        # A head may give the image nothing that float32 can hold.
        shares = maps / np.maximum(mass, np.finfo(np.float64).tiny)[..., None]
        for name, values in (
            ("pointing", pointing(maps, target.inside)),
            ("auc", box_auc(maps, target.inside)),
            ("mass", mass),
            ("peak", shares.max(axis=-1)),
        ):
            self._sums[name][half, :, layer] += values
        self._shares[:, layer] += resample_area(
            shares.reshape(*shares.shape[:-1], *target.grid), self.grid
        )

    def table(self, row_choice: int, half: int | None = None) -> HeadTable:
        """Means for one of :data:`ROW_CHOICES`.

        Args:
            row_choice: its index.
            half: of these samples; ``None``: of all. ``sink`` is always that of all.
        """
        halves = range(N_HALVES) if half is None else [half]
        n = int(self._counts[halves].sum())
        means = {
            name: sums[halves, row_choice].sum(axis=0) / n for name, sums in self._sums.items()
        }
        cells = self._shares[row_choice] / self._counts.sum()
        return HeadTable(sink=cells.max(axis=(-2, -1)), n=n, **means)


def resample_area(maps: Maps, grid: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Maps on another grid of the same image: each cell's value goes where its area lies.

    Args:
        maps: ``(..., h, w)``.
        grid: (rows, columns) of the result.

    Returns:
        ``(..., rows, columns)`` with the same sums; the same values if the grids agree.
    """
    if maps.shape[-2:] == grid:
        return maps.astype(np.float64)
    rows, columns = (_overlaps(a, b) for a, b in zip(maps.shape[-2:], grid, strict=True))
    resampled: npt.NDArray[np.float64] = rows @ maps @ columns.T
    return resampled


def _overlaps(n_from: int, n_to: int) -> npt.NDArray[np.float64]:
    """``(n_to, n_from)``: the share of each old interval that falls into each new one."""
    old, new = (np.arange(n + 1) / n for n in (n_from, n_to))
    low = np.maximum(new[:-1, None], old[None, :-1])
    high = np.minimum(new[1:, None], old[None, 1:])
    shares: npt.NDArray[np.float64] = np.maximum(high - low, 0) * n_from
    return shares
