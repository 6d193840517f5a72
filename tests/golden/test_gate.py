"""The gate against the published numbers: logits, decisions, answers, losses, label rule."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sdrpn_core import RPN, FeatureTap, open_image
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.backbone.question import Question
from sdrpn_core.crops.policy import Outcome
from sdrpn_core.errors import InputError
from sdrpn_core.gate.budget_labels import AnswerLadder, Difficulty, balanced
from sdrpn_core.gate.config import GateConfig
from sdrpn_core.gate.losses import gate_loss
from sdrpn_core.labels.pseudo import IGNORE
from sdrpn_core.rpn.checkpoint import assign_rpn_weights
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_core.runtime.generation import prompt_block
from tests.golden import qwen2_5_vl, qwen3_vl
from tests.golden.runs import run, until_end

qwen3_cases = pytest.mark.golden_files("gate/case_*.npz")
qwen2_5_cases = pytest.mark.golden_files("gate/qwen2_5_vl/case_*.npz")
training = pytest.mark.golden_files("gate/training.npz")
label_rules = pytest.mark.golden_files("gate/gate_labels.json")
attention = pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])

#: README, tolerances.
LOGIT = 2e-5
PROBABILITY = 5e-6
HIDDEN = 2e-5
GENERATED = 5e-5
LOSS = 1e-5
GRADIENT_NORM = 1e-4
SHARE = 0.03

#: Region threshold of the golden answers.
REGION = 0.1
N_DRAWS = 4000


def close(found: Any, expected: Any, tolerance: float) -> None:
    np.testing.assert_allclose(np.asarray(found), expected, atol=tolerance, rtol=0)


def add_golden_gate(rpn: RPN, backbone: Backbone, folder: Path) -> RPN:
    """The RPN with the golden gate of a folder."""
    settings = json.loads((folder / "gate.json").read_text())
    gate = rpn.add_gate(backbone, GateConfig("decoder", {"n_layers": settings["T"]}))
    assign_rpn_weights(gate, load_file(folder / "gate.safetensors"), "gate.safetensors")
    return rpn.eval()


def check_states(backbone: Backbone, question: Question, rpn: RPN, data: Mapping[str, Any]) -> None:
    """What the gate reads, what its layers make of it, and the logit."""
    assert rpn.gate is not None
    last: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda module, args, output: last.append(output[0, -1]))
        for layer in rpn.gate.layers
    ]
    block = prompt_block(backbone, backbone.encode([question]))
    with torch.no_grad(), FeatureTap(backbone.decoder, rpn.branch) as tap:
        features = tap.run(
            inputs_embeds=block.embeds, attention_mask=block.mask, position_ids=block.positions
        )
        logits = rpn.gate_logits(features, [])
    for hook in hooks:
        hook.remove()
    close(features.hidden[0], data["hidden_at_K"], HIDDEN)
    for index, state in enumerate(last):
        close(state, data[f"last_l{index}"], HIDDEN)
    close(logits, [data["logit"]], LOGIT)


@attention
@qwen3_cases
def test_qwen3_vl(golden_file, load, attn_implementation):
    data, folder = load(golden_file), golden_file.parents[1] / "qwen3_vl"
    model = qwen3_vl.load_qwen3(folder, attn_implementation)
    case = qwen3_vl.read_case(folder, golden_file, data, model)
    rpn = qwen3_vl.golden_rpn(folder, case.backbone)
    add_golden_gate(rpn, case.backbone, folder / "gate")
    check_states(case.backbone, case.question, rpn, data)
    policy = qwen3_vl.published_policy(REGION)
    case.backbone.crops_reuse_positions = True
    for tag in ("below", "above"):
        proposer = RPNProposer(rpn, policy, gate_threshold=float(data[f"thr_{tag}"]))
        found = run(case.backbone, case.question, proposer, len(data[f"gen_ids_{tag}"]))
        close([p.gate for p in found.answer.proposals], [data["prob"]], PROBABILITY)
        zoomed = found.answer.outcome is not Outcome.NOT_NEEDED
        assert zoomed == bool(data[f"zoomed_{tag}"])
        assert found.answer.ids == until_end(case.backbone, data[f"gen_ids_{tag}"])
        close(found.logits, data[f"gen_logits_{tag}"][: len(found.logits)], GENERATED)


@attention
@qwen2_5_cases
def test_qwen2_5_vl(golden_file, load, attn_implementation):
    """States and decisions; regions differ from those of the RPN's own paper in many settings."""
    data, folder = load(golden_file), golden_file.parent
    name = golden_file.stem.removeprefix("case_")
    settings = json.loads((folder / "cases.json").read_text())[name]
    base = golden_file.parents[2] / "qwen2_5_vl"
    model = qwen2_5_vl.load_qwen(base, attn_implementation)
    held = load_file(folder / "model_released_style/model.safetensors")
    missing, unexpected = model.load_state_dict(renamed(held), strict=False)
    assert not missing
    assert all("twig" in key or "high_res" in key for key in unexpected)
    backbone = qwen2_5_vl.with_budget(model, settings)
    image = open_image(folder / "images" / f"{name}.png")
    text = qwen2_5_vl.prompt_text(data["input_ids"], backbone.image_token_id)
    question = Question(text, (image,))
    published = json.loads((folder / "gate/gate.json").read_text())
    rpn = RPN.from_backbone(backbone, RPNConfig(published["K"], published["T"]))
    add_golden_gate(rpn, backbone, folder / "gate")
    check_states(backbone, question, rpn, data)
    policy = qwen2_5_vl.published_policy(REGION)
    for threshold in (float(data["prob"]) + 1e-3, 1.0):
        proposer = RPNProposer(rpn, policy, gate_threshold=threshold)
        found = run(backbone, question, proposer, len(data["plain_gen_ids"]))
        assert found.answer.outcome is Outcome.NOT_NEEDED
        close([p.gate for p in found.answer.proposals], [data["prob"]], PROBABILITY)
        assert found.answer.ids == until_end(backbone, data["plain_gen_ids"])
        close(found.logits, data["plain_gen_logits"][: len(found.logits)], GENERATED)
    proposer = RPNProposer(rpn, policy, gate_threshold=float(data["prob"]) - 1e-3)
    found = run(backbone, question, proposer, 1)
    assert found.answer.outcome is not Outcome.NOT_NEEDED


def renamed(published: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of a released checkpoint under the names of today's transformers."""
    names = {}
    for name in published:
        inner = name.removeprefix("model.")
        if name == inner:
            new = name.replace("visual.", "model.visual.")
        else:
            new = f"model.language_model.{inner}"
        names[name] = new
    return {names[name]: tensor.float() for name, tensor in published.items()}


@attention
@training
def test_losses_and_gradients(golden_file, load, attn_implementation):
    data = load(golden_file)
    folder = golden_file.parents[1] / "qwen3_vl"
    settings = json.loads(golden_file.with_suffix(".json").read_text())
    model = qwen3_vl.load_qwen3(folder, attn_implementation)
    prompts = []
    for index, (sample, row, real, labels) in enumerate(
        zip(
            settings["samples"],
            data["input_ids"],
            data["attention_mask"],
            data["labels"],
            strict=True,
        )
    ):
        backbone = qwen3_vl.with_budget(model, sample)
        first = int(np.flatnonzero((labels != IGNORE) & real.astype(bool))[0])
        image = open_image(folder / "images" / f"train_{index}.png")
        text = qwen2_5_vl.prompt_text(row[:first], backbone.image_token_id)
        prompts += backbone.encode([Question(text, (image,))])
    block = prompt_block(backbone, prompts)
    rpn = qwen3_vl.golden_rpn(folder, backbone)
    add_golden_gate(rpn, backbone, folder / "gate")
    with torch.no_grad(), FeatureTap(backbone.decoder, rpn.branch) as tap:
        features = tap.run(
            inputs_embeds=block.embeds, attention_mask=block.mask, position_ids=block.positions
        )
    for name, case in settings["cases"].items():
        rpn.zero_grad()
        logits = rpn.gate_logits(features, [])
        targets = torch.from_numpy(data[f"{name}/signal"])
        if not (targets != IGNORE).any():
            total, count = gate_loss(logits, targets)
            assert (total.item(), count.item()) == (0, 0)  # published: NaN
            continue
        close(logits.detach(), data[f"{name}/logits"], LOGIT)
        total, count = gate_loss(logits, targets)
        loss = total / count
        assert loss.item() == pytest.approx(case["loss"], rel=LOSS), name
        loss.backward()
        gradients = {published_name(key): p.grad for key, p in rpn.gate.named_parameters()}
        norms = {key: norm for key, norm in case["grad_norm"].items() if norm is not None}
        assert gradients.keys() == norms.keys()
        for key, norm in norms.items():
            assert gradients[key].norm().item() == pytest.approx(norm, rel=GRADIENT_NORM), key
        prefix = f"{name}/grad/"
        for key in (key for key in data if key.startswith(prefix)):
            expected = data[key]
            scale = GRADIENT_NORM * np.abs(expected).max()
            close(gradients[key.removeprefix(prefix)], expected, scale)


def published_name(own: str) -> str:
    """What the published code calls a parameter of the gate."""
    return f"high_res_{own}"


def outcomes(draw: Callable[[random.Random], Any], n_draws: int) -> dict[str, float]:
    """``{"label@resolution": share}`` of many draws."""
    rng = random.Random(0)
    counts = Counter(f"{one.label}@{one.resolution}" for one in (draw(rng) for _ in range(n_draws)))
    return {key: count / n_draws for key, count in counts.items()}


@label_rules
def test_the_label_rule(golden_file):
    settings = json.loads(golden_file.read_text())
    for record in settings["records"]:
        name = record["name"]
        ladder = AnswerLadder(record["resolutions"], record["answers"], [record["ground_truth"]])
        assert ladder.difficulty == record["filter"], name
        if any(key.startswith("error") for key in record["outcomes"]):
            with pytest.raises(InputError, match="at least 3"):
                ladder.draw(random.Random(0))
        else:
            found = outcomes(ladder.draw, N_DRAWS)
            assert found == pytest.approx(record["outcomes"], abs=SHARE), name


@label_rules
def test_the_mixture(golden_file):
    settings = json.loads(golden_file.read_text())
    kinds = {
        "_easy": ["red"] * 7,
        "_hard": ["x"] * 3 + ["red"] * 4,
        "_flip": ["x", "red"] * 3 + ["red"],
    }
    ladders = [
        AnswerLadder(range(1, 8), answers, ["red"])
        for kind, answers in kinds.items()
        for _ in range(settings["mix"]["in"][kind])
    ]
    kept = Counter(ladders[place].difficulty for place in balanced(ladders, random.Random(0)))
    expected = settings["mix"]["kept"]
    assert kept == {Difficulty.HARD: expected["_hard"], Difficulty.EASY: expected["_easy"]}
