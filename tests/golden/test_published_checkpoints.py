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
from tests.golden.runs import until_end

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


@pytest.fixture(scope="module")
def imported(checkpoint, llava):
    return import_rpn(checkpoint, llava)


@pytest.mark.golden_files("llava/samples/*.npz")
def test_imported_maps(golden_file, imported, llava, llava_folder, load):
    sample = load(golden_file)
    question = question_of(llava_folder, sample)
    (roi,) = RPNProposer(imported).maps(prefill(llava, [question], imported))
    np.testing.assert_allclose(roi.scores, sample["roi_logits"], atol=MAPS, rtol=0)


def test_the_released_folder_itself(llava, llava_folder):
    rpn = import_rpn(llava_folder / "released_style", llava)
    branch = load_file(llava_folder / "twig/twig.safetensors")
    for name, tensor in rpn.state_dict().items():
        published = published_name(name, rpn.config.n_layers)
        short = published.removeprefix("model.twig_")
        assert torch.equal(tensor, branch[short]), name


@pytest.fixture(scope="module")
def multimodal_rotary(qwen_folder):
    """The base model; nothing here depends on the budget of pixels, so it is that of any case."""
    settings = next(iter(json.loads((qwen_folder / "cases.json").read_text()).values()))
    return with_budget(load_qwen(qwen_folder, "sdpa"), settings)


@pytest.fixture(scope="module")
def released_qwen(qwen_folder):
    return load_qwen(qwen_folder, "sdpa", "model_released_style")


@pytest.mark.golden_files("qwen2_5_vl/case_*.npz")
def test_imported_maps_and_policy_of_the_multimodal_rotary_kind(golden_file, load, released_qwen):
    """On the released base itself: old names, in half precision, the branch beside it."""
    folder = golden_file.parent
    case = read_case(folder, golden_file, load(golden_file), released_qwen)
    rpn = import_rpn(folder / "model_released_style", case.backbone)
    proposer = RPNProposer(rpn)
    (roi,) = proposer.maps(prefill(case.backbone, [case.question], rpn))
    np.testing.assert_allclose(roi.scores, case.data["roi_logits"], atol=QWEN_MAPS, rtol=0)
    assert proposer.policy == published_policy(0.25)
    if "t025_gen_ids" not in case.data:
        pytest.skip(f"case {case.name} has no answer at the published threshold")
    ids = case.data["t025_gen_ids"].tolist()
    (found,) = answer_batch(case.backbone, [case.question], proposer, max_new_tokens=len(ids))
    assert found.ids == until_end(case.backbone, ids)


def test_multimodal_rotary_checkpoint(qwen_folder, multimodal_rotary):
    folder, backbone = qwen_folder, multimodal_rotary
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


def test_a_changed_base_of_the_multimodal_rotary_kind_is_refused(
    qwen_folder, multimodal_rotary, tmp_path
):
    released = qwen_folder / "model_released_style"
    tensors = load_file(released / "model.safetensors")
    tensors["visual.merger.ln_q.weight"] = tensors["visual.merger.ln_q.weight"] * 1.5
    save_file(tensors, tmp_path / "model.safetensors")
    shutil.copy(released / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match=r"visual\.merger\.ln_q\.weight differs"):
        import_rpn(tmp_path, multimodal_rotary)
