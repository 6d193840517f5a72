"""Qwen3-VL: losses and gradients of the branch, against the published numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sdrpn_core import open_image
from sdrpn_core.backbone.question import Question
from sdrpn_core.labels.pseudo import IGNORE
from sdrpn_core.rpn.losses import LOSS_FUNCTIONS
from sdrpn_core.runtime.block import ImagePlace
from sdrpn_core.runtime.generation import prompt_block
from sdrpn_core.taps.feature_tap import FeatureTap
from sdrpn_published.layouts import published_name
from tests.golden.qwen2_5_vl import prompt_text
from tests.golden.qwen3_vl import GRADIENT, LOSS, golden_rpn, load_qwen3, with_budget

training = pytest.mark.golden_files("qwen3_vl/training.npz")


@training
@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
def test_losses_and_gradients(golden_file, load, attn_implementation):
    data, folder = load(golden_file), golden_file.parent
    settings = json.loads(golden_file.with_suffix(".json").read_text())
    model = load_qwen3(folder, attn_implementation)
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
        backbone = with_budget(model, sample)
        first = int(np.flatnonzero((labels != IGNORE) & real.astype(bool))[0])
        image = open_image(folder / "images" / f"train_{index}.png")
        text = prompt_text(row[:first], backbone.image_token_id)
        response = tuple(row[first : int(real.sum())].tolist())
        prompts += backbone.encode([Question(text, (image,), response)])
    block = prompt_block(backbone, prompts)
    starts = block.starts
    places = [
        ImagePlace(
            row,
            offset + prompt.image_spans[0][0],
            prompt.images[0].grid,
            offset + prompt.query_index,
        )
        for row, (prompt, offset) in enumerate(zip(prompts, starts, strict=True))
    ]
    rpn = golden_rpn(folder, backbone).train()
    with torch.no_grad(), FeatureTap(backbone.decoder, rpn.branch) as tap:
        features = tap.run(
            inputs_embeds=block.embeds, attention_mask=block.mask, position_ids=block.positions
        )
    for name, case in settings["cases"].items():
        rpn.zero_grad()
        targets = [data[f"{name}/target{row}"] for row in range(len(places))]
        found = rpn(features, places).resized([target.shape for target in targets])
        labels = torch.full(found.scores.shape, IGNORE)
        for row, target in enumerate(targets):
            labels[row, : target.size] = torch.from_numpy(target).flatten()
        total, count = LOSS_FUNCTIONS["bce"](found.scores, labels)
        loss = total / count.clamp(min=1)
        assert loss.item() == pytest.approx(case["loss"], rel=LOSS, abs=1e-12), name
        loss.backward()
        gradients = {
            published_name(key, rpn.config.n_layers, ""): parameter.grad
            for key, parameter in rpn.named_parameters()
        }
        norms = {key: norm for key, norm in case["grad_norm"].items() if norm is not None}
        assert gradients.keys() == norms.keys()
        for key, norm in norms.items():
            assert float(gradients[key].norm()) == pytest.approx(norm, rel=GRADIENT, abs=1e-12)
        for key, expected in data.items():
            if key.startswith(f"{name}/grad/"):
                allowed = GRADIENT * np.abs(expected).max()
                found_gradient = gradients[key.removeprefix(f"{name}/grad/")].numpy()
                np.testing.assert_allclose(found_gradient, expected, atol=allowed, rtol=GRADIENT)
