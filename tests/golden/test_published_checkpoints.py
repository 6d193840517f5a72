"""Published-style checkpoints become RPNs with the published maps."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sdrpn_core import CheckpointError
from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.prefill import prefill
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_published import import_rpn
from sdrpn_published.layouts import published_name
from tests.golden.llava import question_of
from tests.golden.qwen2_5_vl import MAPS as QWEN_MAPS
from tests.golden.qwen2_5_vl import load_qwen, published_policy, read_case, with_budget

MAPS = 5e-4
STYLES = ("filled_style", "trainer_style_before_filling")


@pytest.fixture(scope="module", params=STYLES)
def checkpoint(request, llava_folder, llava, tmp_path_factory):
    """The released checkpoint in each style: what one lacks is dropped, what it adds is base."""
    released = llava_folder / "released_style"
    shapes = json.loads((released / "key_shapes.json").read_text())[request.param]
    tensors = load_file(released / "model.safetensors")
    tower = "model.vision_tower.vision_tower.vision_model."
    for name, tensor in llava.model.state_dict().items():
        if name.startswith("model.vision_tower."):
            tensors[tower + name.removeprefix("model.vision_tower.")] = tensor.bfloat16()
    folder = tmp_path_factory.mktemp(request.param)
    save_file({name: tensors[name].contiguous() for name in shapes}, folder / "model.safetensors")
    assert {n: list(tensors[n].shape) for n in shapes} == shapes
    shutil.copy(released / "config.json", folder)
    return folder


def test_imported_maps(checkpoint, llava, llava_folder, load):
    rpn = import_rpn(checkpoint, llava)
    samples = sorted((llava_folder / "samples").glob("*.npz"))
    assert samples
    for path in samples:
        sample = load(path)
        question = question_of(llava_folder, sample)
        (roi,) = RPNProposer(rpn).maps(prefill(llava, [question], rpn))
        np.testing.assert_allclose(roi.scores, sample["roi_logits"], atol=MAPS, rtol=0)


def test_the_released_folder_itself(llava, llava_folder):
    rpn = import_rpn(llava_folder / "released_style", llava)
    branch = load_file(llava_folder / "twig/twig.safetensors")
    for name, tensor in rpn.state_dict().items():
        published = published_name(name, rpn.config.n_layers)
        short = published.removeprefix("model.twig_")
        assert torch.equal(tensor, branch[short]), name


@pytest.fixture(scope="module")
def multimodal_rotary(golden):
    folder = golden / "qwen2_5_vl"
    if not folder.is_dir():
        pytest.skip("no golden data of the dynamic-resolution model")
    settings = json.loads((folder / "cases.json").read_text())["o1_mid_red"]
    return folder, with_budget(load_qwen(folder, "sdpa"), settings)


@pytest.mark.golden_files("qwen2_5_vl/case_*.npz")
def test_imported_maps_and_policy_of_the_multimodal_rotary_kind(golden_file, load):
    """On the released base itself: old names, in half precision, the branch beside it."""
    folder = golden_file.parent
    released = load_qwen(folder, "sdpa", "model_released_style")
    case = read_case(folder, golden_file, load(golden_file), released)
    rpn = import_rpn(folder / "model_released_style", case.backbone)
    proposer = RPNProposer(rpn)
    (roi,) = proposer.maps(prefill(case.backbone, [case.question], rpn))
    np.testing.assert_allclose(roi.scores, case.data["roi_logits"], atol=QWEN_MAPS, rtol=0)
    assert proposer.policy == published_policy(0.25)
    (found,) = answer_batch(case.backbone, [case.question], proposer, max_new_tokens=8)
    assert found.ids == tuple(case.data["t025_gen_ids"].tolist())


def test_multimodal_rotary_checkpoint(multimodal_rotary):
    folder, backbone = multimodal_rotary
    rpn = import_rpn(folder / "model_released_style", backbone)
    sizes = json.loads((folder / "rpn/rpn.json").read_text())
    assert rpn.config.branch == sizes["branch_layer"]
    assert rpn.config.n_layers == sizes["num_layers"]
    assert rpn.config.head_options["rope"] is True
    assert rpn.config.head_options["multi_head"] is sizes["multi_head"]
    assert rpn.norm is None
    branch = load_file(folder / "rpn/rpn.safetensors")
    for name, tensor in rpn.state_dict().items():
        published = published_name(name, rpn.config.n_layers)
        expected = branch[published.removeprefix("model.twig_")]
        assert torch.equal(tensor, expected.float()), name
    assert "head.attention.q_proj.bias" in rpn.state_dict()


def test_a_changed_base_of_the_multimodal_rotary_kind_is_refused(multimodal_rotary, tmp_path):
    folder, backbone = multimodal_rotary
    released = folder / "model_released_style"
    tensors = load_file(released / "model.safetensors")
    tensors["visual.merger.ln_q.weight"] = tensors["visual.merger.ln_q.weight"] * 1.5
    save_file(tensors, tmp_path / "model.safetensors")
    shutil.copy(released / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match=r"visual\.merger\.ln_q\.weight differs"):
        import_rpn(tmp_path, backbone)
