"""A prompt as the decoder sees it: runs of text tokens and runs of visual tokens.

Every stage works on segments, not on flat id lists: positions (1-D or multimodal), the insertion of
crops and the reuse of a prefix all need to know where an image's tokens begin and end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from sdrpn_core.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from sdrpn_core.grid.geometry import Box, Geometry


@dataclass(frozen=True)
class TextSegment:
    """Consecutive text tokens.

    Attributes:
        ids: token ids.
    """

    ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class ImageSegment:
    """The visual tokens of one image or of one crop.

    Attributes:
        features: ``(n, token_width)`` projected features of the tokens that are kept, row-major.
        grid: ``(h, w)`` cells of the whole image, dropped tokens included.
        geometry: where the cells lie in the source image; ``None`` for a crop.
        keep: ``(h, w)`` bool, the tokens that stay; ``None`` when all of them do.
        region: of a crop, the half-open box (x0, y0, x1, y1) of its region in cells of the image;
            ``None`` for an image.
        rank: of a crop, which one of how many of its image it is: ``(0, 2)`` is the first of two.
    """

    features: torch.Tensor
    grid: tuple[int, int]
    geometry: Geometry | None = None
    keep: torch.Tensor | None = None
    region: Box | None = None
    rank: tuple[int, int] = (0, 1)

    def __len__(self) -> int:
        return int(self.features.shape[0])

    def masked(self, keep: npt.NDArray[np.bool_] | None) -> ImageSegment:
        """Only the tokens of a segment with all its tokens that ``keep`` marks; ``None``: all."""
        if keep is None:
            return self
        kept = torch.from_numpy(keep)
        return replace(
            self, features=self.features[kept.flatten().to(self.features.device)], keep=kept
        )


Segment = TextSegment | ImageSegment


@dataclass(frozen=True)
class Prompt:
    """One sequence, as segments.

    Attributes:
        segments: text and visual tokens in order.
        response_length: how many of the last tokens are a given response (0 at inference).
    """

    segments: tuple[Segment, ...]
    response_length: int = 0

    def __len__(self) -> int:
        return sum(len(segment) for segment in self.segments)

    @property
    def image_spans(self) -> tuple[tuple[int, int], ...]:
        """``(start, stop)`` of every image of the prompt (crops left out), in tokens."""
        return tuple(
            (start, start + len(segment))
            for start, segment in self._with_starts()
            if isinstance(segment, ImageSegment) and segment.geometry is not None
        )

    @property
    def images(self) -> tuple[ImageSegment, ...]:
        """The images of the prompt, crops left out."""
        return tuple(
            segment
            for segment in self.segments
            if isinstance(segment, ImageSegment) and segment.geometry is not None
        )

    @property
    def geometries(self) -> tuple[Geometry, ...]:
        """Where the cells of each image lie, crops left out."""
        return tuple(
            segment.geometry
            for segment in self.segments
            if isinstance(segment, ImageSegment) and segment.geometry is not None
        )

    @property
    def n_visual_tokens(self) -> int:
        """All visual tokens, crops included."""
        return sum(len(s) for s in self.segments if isinstance(s, ImageSegment))

    @property
    def query_index(self) -> int:
        """Index of the last prompt token: the RPN's query, whose row predicts the response."""
        return len(self) - self.response_length - 1

    @property
    def response_ids(self) -> tuple[int, ...]:
        """Tokens of the given response."""
        if not self.response_length:
            return ()
        ids = self.segments[-1].ids  # type: ignore[union-attr]  # a response is text
        return tuple(ids[-self.response_length :])

    @property
    def prefix_length(self) -> int:
        """Tokens up to the end of the last image: the part that no crop changes.

        Without an image it is one token, so that every prompt of a batch has a prefix.
        """
        spans = self.image_spans
        return spans[-1][1] if spans else 1

    def with_features(self, embeds: torch.Tensor) -> Prompt:
        """The prompt, its visual tokens' features taken from its rows ``(length, token_width)``."""
        return replace(
            self,
            segments=tuple(
                replace(segment, features=embeds[start : start + len(segment)])
                if isinstance(segment, ImageSegment)
                else segment
                for start, segment in self._with_starts()
            ),
        )

    def followed_by(self, ids: tuple[int, ...]) -> Prompt:
        """The prompt, and more text behind it."""
        *before, last = self.segments
        if isinstance(last, TextSegment):
            return replace(self, segments=(*before, TextSegment((*last.ids, *ids))))
        return replace(self, segments=(*self.segments, TextSegment(ids)))

    def with_response(self, ids: tuple[int, ...]) -> Prompt:
        """The prompt, which has none yet, followed by a response."""
        if self.response_length:
            raise ValueError("the prompt has a response already")
        return replace(self.followed_by(ids), response_length=len(ids))

    def with_crops(self, crops: tuple[tuple[Segment, ...], ...]) -> Prompt:
        """The prompt with the segments ``crops[i]`` inserted right after image ``i``."""
        if len(crops) != len(self.images):
            raise ValueError(f"{len(crops)} groups of crops for {len(self.images)} images")
        groups = iter(crops)
        segments: list[Segment] = []
        for segment in self.segments:
            segments.append(segment)
            if isinstance(segment, ImageSegment) and segment.geometry is not None:
                segments.extend(next(groups))
        return replace(self, segments=tuple(segments))

    def pruned(self, keep: tuple[npt.NDArray[np.bool_] | None, ...]) -> Prompt:
        """The prompt with only the tokens ``keep[i]`` (``(h, w)`` bool) of image ``i``.

        ``None`` leaves an image as it is. The grid stays, so that positions stay as well.
        """
        if len(keep) != len(self.images):
            raise ValueError(f"{len(keep)} masks for {len(self.images)} images")
        masks = iter(keep)
        segments: list[Segment] = []
        for segment in self.segments:
            if isinstance(segment, ImageSegment) and segment.geometry is not None:
                segment = segment.masked(next(masks))
            segments.append(segment)
        return replace(self, segments=tuple(segments))

    def _with_starts(self) -> list[tuple[int, Segment]]:
        starts, position = [], 0
        for segment in self.segments:
            starts.append((position, segment))
            position += len(segment)
        return starts


def prompt_of_ids(
    ids: Sequence[int],
    response_ids: Sequence[int],
    images: Iterator[ImageSegment],
    image_token_id: int,
) -> Prompt:
    """A prompt of token ids, a placeholder in the place of each image.

    Args:
        ids: of the prompt.
        response_ids: of a response that follows it; empty if there is none.
        images: as many are taken as there are placeholders.
        image_token_id: the placeholder.
    """
    segments: list[Segment] = []
    text: list[int] = []
    for token in (*ids, *response_ids):
        if token != image_token_id:
            text.append(token)
            continue
        if text:
            segments.append(TextSegment(tuple(text)))
            text = []
        segments.append(next(images))
    if text:
        segments.append(TextSegment(tuple(text)))
    return Prompt(tuple(segments), len(response_ids))


def checked_prompts(prompts: Iterable[object]) -> Iterator[Prompt]:
    """The prompts of a batch.

    Raises:
        InputError: no list of prompts, or an entry that is none; says what to write.
    """
    remedy = "write backbone.encode(questions)"
    if isinstance(prompts, Prompt):
        raise InputError("a list of prompts is expected, not a Prompt: write [prompt]")
    if not isinstance(prompts, Iterable):
        raise InputError(f"a list of prompts is expected, not {type(prompts).__name__}: {remedy}")
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, Prompt):
            raise InputError(
                f"prompt {index} must be a Prompt, not {type(prompt).__name__}: {remedy}"
            )
        yield prompt
