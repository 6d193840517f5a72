"""One labeled image, and its columns in a shard.

Columns: ``index``, ``id``, ``status``, ``reason``, ``question``, ``image``, ``response``,
``response_ids``, ``grounding``, ``sink``, ``grid_h``, ``grid_w``, ``geometry``. The maps are
flattened row by row. ``image`` is the struct ``{bytes, path}`` of Hugging Face datasets,
so that shards open there as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sdrpn_core.errors import ShardError
from sdrpn_core.grid.geometry import Geometry
from sdrpn_core.shards.record_fields import RECORD_FIELDS, of_columns, of_skipped, to_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdrpn_core.data.record import Record

__all__ = ["SCHEMA", "LabelRow", "LabelStatus", "row_from_table", "rows_to_table"]


class LabelStatus(str, Enum):
    """What became of a record in the label stage."""

    OK = "ok"
    UNREADABLE = "unreadable"
    """The image is missing or broken."""
    INVALID = "invalid"
    """The record cannot be asked: no question, no image, or a row of a file that is broken."""
    NO_RESPONSE = "no_response"
    """The backbone answered nothing, so there is no response whose attention could be read."""
    NAN_ATTENTION = "nan_attention"
    """The attention holds NaN or infinity."""


SCHEMA = pa.schema(
    [
        *RECORD_FIELDS,
        pa.field("response", pa.string()),
        pa.field("response_ids", pa.list_(pa.int64()), nullable=False),
        pa.field("grounding", pa.list_(pa.float32())),
        pa.field("sink", pa.list_(pa.float32())),
        pa.field("grid_h", pa.int32()),
        pa.field("grid_w", pa.int32()),
        pa.field("geometry", pa.string()),
    ]
)


@dataclass(frozen=True, eq=False)
class LabelRow:
    """The label of one record, or the reason why it has none.

    Attributes:
        index: position of the record in its source.
        id: id of the record.
        question: the question as it was asked.
        image: where to get the image again: an absolute path, or encoded bytes (see
            :func:`~sdrpn_core.shards.image_cell.portable_image`); ``None`` if there is none.
        status: only rows with status ``OK`` carry a response, maps and geometry.
        reason: why the record was skipped, one line; empty for ``OK``.
        response: the text whose attention was read.
        response_ids: its token ids.
        grounding: (h, w) float32, response-to-image attention of the grounding heads.
        sink: (h, w) float32, the same of the sink heads; ``None`` for a recipe without any.
        geometry: maps the grid to source pixels; its grid is (h, w).

    Raises:
        ShardError: the fields contradict each other, or a map is not finite.
    """

    index: int
    id: str
    question: str
    image: Path | bytes | None
    status: LabelStatus = LabelStatus.OK
    reason: str = ""
    response: str | None = None
    response_ids: tuple[int, ...] = ()
    grounding: NDArray[np.float32] | None = None
    sink: NDArray[np.float32] | None = None
    geometry: Geometry | None = None

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise ShardError(f"label of record {self.id!r} (index {self.index}): {problem}")

    @classmethod
    def skip(cls, index: int, record: Record, status: LabelStatus, reason: str) -> LabelRow:
        """Make the row of a record that could not be labeled.

        Args:
            index: position of the record in its source.
            record: the record; of its image only a path is kept.
            status: any status but ``OK``.
            reason: why, for the user; folded into one line.
        """
        return cls(status=status, **of_skipped(index, record, reason))

    def _problem(self) -> str:
        if self.index < 0:
            return "index must not be negative"
        maps = {"grounding": self.grounding, "sink": self.sink}
        if self.status is not LabelStatus.OK:
            given = [*filter(None, (self.response, self.response_ids, self.geometry))]
            if given or any(values is not None for values in maps.values()):
                return f"status {self.status.value!r} comes with a response, maps or geometry"
            return "" if self.reason else f"status {self.status.value!r} needs a reason"
        if self.response is None or self.grounding is None or self.geometry is None:
            return "status 'ok' needs response, grounding and geometry"
        for name, values in maps.items():
            if values is None:
                continue
            if values.dtype != np.float32 or values.shape != self.geometry.grid:
                found = f"{values.dtype} {values.shape}"
                return f"{name} must be float32 {self.geometry.grid}, the geometry's grid: {found}"
            if not np.isfinite(values).all():
                return f"{name} is not finite: such a record has status 'nan_attention'"
        return ""


def rows_to_table(rows: Sequence[LabelRow]) -> pa.Table:
    """Return rows as an arrow table with :data:`SCHEMA`."""
    return pa.Table.from_pylist([_columns(row) for row in rows], schema=SCHEMA)


def row_from_table(table: pa.Table, position: int) -> LabelRow:
    """Return row ``position`` of a table with :data:`SCHEMA`; its maps are writable copies.

    Raises:
        ShardError: the values contradict each other.
        ConfigError: the geometry is of a kind that is not known here.
    """
    maps = ("grounding", "sink")
    values: Mapping[str, Any] = table.drop_columns(maps).slice(position, 1).to_pylist()[0]
    grounding, sink = (
        _map(table.column(name)[position], values["grid_h"], values["grid_w"]) for name in maps
    )
    geometry = values["geometry"]
    return LabelRow(
        **of_columns(values, LabelStatus),
        response=values["response"],
        response_ids=tuple(values["response_ids"]),
        grounding=grounding,
        sink=sink,
        geometry=None if geometry is None else Geometry.from_dict(json.loads(geometry)),
    )


def _columns(row: LabelRow) -> dict[str, Any]:
    grid_h, grid_w = (None, None) if row.geometry is None else row.geometry.grid
    return {
        **to_columns(row),
        "response": row.response,
        "response_ids": row.response_ids,
        "grounding": None if row.grounding is None else row.grounding.ravel(),
        "sink": None if row.sink is None else row.sink.ravel(),
        "grid_h": grid_h,
        "grid_w": grid_w,
        "geometry": None
        if row.geometry is None
        else json.dumps(row.geometry.to_dict(), sort_keys=True),
    }


def _map(cell: pa.ListScalar, grid_h: int | None, grid_w: int | None) -> NDArray[np.float32] | None:
    if not cell.is_valid:
        return None
    flat: NDArray[np.float32] = cell.values.to_numpy()
    if grid_h is None or grid_w is None or flat.size != grid_h * grid_w:
        raise ShardError(f"a map of {flat.size} cells does not fill a {grid_h} x {grid_w} grid")
    return flat.reshape(grid_h, grid_w).copy()
