"""The walkthroughs of CONTRIBUTING run, and what they define does what they say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from transformers import InternVLConfig

from sdrpn_bench import MethodContext
from sdrpn_core import (
    RPN,
    Backbone,
    GateConfig,
    Question,
    Record,
    Resized,
    RoIMap,
    answer,
    answer_batch,
)
from sdrpn_core.backbone.prompt import ImageSegment
from sdrpn_core.plugins.manager import Plugins
from sdrpn_core.rpn.prediction import predict_prompt_roi, prompt_features
from sdrpn_core.runtime.generation import generate, prompt_block
from tests.docs.fences import ROOT, run_blocks_alone, shown_files
from tests.tiny import tiny_image, tiny_llava
from tests.tiny_qwen3_vl import tiny_qwen3_vl

CONTRIBUTING = "CONTRIBUTING.md"
EXAMPLE = ROOT / "examples" / "sdrpn-internvl"
IGNORED = {"__pycache__", ".pytest_cache", ".ruff_cache", "dist"}


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    return run_blocks_alone(CONTRIBUTING)


@pytest.fixture
def plugins(names: dict[str, Any], fresh_plugins: Plugins) -> Plugins:
    hooks = {name: value for name, value in names.items() if name.startswith("sdrpn_register_")}
    module = ModuleType("contributing")
    vars(module).update(SDRPN_API=1, **hooks)
    fresh_plugins.register(module, "contributing")
    return fresh_plugins


@pytest.fixture
def backbone(plugins: Plugins) -> Backbone:
    return tiny_llava()


def example_files() -> Iterator[str]:
    for path in sorted(EXAMPLE.rglob("*")):
        relative = path.relative_to(EXAMPLE)
        if path.is_file() and not IGNORED & set(relative.parts):
            yield relative.as_posix()


def test_the_files_shown_are_those_of_the_example() -> None:
    shown = shown_files(CONTRIBUTING)
    assert set(shown) == {
        "pyproject.toml",
        "src/sdrpn_internvl/__init__.py",
        "src/sdrpn_internvl/backbone.py",
        "tests/test_internvl.py",
        "tests/tiny_internvl.py",
    }
    for path, text in shown.items():
        assert text == (EXAMPLE / path).read_text(encoding="utf-8"), path


def test_every_file_of_the_example_is_listed() -> None:
    text = (ROOT / CONTRIBUTING).read_text(encoding="utf-8")
    listed = [f"| `{path}` |" in text for path in example_files()]
    assert len(listed) == 6
    assert all(listed)


def test_the_methods_to_override_exist() -> None:
    text = (ROOT / CONTRIBUTING).read_text(encoding="utf-8")
    _, found, rest = text.partition("| method | default |")
    table = rest.partition("\n\n")[0]
    methods = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert found
    assert len(methods) == 6
    assert all(hasattr(Backbone, method) for method in methods)


def test_the_example_of_positions_and_framing_is_a_familys_own(names: dict[str, Any]) -> None:
    """Against an adapter whose positions are tested against the stock model's."""
    backbone = tiny_qwen3_vl()
    framed = names["Framed"]
    crop = ImageSegment(torch.zeros(6, backbone.token_width), (2, 3), rank=(0, 1))
    assert framed.frame_crop(backbone, crop) == backbone.frame_crop(crop)
    (prompt,) = backbone.encode([Question("what is it ?", (tiny_image(size=(150, 90)),))])
    whole = prompt.with_crops((backbone.frame_crop(crop),))
    pruned = whole.pruned((np.eye(*whole.images[0].grid, dtype=bool),))
    for one in (prompt, whole, pruned):
        assert torch.equal(framed.positions(backbone, one), backbone.positions(one))


def test_the_preset_fits_the_family(plugins: Plugins) -> None:
    preset = plugins.presets.get("internvl-tiny")
    text = {"model_type": "qwen2", "num_hidden_layers": 6}
    assert preset.matches(InternVLConfig(text_config=text))
    assert not preset.matches(InternVLConfig(text_config={**text, "num_hidden_layers": 7}))
    preset.check_fits(6, 4)


def test_policy_crops_at_the_peak(plugins: Plugins) -> None:
    scores = np.zeros((4, 4), np.float32)
    scores[1, 2] = 1
    policy = plugins.crop_policies.get("peak").from_options({"radius": 1})
    plan = policy.plan(RoIMap(scores), Resized((400, 400), (4, 4), cell=8))
    assert plan.crops[0].box == (100, 0, 400, 300)


def test_two_stages_with_the_policy_equal_a_full_recompute(backbone: Backbone) -> None:
    image, question = tiny_image(), "what is it"
    rpn = RPN.from_backbone(
        backbone, branch=2, n_layers=2, policy="peak", policy_options={"radius": 1}
    )
    found = answer(backbone, image, question, rpn=rpn, max_new_tokens=5)
    assert found.outcome == "ok"
    prompt = backbone.encode([Question(question, (image,))])[0]
    crop = backbone.preprocess_crop(image.crop(found.boxes[0]))
    segment = ImageSegment(backbone.image_features([crop])[0], crop.geometry.grid)
    spliced = prompt.with_crops(((segment,),))
    expected = generate(backbone, prompt_block(backbone, [spliced]), max_new_tokens=5)
    assert found.ids == expected[0]


def test_head_learns(backbone: Backbone) -> None:
    rpn = RPN.from_backbone(
        backbone, branch=2, n_layers=2, head="linear", head_options={"bias": False}
    )
    prompts = backbone.encode([Question("what is it", (tiny_image(),))])
    features, places = prompt_features(backbone, prompts, rpn.branch)
    target = torch.zeros(1, 16)
    target[0, 5] = 1
    optimizer = torch.optim.Adam(rpn.parameters(), lr=1e-3)
    losses = []
    for _ in range(20):
        scores = rpn(features, places).scores
        loss = torch.nn.functional.binary_cross_entropy_with_logits(scores, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert int(predict_prompt_roi(backbone, prompts, rpn)[0].scores.argmax()) == 5


def test_gate_learns_and_is_saved(plugins: Plugins, backbone: Backbone, tmp_path: Path) -> None:
    rpn = RPN.from_backbone(backbone, branch=2, n_layers=2)
    gate = rpn.add_gate(backbone, GateConfig("size", {"bias": False}))
    prompts = backbone.encode([Question("what is it", (tiny_image(seed),)) for seed in range(2)])
    features, places = prompt_features(backbone, prompts, rpn.branch)
    before = rpn.gate_logits(features, places)
    assert before.shape == (2,)
    last, extents = torch.zeros(2, 4), torch.tensor([[0.1, 0.1, 1.0], [0.9, 0.9, 1.0]])
    region = torch.cat([torch.zeros(2, 4), extents], dim=1)
    optimizer = torch.optim.Adam(gate.parameters(), lr=0.1)
    for _ in range(100):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            gate(last, region), torch.tensor([1.0, 0.0])
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    small, large = gate(last, region).tolist()
    assert small > 0 > large
    learned = rpn.gate_logits(features, places)
    assert not torch.equal(learned, before)
    rpn.save_pretrained(tmp_path)
    loaded = RPN.from_pretrained(tmp_path, backbone=backbone)
    assert torch.equal(loaded.gate_logits(features, places), learned)


def test_method_looks_at_the_middle(plugins: Plugins, backbone: Backbone) -> None:
    record = Record("0", tiny_image(size=(80, 40)), "what is it", answers=("red",))
    context = MethodContext(backbone, max_new_tokens=3)
    method = plugins.methods.get("center").from_options({})
    proposer = method.proposer(context, [record])
    question = Question(record.question, (tiny_image(size=(80, 40)),))
    found = answer_batch(backbone, [question], proposer, max_new_tokens=3)[0]
    assert found.boxes == [(20, 10, 60, 30)]
    assert found.n_visual_tokens == 32
