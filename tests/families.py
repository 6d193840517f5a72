"""A tiny model of every family that ships, for tests of what must hold for all of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tests.tiny import write_tiny_llava
from tests.tiny_deepseek_vl import write_tiny_deepseek_vl
from tests.tiny_qwen2_5_vl import write_tiny_qwen2_5_vl

#: Writes a tiny model as an ordinary Hugging Face folder.
FAMILIES: dict[str, Callable[..., Any]] = {
    "llava": write_tiny_llava,
    "qwen2_5_vl": write_tiny_qwen2_5_vl,
    "deepseek_vl": write_tiny_deepseek_vl,
    "deepseek_vl_hybrid": partial(write_tiny_deepseek_vl, hybrid=True),
}
