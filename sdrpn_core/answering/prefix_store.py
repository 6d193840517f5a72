"""PrefixStore: keeps prefixes, so that images are not encoded and prefilled again."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, SupportsFloat

from sdrpn_core.data.image_digest import image_digest
from sdrpn_core.errors import ConfigError

if TYPE_CHECKING:
    from sdrpn_core.answering.prefix import Prefix, PrefixReader
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.question import Question

#: Default limit of a store. The keys and values of 600 tokens take 0.3 GB in a 7B model with
#: full attention heads in half precision (32 layers x 2 x 4096 x 2 bytes x 600).
DEFAULT_MAX_BYTES = 2 * 1024**3

#: Of a store that serves one batch, whose prefixes are held in any case.
UNLIMITED_BYTES = 2**62


@dataclass(frozen=True)
class PrefixKey:
    """Identity of a prefix: prefixes with equal keys are equal.

    Attributes:
        ids: its tokens, with one placeholder per image.
        images: per image its size and a digest of its pixels.
        first_look_tokens: largest number of visual tokens that each image was encoded with.
    """

    ids: tuple[int, ...]
    images: tuple[tuple[tuple[int, int], str], ...]
    first_look_tokens: int | None = None


class PrefixStore:
    """A least-recently-used cache of one backbone's prefixes, bounded in memory.

    What is kept is counted as it is: an RPN's work on a prefix waits until a question needs it, and
    counts from then on.

    Pass the same store to several calls of ``answer``, ``answer_batch`` or ``answer_stream``: of
    several questions about one image, only the first pays for the image. What an RPN reads of a
    prefix is kept with it, so :meth:`clear` the store when the RPN's weights change. Several
    threads may use one store; clear it when none does.

    Args:
        max_bytes: limit on the memory of the tensors, on all devices together; a prefix that is
            larger by itself is not kept.

    Attributes:
        hits: how many prefixes were found.
        misses: how many were not.

    Raises:
        ConfigError: the limit is no number or negative; or, when used, the prefixes are another
            backbone's.
    """

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        limit: object = max_bytes
        if not isinstance(limit, SupportsFloat) or not float(limit) >= 0:
            raise ConfigError(f"max_bytes must be a number of 0 or more, not {max_bytes!r}")
        self.max_bytes = max_bytes
        self.hits = 0
        self.misses = 0
        self._kept: OrderedDict[PrefixKey, Prefix] = OrderedDict()
        self._backbone: Backbone | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Memory of the kept prefixes."""
        with self._lock:
            return self._nbytes()

    def clear(self) -> None:
        """Drop all prefixes; the store may then be used with another backbone."""
        with self._lock:
            self._kept.clear()
            self._backbone = None

    def bind(self, backbone: Backbone) -> None:
        """Reserve the store for a backbone.

        Raises:
            ConfigError: it holds prefixes of another one.
        """
        with self._lock:
            if self._backbone is not None and self._backbone is not backbone:
                raise ConfigError(
                    f"the store holds prefixes of {self._backbone.name}, not of {backbone.name}: "
                    "use one store per backbone"
                )
            self._backbone = backbone

    def get(self, key: PrefixKey, reader: PrefixReader | None) -> Prefix | None:
        """The kept prefix with this key, if ``reader`` has read it (``None``: in any case)."""
        with self._lock:
            prefix = self._kept.get(key)
            if prefix is None or (reader is not None and prefix.reader is not reader):
                self.misses += 1
                return None
            self.hits += 1
            self._kept.move_to_end(key)
            return prefix

    def put(self, key: PrefixKey, prefix: Prefix) -> None:
        """Keep a prefix, and drop the least recently used ones that no longer fit."""
        with self._lock:
            self._kept.pop(key, None)
            self._kept[key] = prefix
            self._shrink()

    def shrink(self) -> None:
        """Drop the least recently used prefixes that no longer fit, as what was read of them grew.

        To be called once readers have been asked; the prefixes in use stay usable.
        """
        with self._lock:
            self._shrink()

    def _shrink(self) -> None:
        sizes = {key: prefix.nbytes for key, prefix in self._kept.items()}
        total = sum(sizes.values())
        # What is too large by itself would take all others with it.
        for key in sorted(sizes, key=lambda key: sizes[key] <= self.max_bytes):
            if total <= self.max_bytes:
                break
            total -= sizes[key]
            del self._kept[key]

    def _nbytes(self) -> int:
        return sum(prefix.nbytes for prefix in self._kept.values())


def prefix_keys(
    ids: Sequence[Sequence[int]], questions: Sequence[Question], *, stored: bool
) -> list[PrefixKey | None]:
    """Compute the keys of several prefixes.

    Args:
        ids: their tokens, with placeholders.
        questions: whose prefixes they are.
        stored: whether the prefixes go into a store. If not, only those that may equal another of
            them get a key, because hashing the pixels of a large image takes a while.
    """
    shapes = [
        (tuple(row), tuple(image.size for image in question.images), question.first_look_tokens)
        for row, question in zip(ids, questions, strict=True)
    ]
    count = Counter(shapes)
    return [
        PrefixKey(
            shape[0],
            tuple((image.size, image_digest(image)) for image in question.images),
            question.first_look_tokens,
        )
        if stored or count[shape] > 1
        else None
        for shape, question in zip(shapes, questions, strict=True)
    ]
