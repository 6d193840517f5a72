"""Refinement: a trained map goes on with what candidate regions turned out to bring."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sdrpn_core.backbone.identity import backbone_identity
from sdrpn_core.backbone.question import Question
from sdrpn_core.cli.main import app
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.data.images import open_image
from sdrpn_core.errors import ConfigError, ShardError
from sdrpn_core.gate.config import GateConfig
from sdrpn_core.labels.judged import BestRegion, WeightedRegions
from sdrpn_core.rpn.model import RPN
from sdrpn_core.rpn.prediction import predict_prompt_roi
from sdrpn_core.training.samples import SkippedSample
from sdrpn_core.training.settings import TrainingSettings
from sdrpn_core.training.stage import train
from sdrpn_core.training.utility_objective import UtilityObjective
from sdrpn_core.utility.row import Candidate, UtilityRow
from sdrpn_core.utility.run import UtilityManifest, open_run
from tests.core.training.killed import killed_at
from tests.judged_data import write_judged
from tests.tiny import tiny_image, tiny_llava, write_tiny_llava

GRID = 8
BRANCH = 1
ONE, OTHER = (0, 0, 3, 2), (5, 5, 8, 8)
#: Each box alone brings a little, both together bring everything.
BOTH_NEEDED = [
    [("sampled", (ONE,), 1.5), ("sampled", (OTHER,), 1.4), ("sampled", (ONE, OTHER), 9.0)],
    [("rpn", (ONE,), 1.0), ("sampled", (ONE, OTHER), 8.0), ("sampled", ((2, 2, 6, 6),), -1.0)],
]
ONE_HELPS = [[("rpn", (ONE,), 5.0), ("sampled", (OTHER,), -5.0)]] * 2
SETTINGS = TrainingSettings(
    optimizer="adamw",
    learning_rate=1e-2,
    max_steps=60,
    global_batch_size=2,
    micro_batch_size=2,
    log_every=1,
)
FORMS = {"labels": BestRegion(), "policy": WeightedRegions()}
each_form = pytest.mark.parametrize("targets", FORMS.values(), ids=FORMS)
SEES_BOTH = BboxPolicy(threshold=0.5, min_area=1, blur=False, keep_single=True)


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava(grid=GRID)


def write_run(backbone, folder, records):
    """A utility run by hand: per record its candidates as source, boxes in cells and utility."""
    rows = []
    images = folder.with_name(f"{folder.name}-images")
    images.mkdir(parents=True)
    for index, candidates in enumerate(records):
        image = tiny_image(index, (112, 112))
        image.save(images / f"{index}.png")
        geometry = backbone.preprocess(image).geometry
        judged = tuple(
            Candidate(source, tuple(map(tuple, geometry.to_source(boxes))), boxes, 4, -9 + utility)
            for source, boxes, utility in candidates
        )
        rows.append(
            UtilityRow(
                index=index,
                id=f"r{index}",
                question="what color ?",
                image=images / f"{index}.png",
                response="red",
                response_ids=(5,),
                plain=-9.0,
                candidates=judged,
                geometry=geometry,
            )
        )
    provenance = {"backbone": backbone_identity(backbone, branch=0)}
    manifest = UtilityManifest(len(rows), "fingerprint", len(rows), provenance, "tiny")
    open_run(folder, manifest).write_shard(0, rows)
    return folder


@pytest.fixture(scope="module")
def run(backbone, tmp_path_factory):
    return write_run(backbone, tmp_path_factory.mktemp("judged") / "run", BOTH_NEEDED)


def new_rpn(backbone, loss="bce"):
    torch.manual_seed(0)
    options = {"rope": False}
    return RPN.from_backbone(backbone, branch=BRANCH, n_layers=2, loss=loss, head_options=options)


@pytest.fixture(scope="module")
def start(backbone, tmp_path_factory):
    return new_rpn(backbone).save_pretrained(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def one_sided(backbone, start, tmp_path_factory):
    """An RPN whose map shows one region of the two."""
    folder = tmp_path_factory.mktemp("one-sided")
    data = write_run(backbone, folder / "run", ONE_HELPS)
    objective = UtilityObjective(start, BestRegion())
    return train(backbone, data, folder / "train", SETTINGS, objective=objective).folder


def maps(backbone, rpn, folder):
    rows = [folder.with_name(f"{folder.name}-images") / f"{index}.png" for index in range(2)]
    questions = [Question("what color ?", (open_image(path),)) for path in rows]
    return predict_prompt_roi(backbone, backbone.encode(questions), rpn.eval())


def shown(backbone, rpn, folder):
    """The regions that a policy crops, per image."""
    geometry = backbone.preprocess(tiny_image(0, (112, 112))).geometry
    plans = [SEES_BOTH.plan(roi, geometry) for roi in maps(backbone, rpn, folder)]
    return [{crop.grid_box for crop in plan.crops} for plan in plans]


@each_form
def test_a_map_that_shows_one_region_learns_to_show_both(
    backbone, run, one_sided, targets, tmp_path
):
    before = RPN.from_pretrained(one_sided, backbone=backbone)
    assert shown(backbone, before, run) == [{ONE}, {ONE}]
    objective = UtilityObjective(one_sided, targets)
    result = train(backbone, run, tmp_path, SETTINGS, objective=objective)
    assert shown(backbone, result.rpn, run) == [{ONE, OTHER}, {ONE, OTHER}]


@each_form
def test_training_goes_on_from_the_saved_map_by_its_own_loss(
    backbone, run, one_sided, targets, tmp_path
):
    """The first loss is the stock one of the saved map against the targets."""
    once = replace(SETTINGS, max_steps=1, micro_batch_size=1)
    result = train(backbone, run, tmp_path, once, objective=UtilityObjective(one_sided, targets))
    saved = RPN.from_pretrained(one_sided, backbone=backbone)
    scores = torch.stack([torch.from_numpy(roi.scores) for roi in maps(backbone, saved, run)])
    wanted = []
    for record in BOTH_NEEDED:
        regions, utilities = [boxes for _, boxes, _ in record], [u for *_, u in record]
        wanted.append(torch.from_numpy(targets(regions, utilities, (GRID, GRID))).float())
    expected = torch.nn.functional.binary_cross_entropy_with_logits(scores, torch.stack(wanted))
    assert result.loss == pytest.approx(expected.item(), rel=1e-4)
    facts = json.loads((tmp_path / "run.json").read_text())
    assert facts["objective"]["name"] == "utility"
    assert facts["objective"]["targets"] == targets.to_dict()


def test_a_distribution_is_refined_too(backbone, run, tmp_path):
    start = new_rpn(backbone, loss="mse").save_pretrained(tmp_path / "start")
    objective = UtilityObjective(start, WeightedRegions())
    result = train(backbone, run, tmp_path / "run", SETTINGS, objective=objective)
    both = np.zeros((GRID, GRID), dtype=bool)
    for x0, y0, x1, y1 in (ONE, OTHER):
        both[y0:y1, x0:x1] = True
    for roi in maps(backbone, result.rpn, run):
        assert roi.scores[both].sum() > 0.9


def test_only_regions_of_the_rpn_and_its_map_count_and_only_where_one_helps(
    backbone, start, tmp_path
):
    folder = write_run(
        backbone,
        tmp_path / "run",
        [
            [("given", (OTHER,), 9.0), ("rpn", (ONE,), 0.8)],
            [("given", (OTHER,), 9.0), ("rpn", (ONE,), 0.5)],
            [("rpn", (), 0.0), ("sampled", (ONE,), -1.0)],
            [],
        ],
    )
    samples = UtilityObjective(start, BestRegion()).source(backbone, folder, SETTINGS).samples
    assert len(samples) == 1
    labels = samples[0].labels
    assert labels[:2, :3].all()
    assert labels.sum() == 6
    all_helpful = UtilityObjective(start, BestRegion(margin=0.4)).source(backbone, folder, SETTINGS)
    assert [all_helpful.samples[index].id for index in range(2)] == ["r0", "r1"]
    (tmp_path / "run-images/0.png").unlink()
    assert isinstance(samples[0], SkippedSample)
    with pytest.raises(ShardError, match=r"worth more than 3\.0 nats"):
        UtilityObjective(start, BestRegion(margin=3.0)).source(backbone, folder, SETTINGS)


def test_an_image_that_changed_since_is_an_error(backbone, start, tmp_path):
    folder = write_run(backbone, tmp_path / "run", ONE_HELPS)
    tiny_image(0, (50, 70)).save(tmp_path / "run-images/0.png")
    samples = UtilityObjective(start).source(backbone, folder, SETTINGS).samples
    with pytest.raises(ShardError, match=r"112x112 pixels, now it has 50x70"):
        samples[0]


def test_a_killed_run_ends_at_the_weights_of_an_uninterrupted_one(backbone, run, start, tmp_path):
    chosen = replace(SETTINGS, max_steps=4, checkpoint_every=1)
    objective = UtilityObjective(start, WeightedRegions())
    whole = train(backbone, run, tmp_path / "whole", chosen, objective=objective)
    with killed_at(3):
        train(backbone, run, tmp_path / "cut", chosen, objective=objective)
    cut = train(backbone, run, tmp_path / "cut", chosen, objective=objective, resume=True)
    assert cut.resumed_from == 2
    for name, tensor in whole.rpn.state_dict().items():
        assert torch.equal(cut.rpn.state_dict()[name], tensor)


@each_form
def test_cached_features_train_the_same(backbone, run, start, targets, tmp_path):
    chosen = replace(SETTINGS, max_steps=3)
    objective = UtilityObjective(start, targets)
    plain = train(backbone, run, tmp_path / "plain", chosen, objective=objective)
    cache = tmp_path / "cache"
    cached = train(
        backbone, run, tmp_path / "cached", chosen, objective=objective, feature_cache=cache
    )
    assert cached.loss == pytest.approx(plain.loss, rel=1e-4)
    assert len(list(cache.glob("features-*"))) == 1


def test_a_gate_is_taken_off(backbone, run, tmp_path):
    rpn = new_rpn(backbone)
    rpn.add_gate(backbone, GateConfig("linear"))
    start = rpn.save_pretrained(tmp_path / "start")
    chosen = replace(SETTINGS, max_steps=1)
    result = train(backbone, run, tmp_path / "run", chosen, objective=UtilityObjective(start))
    assert result.rpn.gate is None
    assert RPN.from_pretrained(result.folder, backbone=backbone).config.gate is None


def test_regions_of_another_rpn_are_warned_of(backbone, start, tmp_path, caplog):
    judged = write_judged(backbone, new_rpn(backbone), tmp_path / "run", [2.0])
    UtilityObjective(start).source(backbone, judged, SETTINGS)
    assert not caplog.records
    other = new_rpn(backbone)
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    folder = other.save_pretrained(tmp_path / "other")
    UtilityObjective(folder).source(backbone, judged, SETTINGS)
    (record,) = caplog.records
    assert f"judges the regions of another RPN than {folder}" in record.getMessage()


def test_what_does_not_fit_is_refused(backbone, run, start, tmp_path):
    focal = new_rpn(backbone, loss="focal").save_pretrained(tmp_path / "focal")
    with pytest.raises(ConfigError, match="'policy', which needs bce or mse: choose 'labels'"):
        UtilityObjective(focal, WeightedRegions())
    assert UtilityObjective(focal).targets == BestRegion()
    with pytest.raises(ConfigError, match="the folder of a utility run"):
        UtilityObjective(start).source(backbone, [], SETTINGS)
    with pytest.raises(ShardError, match="another backbone"):
        UtilityObjective(start).source(tiny_llava(seed=1, grid=GRID), run, SETTINGS)


def test_the_command_refines(run, start, tmp_path):
    model = write_tiny_llava(tmp_path / "model", grid=GRID)
    words = ["train", run, "--objective", "utility", "--rpn", start, "--model", model]
    words += ["--out", tmp_path / "run", "--form", "policy", "--temperature", "0.2", "--margin"]
    words += ["0.3", "--steps", "2", "--global-batch-size", "2", "--device", "cpu", "--json"]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["samples"] == 4
    facts = json.loads((tmp_path / "run/run.json").read_text())
    assert facts["objective"]["targets"] == {"form": "policy", "margin": 0.3, "temperature": 0.2}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--form", "labels"), "--form is for --objective utility"),
        (("--objective", "utility"), "give --rpn"),
        (("--objective", "utility", "--rpn", "x/y", "--form", "best"), "labels"),
        (("--objective", "utility", "--rpn", "x/y", "--temperature", "1"), "temperature"),
        (("--objective", "utility", "--rpn", "x/y", "--gate", "linear"), "--gate is for"),
    ],
)
def test_wrong_options_of_the_command_are_one_line(words, message, tmp_path):
    given = ["train", "DATA", "--model", "M", "--out", tmp_path, *words]
    result = CliRunner().invoke(app, list(map(str, given)))
    assert result.exit_code == 1
    assert message in result.output
