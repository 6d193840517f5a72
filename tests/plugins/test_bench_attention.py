"""The method `attention` crops where the map is high, whatever the crop policy of its RPN."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdrpn_bench.method import MethodContext
from sdrpn_bench.methods import RawAttention
from sdrpn_core import RPN, LabelRecipe
from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.attention_proposer import AttentionProposer
from sdrpn_core.backbone.question import Question
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.crops.mask import MaskPolicy
from sdrpn_core.errors import ConfigError
from tests.tiny import tiny_image, tiny_llava

RECIPE = LabelRecipe(grounding={2: (0, 1)}, foreground=0.3)
GRID = (12, 12)
#: A random model's attention is spread over the image: only a high share singles places out.
SHARE = 0.9


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava(grid=GRID[0])


def context(backbone, policy, **options):
    rpn = RPN.from_backbone(
        backbone,
        branch=3,
        n_layers=2,
        recipe=RECIPE.to_dict(),
        policy=policy,
        policy_options=options,
    )
    return MethodContext(backbone, rpn, max_new_tokens=3)


def proposer(method, backbone, policy, **options) -> AttentionProposer:
    made = method.proposer(context(backbone, policy, **options), [])
    assert isinstance(made, AttentionProposer)
    return made


@pytest.mark.parametrize("whole_grid", [False, True])
def test_under_a_mask_it_crops_only_where_the_map_is_high(backbone, whole_grid):
    """Also where the RPN's own policy, of a published model, looks at the whole image again."""
    attention = proposer(
        RawAttention(threshold=SHARE),
        backbone,
        "mask",
        threshold=0.15,
        relative=whole_grid,
        whole_grid=whole_grid,
        min_regions=1,
        blur=False,
    )
    question = Question("which color ?", (tiny_image(0, (120, 120)),))
    (found,) = answer_batch(backbone, [question], attention, max_new_tokens=3)
    (proposal,) = found.proposals
    assert proposal.roi is not None
    scores = proposal.roi.scores
    high = scores > SHARE * scores.max()
    assert 0 < high.sum() < high.size / 4, "a map that singles nothing out"
    (crop,) = proposal.plan.crops
    x0, y0, x1, y1 = crop.grid_box
    kept = np.zeros(GRID, dtype=bool)
    assert crop.keep is not None
    kept[y0:y1, x0:x1] = crop.keep == 1
    np.testing.assert_array_equal(kept, high)
    assert (y1 - y0) * (x1 - x0) < high.size


def test_other_images_are_cropped_elsewhere(backbone):
    attention = proposer(
        RawAttention(threshold=SHARE), backbone, "mask", threshold=0.15, min_regions=1
    )
    images = [tiny_image(seed, (120, 120)) for seed in range(3)]
    with torch.no_grad():
        found = answer_batch(
            backbone,
            [Question("which color ?", (image,)) for image in images],
            attention,
            max_new_tokens=3,
        )
    assert len({tuple(answer.boxes) for answer in found}) > 1


@pytest.mark.parametrize(
    ("method", "options", "threshold"),
    [
        (RawAttention(), {"threshold": 0.15}, RECIPE.foreground),
        (RawAttention(), {"threshold": 0.15, "relative": True}, 0.15),
        (RawAttention(threshold=0.7), {"threshold": 0.15, "relative": True}, 0.7),
    ],
)
def test_the_threshold_is_a_share_of_the_maximum(backbone, method, options, threshold):
    assert proposer(method, backbone, "mask", min_regions=1, **options).policy == MaskPolicy(
        threshold=threshold, relative=True, min_regions=1
    )
    assert proposer(method, backbone, "bbox", **options).policy == BboxPolicy(
        threshold=threshold, relative=True
    )


def test_a_policy_that_crops_one_box_has_no_limit_to_override(backbone):
    assert proposer(RawAttention(max_crops=3), backbone, "bbox").policy == BboxPolicy(
        threshold=RECIPE.foreground, relative=True, max_crops=3
    )
    with pytest.raises(ConfigError, match="max_crops"):
        proposer(RawAttention(max_crops=3), backbone, "mask")
