"""What somebody may have done to a file that a command reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Edit = Callable[[Path], None]

NESTED = "[" * 100_000
RAW: dict[str, bytes] = {
    "empty": b"",
    "nested": NESTED.encode(),
    "nested and closed": (NESTED + "]" * 100_000).encode(),
    "nested objects": b'{"a":' * 100_000,
    "binary": bytes(range(256)),
    "zeros": b"\0" * 4096,
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "a list": b"[1, 2]",
    "null": b"null",
    "nan": b"NaN",
    "a text": b'"text"',
    "a long number": b"9" * 10_000,
    "surrogate": b'{"\\ud800": "\\udfff"}',
    "no object": b"{}",
}

ODD: dict[str, Any] = {
    "null": None,
    "true": True,
    "text": "abc",
    "empty text": "",
    "list": [],
    "object": {},
    "5": 5,
    "-1": -1,
    "1.5": 1.5,
    "nan": float("nan"),
    "infinity": float("inf"),
    "billion": 1_000_000_000,
    "googol": 10**100,
    "nested": [[[[]]]],
    "surrogate": "\ud800",
}


def write(path: str, content: bytes) -> Edit:
    """Replace a file."""

    def edit(folder: Path) -> None:
        (folder / path).unlink()
        (folder / path).write_bytes(content)

    return edit


def change(path: str, *keys: str, to: Any) -> Edit:
    """Replace one value of a JSON file."""

    def edit(folder: Path) -> None:
        values = json.loads((folder / path).read_text())
        inner = values
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to
        write(path, json.dumps(values).encode())(folder)

    return edit


def change_line(path: str, number: int, key: str, to: Any) -> Edit:
    """Replace one value in one line of a JSONL file."""

    def edit(folder: Path) -> None:
        lines = (folder / path).read_text().splitlines()
        values = json.loads(lines[number])
        values[key] = to
        lines[number] = json.dumps(values)
        write(path, "".join(f"{line}\n" for line in lines).encode())(folder)

    return edit


def replace_line(path: str, number: int, content: bytes) -> Edit:
    """Replace one line of a JSONL file."""

    def edit(folder: Path) -> None:
        lines = (folder / path).read_bytes().split(b"\n")
        lines[number] = content.replace(b"\n", b" ")
        write(path, b"\n".join(lines))(folder)

    return edit


def tensors(path: str, act: Callable[[dict[str, Any]], dict[str, Any]]) -> Edit:
    """Replace the tensors of a safetensors file."""

    def edit(folder: Path) -> None:
        from safetensors.torch import load, save

        changed = act(load((folder / path).read_bytes()))
        write(path, save(changed, metadata={"format": "pt"}))(folder)

    return edit


def cast(dtype: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """All tensors in another dtype."""

    def act(found: dict[str, Any]) -> dict[str, Any]:
        import torch

        return {name: tensor.to(getattr(torch, dtype)) for name, tensor in found.items()}

    return act


def fill(value: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """All tensors with one value."""
    return lambda found: {name: tensor.fill_(value) for name, tensor in found.items()}


def cut(path: str, share: float) -> Edit:
    """Cut a file short."""

    def edit(folder: Path) -> None:
        content = (folder / path).read_bytes()
        write(path, content[: int(len(content) * share)])(folder)

    return edit


def rename(old: str, new: str) -> Edit:
    """Rename a file or folder."""
    return lambda folder: (folder / old).rename(folder / new) and None
