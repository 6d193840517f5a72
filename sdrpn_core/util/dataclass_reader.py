"""Dataclasses from plain values: fields checked by name and by annotated type.

Settings come from JSON files, from ``KEY=VALUE`` options and from Python; every one of them is read
here, so that a mistake is one line that says what was wrong, and where.
"""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import lru_cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from sdrpn_core.errors import ConfigError

__all__ = ["check_fields", "read_dataclass"]

T = TypeVar("T")

#: JSON has integers of any size; nothing here counts past what 64 bits hold.
_MAX_INT = 2**63 - 1
_MAX_SHOWN = 60
#: Whose annotations are kept: to resolve them takes most of a check.
_MAX_CLASSES = 256


def read_dataclass(cls: type[T], values: Mapping[str, Any], what: str) -> T:
    """Build a dataclass from plain values, the fields that are left out at their defaults.

    The annotation of a field says what it takes: ``int`` (no bool), ``float`` (finite; an integer
    will do), ``str``, ``bool``, ``None``, ``Literal``, enums (by value), unions of these, tuples
    and lists (from either), mappings (keys of type ``int`` also as text, since JSON has no others),
    nested dataclasses (from a mapping), ``Any``, and instances of any other class.

    Args:
        cls: the dataclass.
        values: its fields by name.
        what: what is read, as messages call it.

    Raises:
        ConfigError: an unknown field (names a near one), a missing one, a value of the wrong type,
            or what the class itself refuses.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{what} must be an object, not {_shown(values)}")
    known = {field.name: field for field in fields(cls) if field.init}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise ConfigError(f"{what}: {_unknown(name, known)}")
    missing = [
        name
        for name, field in known.items()
        if field.default is MISSING and field.default_factory is MISSING and name not in values
    ]
    if missing:
        raise ConfigError(f"{what}: {', '.join(missing)} {_be(missing)} missing")
    annotations = _annotations(cls)  # type: ignore[arg-type]  # classes can be hashed
    checked = {
        name: _checked(value, annotations[name], f"{what}: {name}")
        for name, value in values.items()
    }
    return cls(**checked)


def check_fields(instance: object, what: str) -> None:
    """Check the fields of a dataclass that was made directly, not read, by their annotations.

    Numbers of NumPy are as good as plain ones.

    Args:
        instance: of a dataclass.
        what: what it is, as messages call it.

    Raises:
        ConfigError: a value of the wrong type; says which.
    """
    annotations = _annotations(type(instance))  # type: ignore[arg-type]  # likewise
    for field in fields(instance):  # type: ignore[arg-type]  # it is a dataclass
        value = getattr(instance, field.name)
        plain = value.item() if getattr(value, "ndim", None) == 0 else value
        _checked(plain, annotations[field.name], f"{what}: {field.name}")


@lru_cache(maxsize=_MAX_CLASSES)
def _annotations(cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(cls)
    except NameError as error:
        raise ConfigError(
            f"{cls.__name__}: the type of a field cannot be resolved ({error}): import it at run "
            "time, not for type checkers alone"
        ) from error


def _unknown(name: object, known: Collection[str]) -> str:
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown field {_shown(name)}; {hint}fields: {', '.join(known) or 'none'}"


def _checked(value: Any, annotation: Any, where: str) -> Any:
    """The value as its field holds it.

    Raises:
        ConfigError: it is not of the annotated type; begins with ``where``.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _checked_union(value, arguments, where)
    if origin is tuple or origin in (list, Sequence):
        return _checked_items(value, annotation, where)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _checked_mapping(value, annotation, where)
    if is_dataclass(annotation) and isinstance(value, Mapping):
        return read_dataclass(annotation, value, where)  # type: ignore[arg-type]  # it is a class
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        value = next((member for member in annotation if member.value == value), value)
    if not _is_plain(value, annotation):
        raise ConfigError(f"{where} must be {_named(annotation)}, not {_shown(value)}")
    return value


def _is_plain(value: Any, annotation: Any) -> bool:
    """Whether a value that is not built of others is of the annotated type."""
    if annotation is Any or annotation is object:
        return True
    if annotation is None or annotation is type(None):
        return value is None
    if get_origin(annotation) is Literal:
        return any(value == one and type(value) is type(one) for one in get_args(annotation))
    if annotation is float:
        return _is_finite(value)
    if annotation is int:
        return _is_int(value) and abs(value) <= _MAX_INT
    if isinstance(annotation, type):
        return isinstance(value, annotation)
    raise ConfigError(f"fields of type {annotation} cannot be read from plain values")


def _checked_union(value: Any, alternatives: tuple[Any, ...], where: str) -> Any:
    present = [one for one in alternatives if one is not type(None)]
    if value is None and len(present) < len(alternatives):
        return None
    if len(alternatives) == 2 and len(present) == 1:  # Optional: its own message says more
        return _checked(value, present[0], where)
    for alternative in present:
        try:
            return _checked(value, alternative, where)
        except ConfigError:
            continue
    raise ConfigError(
        f"{where} must be {' or '.join(map(_named, alternatives))}, not {_shown(value)}"
    )


def _checked_items(value: Any, annotation: Any, where: str) -> Any:
    kind, arguments = get_origin(annotation), get_args(annotation)
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where} must be {_named(annotation)}, not {_shown(value)}")
    if kind is tuple and arguments[-1:] != (...,):
        if len(value) != len(arguments):
            raise ConfigError(f"{where} must be {_named(annotation)}, not {_shown(value)}")
    else:
        arguments = (arguments[0],) * len(value)
    items = [
        _checked(item, one, f"{where}[{index}]")
        for index, (item, one) in enumerate(zip(value, arguments, strict=True))
    ]
    return items if kind is list else tuple(items)


def _checked_mapping(value: Any, annotation: Any, where: str) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} must be an object, not {_shown(value)}")
    key_type, item_type = get_args(annotation)
    checked = {}
    for key, item in value.items():
        read = int(key) if key_type is int and _is_number_text(key) else key
        name = _checked(read, key_type, f"{where}: key {_shown(key)}")
        if name in checked:
            raise ConfigError(f"{where}: key {_shown(key)} is given twice")
        checked[name] = _checked(item, item_type, f"{where}[{_shown(key)}]")
    return checked


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    try:
        return (_is_int(value) or isinstance(value, float)) and math.isfinite(value)
    except OverflowError:  # an integer that no float reaches
        return False


def _is_number_text(key: Any) -> bool:
    digits = str(_MAX_INT)
    return isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) <= len(digits)


def _named(annotation: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_named, arguments))
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin is tuple and arguments[-1:] != (...,):
        return f"a list of {len(arguments)} items"
    if origin in (tuple, list, Sequence):
        return "a list"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(repr(member.value) for member in annotation)
    if is_dataclass(annotation) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return "an object"
    names = {
        int: "a whole number",
        float: "a finite number",
        bool: "true or false",
        str: "text",
        type(None): "null",
    }
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _shown(value: object) -> str:
    """A value in a message: one line, and not much of it."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer or a nesting that is too long to write out
        return f"a value of type {type(value).__name__} that is too large to show"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _be(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
