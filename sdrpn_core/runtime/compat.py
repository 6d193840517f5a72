"""What stock models call the KV cache that they are given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import transformers
from packaging.version import Version

if TYPE_CHECKING:
    from transformers import Cache

#: transformers 5.24 renamed the argument everywhere, and warns of the older name.
_RENAMED_IN = Version("5.24")

#: Name of the argument of models, decoders, layers and ``generate()``, and of their outputs' field.
CACHE_NAME = "cache" if Version(transformers.__version__) >= _RENAMED_IN else "past_key_values"


def cache_argument(cache: Cache | None) -> dict[str, Any]:
    """The cache as a keyword argument."""
    return {CACHE_NAME: cache}
