"""RoI maps alone, without an answer: only the layers below the branch run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sdrpn_core.backbone.given import check_backbone
from sdrpn_core.backbone.question import Question
from sdrpn_core.rpn.model import check_rpn
from sdrpn_core.runtime.block import image_places
from sdrpn_core.runtime.generation import prompt_block
from sdrpn_core.taps.feature_tap import FeatureTap

if TYPE_CHECKING:
    from PIL import Image

    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.prompt import Prompt
    from sdrpn_core.grid.roi_map import RoIMap
    from sdrpn_core.rpn.model import RPN
    from sdrpn_core.runtime.block import ImagePlace, WantsQuestion
    from sdrpn_core.taps.feature_tap import Features


def predict_roi(
    backbone: Backbone,
    image: str | Path | bytes | Image.Image | Sequence[Any],
    question: str,
    rpn: RPN,
) -> list[RoIMap]:
    """Predict the region that a question is about.

    Args:
        backbone: the model.
        image: path, bytes or image, or a list of these.
        question: the question.
        rpn: a trained RPN of that backbone.

    Returns:
        One map ``(h, w)`` per image, the same as in a two-stage answer.

    Raises:
        ImageError: an image cannot be read.
        InputError: empty question, no image, or a prompt beyond the model's context.
        ConfigError: not a backbone or not an RPN.
    """
    check_backbone(backbone)
    check_rpn(rpn)
    prompts = backbone.encode([Question.about(image, question)])
    return predict_prompt_roi(backbone, prompts, rpn)


@torch.no_grad()
def predict_prompt_roi(
    backbone: Backbone,
    prompts: Sequence[Prompt],
    rpn: RPN,
    *,
    wants_question: WantsQuestion | None = None,
) -> list[RoIMap]:
    """As :func:`predict_roi` for a batch of encoded prompts without responses.

    Only the decoder layers 0 .. B - 1 run, and no cache is kept.

    Args:
        backbone: the model.
        prompts: a batch without responses.
        rpn: a trained RPN of that backbone.
        wants_question: see :func:`~sdrpn_core.runtime.block.image_places`.

    Returns:
        One map per image, prompt by prompt.

    Raises:
        InputError: a prompt beyond the model's context.
    """
    if not any(prompt.images for prompt in prompts):
        return []
    features, places = prompt_features(backbone, prompts, rpn.branch, wants_question=wants_question)
    return rpn.eval()(features, places).maps()


@torch.no_grad()
def prompt_features(
    backbone: Backbone,
    prompts: Sequence[Prompt],
    branch: int,
    *,
    wants_question: WantsQuestion | None = None,
) -> tuple[Features, list[ImagePlace]]:
    """Branch features of whole prompts in one pass, and where the images lie in them.

    Args:
        backbone: the model.
        prompts: a batch without responses.
        branch: B; the layers behind it do not run.
        wants_question: see :func:`~sdrpn_core.runtime.block.image_places`.

    Raises:
        InputError: a prompt beyond the model's context.
    """
    backbone.check_context(max(map(len, prompts)))
    block = prompt_block(backbone, prompts)
    with FeatureTap(backbone.decoder, branch) as tap:
        features = tap.run(**block.model_inputs())
    return features, image_places(prompts, block, wants_question=wants_question)
