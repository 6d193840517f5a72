"""The fair controls: the plain model with more visual tokens, and with the family's own tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from sdrpn_bench.budgeted import fixed_resolution
from sdrpn_bench.input_side import input_side
from sdrpn_bench.method import Method, MethodContext
from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.proposer import Proposal, Proposer
from sdrpn_core.answering.results import Answer
from sdrpn_core.crops.policy import Crop, CropPlan, Outcome
from sdrpn_core.errors import ConfigError, InputError
from sdrpn_core.util.whole_numbers import check_count

if TYPE_CHECKING:
    from PIL import Image

    from sdrpn_core.answering.prefill import Prefill
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.data.record import Record
    from sdrpn_core.grid.geometry import Geometry

#: The largest budget that families of dynamic resolution publish (Qwen2.5-VL: 12,845,056 pixels).
MAX_TOKENS = 16384


@dataclass(frozen=True)
class FullImage(Method):
    """The plain answer with as many visual tokens as another method's answer had.

    Attributes:
        like: that method. What its answer took is known from the run; it is no part of the cost.
    """

    like: str = "sdrpn"

    @property
    def follows(self) -> str:
        """The method whose visual tokens are counted."""
        return self.like

    def unserved(self, context: MethodContext) -> str | None:
        """Refuse families of fixed resolution."""
        return fixed_resolution(context.backbone)

    def answer(
        self,
        context: MethodContext,
        records: Sequence[Record],
        images: Sequence[tuple[Image.Image, ...]],
    ) -> list[Answer]:
        """Answer each record within the number of tokens that its other answer had.

        Raises:
            InputError: there is no other answer.
        """
        limits = []
        for record, other, shown in zip(records, context.earlier, images, strict=True):
            if not isinstance(other, Answer):
                raise InputError(f"record {record.id!r} has no answer of {self.like!r} to equal")
            limits.append(other.n_visual_tokens // len(shown))
        return answers_within(self, context, records, images, limits)


@dataclass(frozen=True)
class MostTokens(Method):
    """The plain answer with as many visual tokens as the image has pixels for.

    Attributes:
        visual_tokens: largest number per image; the context that the model has left for images
            limits it as well.
    """

    visual_tokens: int = MAX_TOKENS

    def __post_init__(self) -> None:
        check_count(self.visual_tokens, "visual_tokens")

    def unserved(self, context: MethodContext) -> str | None:
        """Refuse families of fixed resolution."""
        return fixed_resolution(context.backbone)

    def answer(
        self,
        context: MethodContext,
        records: Sequence[Record],
        images: Sequence[tuple[Image.Image, ...]],
    ) -> list[Answer]:
        """Answer each record within the limit."""
        limits = []
        for record, shown in zip(records, images, strict=True):
            n_text = len(context.backbone.tokenize(record.question, len(shown)))
            limits.append(min(self.visual_tokens, _room(context, n_text) // len(shown)))
        return answers_within(self, context, records, images, limits)


@dataclass(frozen=True)
class Tiles(Method):
    """The whole image, and behind it equal tiles, as the family was trained to read them.

    Attributes:
        max_tiles: largest number of tiles.
    """

    max_tiles: int = 9

    def __post_init__(self) -> None:
        if self.max_tiles < 2:
            raise ConfigError(f"max_tiles must be at least 2, not {self.max_tiles}")

    def unserved(self, context: MethodContext) -> str | None:
        """Refuse families that were not trained on tiles."""
        if context.backbone.trained_on_tiles:
            return None
        return "the family was not trained to read tiles of an image in addition to the whole"

    def proposer(self, context: MethodContext, records: Sequence[Record]) -> Proposer:
        """Propose all tiles of every image."""
        return TileProposer(self.max_tiles)


class TileProposer(Proposer):
    """Crops an image into equal tiles, none of which the model would have to enlarge.

    Args:
        max_tiles: largest number of tiles.
    """

    def __init__(self, max_tiles: int) -> None:
        self.max_tiles = max_tiles

    def propose(self, state: Prefill) -> list[list[Proposal]]:
        """Plan the tiles of every image; an image that the model sees as it is has none."""
        return [
            [self._proposal(state.backbone, geometry) for geometry in prompt.geometries]
            for prompt in state.prompts
        ]

    def _proposal(self, backbone: Backbone, geometry: Geometry) -> Proposal:
        side = input_side(backbone, geometry, max(geometry.source_size))
        rows, columns = tile_grid(geometry.source_size, side, self.max_tiles)
        if rows * columns == 1:
            return Proposal(CropPlan(Outcome.NO_ROI, reason="the image is no larger than a tile"))
        width, height = geometry.source_size
        boxes = [
            (
                width * column // columns,
                height * row // rows,
                width * (column + 1) // columns,
                height * (row + 1) // rows,
            )
            for row in range(rows)
            for column in range(columns)
        ]
        crops = tuple(Crop(box, geometry.covering_cells(box)) for box in boxes)
        return Proposal(CropPlan(Outcome.OK, crops))


def tile_grid(size: tuple[int, int], side: int, max_tiles: int) -> tuple[int, int]:
    """Rows and columns of tiles: as many as the image has pixels for, and nearly square.

    Args:
        size: (width, height) of the image.
        side: of a tile at the model's resolution, in pixels.
        max_tiles: largest number of tiles.
    """
    width, height = size
    grids = [
        (rows, columns)
        for rows in range(1, min(max_tiles, ceil(height / side)) + 1)
        for columns in range(1, min(max_tiles // rows, ceil(width / side)) + 1)
    ]

    def longest_side(grid: tuple[int, int]) -> float:
        return max(height / grid[0], width / grid[1])

    # The least reduction, with the fewest tiles.
    return min(grids, key=lambda grid: (longest_side(grid), grid[0] * grid[1]))


def answers_within(
    method: Method,
    context: MethodContext,
    records: Sequence[Record],
    images: Sequence[tuple[Image.Image, ...]],
    limits: Sequence[int],
) -> list[Answer]:
    """Plain answers, with at most so many visual tokens per image of each record."""
    questions = method.questions(records, images)
    found: dict[int, Answer] = {}
    for limit in dict.fromkeys(limits):
        places = [place for place, one in enumerate(limits) if one == limit]
        answers = answer_batch(
            context.backbone.with_visual_tokens(limit),
            [questions[place] for place in places],
            max_new_tokens=context.max_new_tokens,
        )
        found.update(zip(places, answers, strict=True))
    return [found[place] for place in range(len(records))]


def _room(context: MethodContext, n_text: int) -> int:
    """Tokens of the model's context besides a prompt's text and the response."""
    config = context.backbone.text_config
    most = getattr(config, "max_position_embeddings", None)
    if most is None:
        return MAX_TOKENS
    return max(1, int(most) - n_text - context.max_new_tokens)
