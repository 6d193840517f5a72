"""What all tables of Arrow data share: rows of a batch, and which types may hold images."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from sdrpn_core.data.fields import Fields, Row
from sdrpn_core.errors import InputError

__all__ = ["batch_rows", "check_schema", "text_columns"]


def batch_rows(batch: pa.RecordBatch | pa.Table) -> list[Row | str]:
    """The rows of a batch; of one whose values cannot be read, why."""
    try:
        rows: list[Row | str] = batch.to_pylist()
    except (ValueError, OverflowError) as error:  # text that is not UTF-8, a date without a year
        if batch.num_rows == 1:
            return [f"cannot be read: {error}"]
        return [row for start in range(batch.num_rows) for row in batch_rows(batch.slice(start, 1))]
    return rows


def check_schema(schema: pa.Schema, fields: Fields, where: str) -> None:
    """Refuse a schema without questions or images.

    Raises:
        InputError: A column is missing, or that of the images has a type which cannot hold any.
    """
    try:
        fields.check(schema.names)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    for name in fields.columns(schema.names, "image"):
        kind = schema.field(name).type
        if not _holds_images(kind):
            raise InputError(
                f"{where}: column {name!r} must hold paths, encoded bytes or {{bytes, path}}, not "
                f"{kind}"
            )


def text_columns(names: Iterable[str], fields: Fields) -> list[str]:
    """The columns of all fields but the images."""
    columns = list(names)
    images = fields.columns(columns, "image")
    extra = fields.extra(dict.fromkeys(columns))
    return [name for name in columns if name not in images and name not in extra]


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _holds_images(kind.value_type)
    if not pa.types.is_struct(kind):
        return _is_bytes(kind) or _is_text(kind) or bool(pa.types.is_null(kind))
    names = {field.name: field.type for field in kind}
    encoded, path = names.get("bytes"), names.get("path")
    return (encoded is not None and _is_bytes(encoded)) or (path is not None and _is_text(path))


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view()


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or kind == pa.binary_view()
