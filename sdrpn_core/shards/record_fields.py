"""What every row keeps of its record: where it stands, what was asked, and of which image."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sdrpn_core.data.text import encodable
from sdrpn_core.shards.image_cell import IMAGE_TYPE, image_cell, image_of_cell, skipped_image

if TYPE_CHECKING:
    from sdrpn_core.data.record import Record

__all__ = ["RECORD_FIELDS", "of_columns", "of_skipped", "to_columns"]

RECORD_FIELDS = [
    pa.field("index", pa.int64(), nullable=False),
    pa.field("id", pa.string(), nullable=False),
    pa.field("status", pa.string(), nullable=False),
    pa.field("reason", pa.string(), nullable=False),
    pa.field("question", pa.string(), nullable=False),
    pa.field("image", IMAGE_TYPE),
]
"""The first columns of every shard."""


def of_skipped(index: int, record: Record, reason: str) -> dict[str, Any]:
    """The fields of the row of a record that could not be used, but for its status.

    Args:
        index: position of the record in its source.
        record: the record; of its image only a path is kept.
        reason: why, for the user; folded into one line.
    """
    return {
        "index": index,
        "id": encodable(record.id),
        "question": encodable(record.question),
        "image": skipped_image(record),
        "reason": " ".join(reason.split()),
    }


def to_columns(row: Any) -> dict[str, Any]:
    """The values of a row in these columns."""
    return {
        "index": row.index,
        "id": row.id,
        "status": row.status.value,
        "reason": row.reason,
        "question": row.question,
        "image": image_cell(row.image),
    }


def of_columns(values: Mapping[str, Any], statuses: type[Enum]) -> dict[str, Any]:
    """The fields of a row from the values of these columns.

    Args:
        values: by column.
        statuses: what the status is one of.
    """
    fields = {name: values[name] for name in ("index", "id", "reason", "question")}
    image = image_of_cell(values["image"])
    return {**fields, "status": statuses(values["status"]), "image": image}
