"""Training a gate: the loss written anew, the RPN untouched, exact resume, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import Dataset

from sdrpn_core.backbone.preprocessing import Preprocessor
from sdrpn_core.backbone.question import Question
from sdrpn_core.errors import CheckpointError, ConfigError, SdrpnError
from sdrpn_core.gate.config import GateConfig
from sdrpn_core.labels.pseudo import IGNORE
from sdrpn_core.rpn.model import RPN
from sdrpn_core.runtime.generation import prompt_block
from sdrpn_core.taps.feature_tap import FeatureTap
from sdrpn_core.training.batches import StoredLabelBatcher
from sdrpn_core.training.checkpoints import Checkpoints
from sdrpn_core.training.gate_objective import GateObjective
from sdrpn_core.training.samples import SkippedSample, TrainingSample
from sdrpn_core.training.settings import TrainingSettings
from sdrpn_core.training.sources import TrainingSource
from sdrpn_core.training.stage import train
from sdrpn_core.training.step import TrainingStep
from tests.core.training.killed import killed_at
from tests.stage_data import SAME_UP_TO_LAST_BITS, records
from tests.tiny import tiny_llava
from tests.written_out_gate import written_out_logit

N = 7
LABELS = [1, 0, IGNORE, 1, 0, 0, 1]
SETTINGS = TrainingSettings(
    optimizer="sgd",
    learning_rate=1e-3,
    epochs=2,
    global_batch_size=4,
    micro_batch_size=2,
    log_every=1,
    max_grad_norm=None,
)
KINDS = {"decoder": {"n_layers": 2}, "linear": {}, "mlp": {"width": 8}}
BRANCH = 1


class Questions(Dataset):
    """Records with labels."""

    def __init__(self, backbone, labels: Sequence[int]) -> None:
        self.preprocess = Preprocessor(backbone)
        self.labels = labels
        self.records = records(len(labels))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index):
        record = self.records[index]
        image = self.preprocess(record.images[0])
        label = np.array([[self.labels[index]]])
        return TrainingSample(record.id, record.question, image, label)


class KnownLabels(GateObjective):
    """Takes the labels of the records of these tests as its data."""

    def source(self, backbone, data, settings):
        return TrainingSource(
            samples=Questions(backbone, data),
            batcher=StoredLabelBatcher(backbone, self.config.branch),
            labels={"kind": "known"},
            n_layers=self.config.branch,
            facts={"kind": "known", "labels": list(data)},
            datasets=(),
        )


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava()


@pytest.fixture(scope="module")
def start(backbone, tmp_path_factory):
    """A saved RPN, and one whose gate is to be replaced."""
    torch.manual_seed(0)
    rpn = RPN.from_backbone(backbone, branch=BRANCH, n_layers=2)
    return rpn.save_pretrained(tmp_path_factory.mktemp("start"))


@pytest.fixture(params=KINDS)
def objective(request, start):
    return KnownLabels(start, GateConfig(request.param, KINDS[request.param], threshold=0.25))


def log(folder):
    return [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]


def losses_alone(backbone, rpn, items):
    """Each question in a pass of its own, through stock layers; the loss from its definition."""
    losses = []
    for item in items:
        label = int(item.labels[0, 0])
        if label == IGNORE:
            continue
        (prompt,) = backbone.encode([Question(item.question, inputs=(item.image,))])
        with torch.no_grad(), FeatureTap(backbone.decoder, BRANCH) as tap:
            block = prompt_block(backbone, [prompt])
            features = tap.run(**block.model_inputs())
        probability = torch.sigmoid(written_out_logit(rpn, prompt, block, features))
        losses.append(-torch.log(probability if label else 1 - probability))
    return losses


def test_the_gradient_is_that_of_the_mean_over_the_labeled_questions(backbone, objective):
    source = objective.source(backbone, LABELS, SETTINGS)
    rpn = objective.start(backbone, source)
    rpn.requires_grad_(False)
    gate = objective.trained(rpn).requires_grad_(True)
    items = [source.samples[index] for index in range(N)]
    losses = losses_alone(backbone, rpn, items)
    mean = sum(losses) / len(losses)
    mean.backward()
    expected = {name: p.grad.clone() for name, p in gate.named_parameters()}

    optimizer = torch.optim.SGD(gate.parameters(), lr=0.0)
    step = TrainingStep(Accelerator(cpu=True), rpn, objective, source.batcher, optimizer, None)
    sums, _ = step([items[:1], items[1:5], [*items[5:], SkippedSample("x", "gone")]], "step 1")
    assert sums.counts == (6, 3)
    assert (sums.samples, sums.skipped) == (N, 1)
    assert sums.mean_loss == pytest.approx(mean.item(), rel=1e-5)
    for name, parameter in gate.named_parameters():
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(parameter.grad, expected[name], rtol=0, atol=1e-4 * scale)
    frozen = [p for name, p in rpn.named_parameters() if not name.startswith("gate.")]
    assert all(p.grad is None and not p.requires_grad for p in frozen)


def test_the_gate_starts_as_a_copy_of_the_decoder_and_the_rpn_stays(
    backbone, objective, start, tmp_path
):
    result = train(backbone, LABELS, tmp_path, SETTINGS, objective=objective)
    before = RPN.from_pretrained(start, backbone=backbone).state_dict()
    after = RPN.from_pretrained(result.folder, backbone=backbone)
    assert after.config.gate == replace(objective.gate, labels="known")
    card = (result.folder / "README.md").read_text()
    assert (
        f"- gate `{objective.gate.name}`, which learned from labels by known\n- versions: " in card
    )
    for name, tensor in before.items():
        assert torch.equal(after.state_dict()[name], tensor), name
    new = objective.start(backbone, objective.source(backbone, LABELS, SETTINGS)).gate
    for own, layer in zip(new.layers, backbone.layers[BRANCH:], strict=False):
        for copied, original in zip(own.parameters(), layer.parameters(), strict=True):
            assert torch.equal(copied, original)
    moved = [
        name
        for name, tensor in new.state_dict().items()
        if not torch.equal(after.gate.state_dict()[name], tensor)
    ]
    assert {name.partition(".")[0] for name in moved} >= {"head"}
    assert not new.layers or any(name.startswith("layers.") for name in moved)
    entries = log(tmp_path)
    assert [entry["step"] for entry in entries] == [1, 2, 3, 4]
    assert sum(entry["labeled_questions"] for entry in entries) == 2 * 6
    assert sum(entry["needing_region"] for entry in entries) == 2 * 3
    assert not any(parameter.grad is not None for parameter in backbone.model.parameters())


def test_it_learns(backbone, start, tmp_path):
    chosen = replace(SETTINGS, optimizer="adamw", learning_rate=1e-2, epochs=15)
    objective = KnownLabels(start, GateConfig("decoder", {"n_layers": 1}))
    train(backbone, LABELS, tmp_path, chosen, objective=objective)
    entries = log(tmp_path)
    assert entries[-1]["loss"] < 0.2 * entries[0]["loss"]


def test_a_killed_run_goes_on_where_it_was(backbone, objective, tmp_path):
    chosen = replace(SETTINGS, checkpoint_every=1)
    whole = train(backbone, LABELS, tmp_path / "whole", chosen, objective=objective)

    with killed_at(3):
        train(backbone, LABELS, tmp_path / "cut", chosen, objective=objective)
    cut = train(backbone, LABELS, tmp_path / "cut", chosen, objective=objective)
    assert cut.resumed_from == 2
    for name, tensor in whole.rpn.state_dict().items():
        torch.testing.assert_close(cut.rpn.state_dict()[name], tensor, **SAME_UP_TO_LAST_BITS)
    assert [entry["loss"] for entry in log(tmp_path / "cut")] == pytest.approx(
        [entry["loss"] for entry in log(tmp_path / "whole")]
    )


def test_the_optimizer_holds_the_gate_alone(backbone, start, tmp_path):
    """Its state, too, is saved and restored by name."""
    chosen = replace(SETTINGS, optimizer="adamw", learning_rate=1e-3, checkpoint_every=2)
    objective = KnownLabels(start, GateConfig("decoder", {"n_layers": 1}))
    whole = train(backbone, LABELS, tmp_path / "whole", chosen, objective=objective)
    saved = tmp_path / "whole/checkpoints/step-00000002"
    state = json.loads((saved / "state.json").read_text())
    (group,) = state["optimizer"]["param_groups"]
    assert group["params"]
    assert all(name.startswith("gate.") for name in group["params"])
    shutil.rmtree(tmp_path / "whole/checkpoints/step-00000004")
    again = train(backbone, LABELS, tmp_path / "whole", chosen, objective=objective)
    assert again.resumed_from == 2
    for name, tensor in whole.rpn.state_dict().items():
        torch.testing.assert_close(again.rpn.state_dict()[name], tensor, rtol=0, atol=1e-6)


def test_features_are_cached_for_it(backbone, objective, tmp_path):
    plain = train(backbone, LABELS, tmp_path / "plain", SETTINGS, objective=objective)
    cached = train(
        backbone,
        LABELS,
        tmp_path / "cached",
        SETTINGS,
        objective=objective,
        feature_cache=tmp_path / "features",
    )
    for name, tensor in plain.rpn.state_dict().items():
        torch.testing.assert_close(cached.rpn.state_dict()[name], tensor, **SAME_UP_TO_LAST_BITS)


def test_other_margins_or_another_start_are_another_run(backbone, objective, start, tmp_path):
    train(backbone, LABELS, tmp_path, SETTINGS, objective=objective)
    torch.manual_seed(5)
    other = RPN.from_backbone(backbone, branch=BRANCH, n_layers=2)
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"another training run: objective\.start is"):
        train(
            backbone,
            LABELS,
            tmp_path,
            SETTINGS,
            objective=KnownLabels(tmp_path / "other", objective.gate),
        )


def test_a_trained_gate_is_replaced(backbone, start, tmp_path):
    rpn = RPN.from_pretrained(start, backbone=backbone)
    rpn.add_gate(backbone, GateConfig("decoder", {"n_layers": 2}))
    rpn.save_pretrained(tmp_path / "gated")
    objective = KnownLabels(tmp_path / "gated", GateConfig("linear"))
    assert objective.n_layers_to_load == BRANCH + 2
    result = train(backbone, LABELS, tmp_path / "run", SETTINGS, objective=objective)
    assert result.rpn.config.gate.name == "linear"


@pytest.mark.parametrize(("n_layers", "expected"), [(1, BRANCH + 2), (4, BRANCH + 4)])
def test_as_many_layers_are_loaded_as_the_larger_of_rpn_and_gate_copies(start, n_layers, expected):
    gate = GateConfig("decoder", {"n_layers": n_layers})
    assert KnownLabels(start, gate).n_layers_to_load == expected


def test_weights_of_an_rpn_survive_a_backbone_in_half_precision(start):
    backbone = tiny_llava()
    backbone.model.to(torch.bfloat16)
    objective = KnownLabels(start)
    source = objective.source(backbone, LABELS, SETTINGS)
    rpn = objective.start(backbone, source)
    whole = RPN.from_pretrained(start, backbone=tiny_llava()).state_dict()
    for name, tensor in whole.items():
        assert torch.equal(rpn.state_dict()[name], tensor), name


def test_a_run_without_labels_ends_with_one_line(backbone, objective, tmp_path):
    with pytest.raises(SdrpnError, match=r"none of the first 6 samples has a label \(0 could"):
        train(backbone, [IGNORE] * 3, tmp_path, SETTINGS, objective=objective)


def test_a_run_without_labels_ends_with_that_line_however_often_it_is_called(
    backbone, start, tmp_path
):
    """Nothing of it is kept: no checkpoint, no result, and no claim on its folder."""
    objective = KnownLabels(start, GateConfig("linear"))
    chosen = replace(SETTINGS, max_steps=3, checkpoint_every=1)
    for _ in range(2):
        with pytest.raises(SdrpnError, match="none of the first 9 samples has a label"):
            train(backbone, [IGNORE] * 3, tmp_path, chosen, objective=objective)
        assert not (tmp_path / "checkpoints").exists()
        assert not (tmp_path / "rpn").exists()
    result = train(backbone, LABELS, tmp_path, SETTINGS, objective=objective)
    assert (result.resumed_from, result.steps) == (0, 4)


def test_a_run_whose_first_labels_come_late_saves_from_then_on(backbone, start, tmp_path):
    objective = KnownLabels(start, GateConfig("linear"))
    chosen = replace(
        SETTINGS, global_batch_size=1, checkpoint_every=1, keep_checkpoints=9, epochs=1
    )
    train(backbone, [IGNORE, IGNORE, 1], tmp_path, chosen, objective=objective)
    first = next(entry["step"] for entry in log(tmp_path) if entry["labeled_questions"])
    saved = sorted(int(path.name[5:]) for path in (tmp_path / "checkpoints").iterdir())
    assert saved == list(range(first, 4))
    assert first > 1


def test_a_checkpoint_that_learned_nothing_is_no_result(backbone, start, tmp_path):
    """Earlier versions have written such."""
    objective = KnownLabels(start, GateConfig("linear"))
    chosen = replace(SETTINGS, max_steps=3)
    with pytest.raises(SdrpnError, match="has a label"):
        train(backbone, [IGNORE] * 3, tmp_path, chosen, objective=objective)
    rpn = objective.start(backbone, objective.source(backbone, LABELS, SETTINGS))
    optimizer = torch.optim.SGD(rpn.gate.parameters(), lr=0.1, momentum=0.9)
    Checkpoints(tmp_path / "checkpoints", keep=2).save(3, rpn, optimizer)
    with pytest.raises(SdrpnError, match="none of the samples of the first 3 steps has a label"):
        train(backbone, [IGNORE] * 3, tmp_path, chosen, objective=objective)
    assert not (tmp_path / "rpn").exists()


def test_configurations_are_for_labels(backbone, objective, tmp_path):
    with pytest.raises(ConfigError, match="give them or an objective"):
        train(backbone, LABELS, tmp_path, SETTINGS, objective.config, objective=objective)


def test_settings_default_to_the_published_ones(backbone, objective):
    chosen = objective.settings(backbone)
    assert (chosen.learning_rate, chosen.global_batch_size) == (1e-4, 256)
    assert objective.settings(backbone, learning_rate=0.5).learning_rate == 0.5
