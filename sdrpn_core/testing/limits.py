"""Limits: images of any size are encoded within the processor's bounds, or clearly rejected."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.backbone.question import ImageInput, Question
from sdrpn_core.crops.policy import Outcome
from sdrpn_core.errors import ConfigError, ImageError
from sdrpn_core.grid.geometry import Geometry
from sdrpn_core.testing.checks import check
from sdrpn_core.testing.encoding import PREPROCESSING, encoded
from sdrpn_core.testing.images import block_image
from sdrpn_core.testing.regions import FixedRegion
from sdrpn_core.testing.subject import ContractSubject

#: (width, height): a pixel, slivers, shapes beyond usual limits, and a photograph.
_EXTREMES = ((1, 1), (1, 40), (40, 1), (2, 3), (8, 8), (1500, 5), (5, 1500), (1500, 1000))
#: Those of a usual shape, which are enlarged or reduced.
_SMALL_AND_LARGE = _EXTREMES[-4], _EXTREMES[-1]
#: Regions that a policy may choose, as shares of the image's width and height.
_PIXEL, _SLIVER = (0.5, 0.5, 0.5, 0.5), (0.0, 0.5, 1.0, 0.5)

#: The two methods that take a budget.
_BUDGETED = ("with_visual_tokens", "preprocess_native_crop")
_NO_LIMIT = 2**20


class LimitChecks(ContractSubject):
    """Whole images and crops, small, long and large."""

    def test_extreme_images_are_encoded_or_refused(self, backbone: Backbone) -> None:
        """What the family cannot encode is an ``ImageError``, never its processor's exception."""
        _check_extremes(backbone, "preprocess")

    def test_extreme_crops_are_encoded_or_refused(self, backbone: Backbone) -> None:
        """The core reports a rejected crop as ``too_small``."""
        _check_extremes(backbone, "preprocess_crop")

    def test_visual_tokens_stay_within_the_limits(self, backbone: Backbone) -> None:
        """Large images are reduced and small ones enlarged to what the processor is set to."""
        most = self.max_visual_tokens or backbone.text_config.max_position_embeddings
        for method in PREPROCESSING:
            for size in (*_SMALL_AND_LARGE, *self.sizes):
                geometry = _geometry(backbone, method, block_image(0, size))
                if geometry is None:
                    continue
                h, w = geometry.grid
                check(
                    self.min_visual_tokens <= h * w <= most,
                    f"{method}: an image of {size} becomes {h}x{w} visual tokens, the processor's "
                    f"limits are {self.min_visual_tokens} to {most}",
                )

    def test_budgets_of_visual_tokens_are_kept_or_refused(self, backbone: Backbone) -> None:
        """A family of dynamic resolution keeps budgets of images and of crops; others refuse them.

        Half of the tokens that a crop takes at its own resolution are enough of a budget.
        """
        for size in self.sizes:
            image = block_image(0, size)
            if not backbone.dynamic_resolution:
                for method in _BUDGETED:
                    _check_refusal(method, _ask(backbone, method, image))
                continue
            native = _ask(backbone, "preprocess_native_crop", image)
            limit = _n_tokens(native(_NO_LIMIT)) // 2
            for method in _BUDGETED:
                item = _ask(backbone, method, image)(limit)
                rows, columns = item.geometry.grid
                check(
                    rows * columns <= limit,
                    f"{method}: an image of {size} becomes {rows}x{columns} visual tokens under a "
                    f"budget of {limit}",
                )
                check(
                    item.geometry.source_size == size,
                    f"{method}: the geometry's source is {item.geometry.source_size}, and the "
                    f"image {size}",
                )
                (features,) = backbone.image_features([item])
                check(
                    len(features) == rows * columns,
                    f"{method}: {len(features)} features for {rows}x{columns} visual tokens",
                )

    def test_a_region_too_small_to_encode_leaves_the_plain_answer(self, backbone: Backbone) -> None:
        """A crop of one pixel, and one of one row, are cropped or ``too_small``, never an error."""
        question = Question("what is it ?", (block_image(0, self.sizes[0]),))
        (plain,) = answer_batch(backbone, [question], max_new_tokens=2)
        for box in (_PIXEL, _SLIVER):
            (found,) = answer_batch(backbone, [question], FixedRegion(box), max_new_tokens=2)
            check(
                found.outcome in (Outcome.OK, Outcome.TOO_SMALL),
                f"preprocess_crop: a region of {found.boxes} has the outcome {found.outcome}",
            )
            check(
                found.outcome is Outcome.OK or found.ids == plain.ids,
                "preprocess_crop: a refused crop changes the answer",
            )


def _ask(backbone: Backbone, method: str, image: Image.Image) -> Callable[[int], ImageInput]:
    """What a method of :data:`_BUDGETED` makes of an image, by the budget."""
    if method == "with_visual_tokens":
        return lambda limit: backbone.with_visual_tokens(limit).preprocess(image)
    return lambda limit: backbone.preprocess_native_crop(image, limit)


def _n_tokens(item: ImageInput) -> int:
    rows, columns = item.geometry.grid
    return rows * columns


def _check_refusal(method: str, ask: Callable[[int], ImageInput]) -> None:
    try:
        ask(8)
    except ConfigError:
        return
    raise AssertionError(
        f"{method}: takes a budget of visual tokens, and dynamic_resolution says that the family "
        "has none"
    )


def _check_extremes(backbone: Backbone, method: str) -> None:
    for size in _EXTREMES:
        geometry = _geometry(backbone, method, block_image(0, size))
        if geometry is None:
            continue
        h, w = geometry.grid
        whole = geometry.to_source([[0, 0, w, h]])[0].tolist()
        check(
            whole == [0, 0, *size],
            f"{method}: the grid covers the source box {whole} of an image of {size}",
        )


def _geometry(backbone: Backbone, method: str, image: Image.Image) -> Geometry | None:
    """The geometry of an image that a method can encode; ``None`` if it raises ``ImageError``."""
    try:
        ((item, _),) = encoded(backbone, method, [image])
    except ImageError:
        return None
    except AssertionError:
        raise
    except Exception as error:  # whatever a processor raises
        raise AssertionError(
            f"{method}: an image of {image.size} raises {type(error).__name__} ({error}): raise "
            "ImageError where the family cannot encode an image"
        ) from error
    return item.geometry
