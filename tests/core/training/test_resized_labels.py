"""Labels from another resolution than the images are trained at."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from torch.nn import functional as F

from sdrpn_core.backbone.preprocessing import Preprocessor
from sdrpn_core.data.record import Record
from sdrpn_core.errors import ShardError
from sdrpn_core.labeling.run import LabelDataset
from sdrpn_core.labeling.stage import label
from sdrpn_core.labels.pseudo import ThresholdLabeler
from sdrpn_core.labels.recipe import LabelRecipe
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_core.rpn.losses import LOSS_FUNCTIONS
from sdrpn_core.rpn.model import RPN
from sdrpn_core.rpn.scores import RoIScores
from sdrpn_core.training.batches import StoredLabelBatcher
from sdrpn_core.training.label_objective import LabelObjective
from sdrpn_core.training.samples import StoredLabels
from sdrpn_core.training.step import TrainingStep
from tests.tiny import tiny_image
from tests.tiny_qwen2_5_vl import CELL, tiny_qwen2_5_vl

RECIPE = LabelRecipe(grounding={3: (0, 1)}, max_box_fraction=1.0)
SIZES = [(200, 120), (90, 180)]


def test_scores_on_other_grids():
    scores = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(2, 12, dtype=torch.bool)
    valid[1, 6:] = False
    found = RoIScores(scores, valid, ((3, 4), (2, 3)), False)
    assert found.resized([(3, 4), (2, 3)]) is found
    other = found.resized([(3, 4), (5, 7)])
    assert other.grids == ((3, 4), (5, 7))
    assert other.valid.sum(dim=1).tolist() == [12, 35]
    assert torch.equal(other.scores[0, :12], scores[0])
    expected = F.interpolate(
        scores[1, :6].view(1, 1, 2, 3), size=(5, 7), mode="bilinear", align_corners=False
    )
    assert torch.equal(other.scores[1], expected.flatten())
    assert not other.scores[0, 12:].any()


@pytest.mark.parametrize("grid", [(3, 8), (6, 4), (4, 3)])
def test_another_width_or_height_alone_is_another_grid(grid):
    scores = torch.randn(1, 12, generator=torch.Generator().manual_seed(0))
    found = RoIScores(scores, torch.ones(1, 12, dtype=torch.bool), ((3, 4),), False).resized([grid])
    expected = F.interpolate(
        scores.view(1, 1, 3, 4), size=grid, mode="bilinear", align_corners=False
    )
    assert torch.equal(found.scores[0], expected.flatten())


@pytest.fixture(scope="module")
def coarse_labels(tmp_path_factory):
    """Labeled with at most 12 tokens an image."""
    folder = tmp_path_factory.mktemp("labels")
    backbone = tiny_qwen2_5_vl(max_pixels=12 * CELL**2)
    records = []
    for index, size in enumerate(SIZES):
        path = folder / f"{index}.png"
        tiny_image(index, size).save(path)
        records.append(
            Record(id=str(index), question="what is it ?", images=(path,), response="red")
        )
    label(backbone, records, folder / "run", recipe=RECIPE, progress=False)
    return folder / "run"


@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_training_compares_on_the_grid_of_the_labels(coarse_labels, loss):
    fine = tiny_qwen2_5_vl()
    rpn = RPN.from_backbone(fine, RPNConfig(branch=2, n_layers=2, loss=loss)).train()
    samples = StoredLabels(
        LabelDataset(coarse_labels), ThresholdLabeler(RECIPE), Preprocessor(fine)
    )
    items = [samples[index] for index in range(len(SIZES))]
    batcher = StoredLabelBatcher(fine, 2)
    batch = batcher(items)
    assert batch.grids == [item.labels.shape for item in items]
    assert all(h * w <= 12 for h, w in batch.grids)
    assert all(place.n_tokens > 12 for place in batch.places)

    scores = rpn(batch.features, batch.places).resized(batch.grids).scores
    total, cells = LOSS_FUNCTIONS[loss](scores, batch.labels)
    optimizer = torch.optim.SGD(rpn.parameters())
    objective = LabelObjective(rpn.config)
    step = TrainingStep(
        Accelerator(cpu=True), rpn, objective, batcher, optimizer, max_grad_norm=None
    )
    sums, norm = step([items], "step 1")
    assert sums.n == cells > 0
    assert sums.mean_loss == pytest.approx(float(total.detach() / cells), rel=1e-5)
    assert norm > 0


def test_an_image_that_changed_is_refused(coarse_labels):
    samples = StoredLabels(
        LabelDataset(coarse_labels), ThresholdLabeler(RECIPE), Preprocessor(tiny_qwen2_5_vl())
    )
    path = samples.rows[1].image
    before = path.read_bytes()
    tiny_image(0, (100, 100)).save(path)
    with pytest.raises(ShardError, match=r"of 90x180 pixels, now it has 100x100: .*label again"):
        samples[1]
    path.write_bytes(before)
    assert samples[1].labels is not None
