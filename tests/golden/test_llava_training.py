"""LLaVA: scores, losses and gradients of a training batch, against the published numbers."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sdrpn_core import FeatureTap
from sdrpn_core.labels.pseudo import IGNORE
from sdrpn_core.rpn.losses import LOSS_FUNCTIONS
from sdrpn_core.runtime.block import ImagePlace
from sdrpn_core.runtime.generation import prompt_block
from tests.golden.llava import golden_rpn, question_of, sample_file
from tests.golden.losses import labeled_mse
from tests.golden.runs import rpn_name

LOSS = 1e-4
GRADIENT = 1e-3
#: README: the tolerances of the same scores at inference.
SCORES = {"roi_logits": 5e-4, "roi_map_mse": 1e-5}
PLAIN_LOGITS = 1e-4

training = pytest.mark.golden_files("llava/training.npz")


@pytest.fixture
def data(golden_file, load):
    return load(golden_file)


@pytest.fixture
def batch(data, load, llava, llava_folder):
    """The features of the golden batch at the branch, and where its images lie."""
    ids, questions = [], []
    for sample, row, real, labels in zip(
        data["sample_index"], data["input_ids"], data["attention_mask"], data["labels"], strict=True
    ):
        first = int(np.flatnonzero(labels != IGNORE)[0])
        question = question_of(llava_folder, load(sample_file(llava_folder, sample)))
        response = row[first:][real[first:].astype(bool)]
        assert response.tolist() == labels[labels != IGNORE].tolist()
        question = type(question)("", question.images, tuple(response.tolist()))
        questions.append(question)
        prompt = " ".join(map(str, row[:first].tolist()))
        ids.append(llava.tokenize(prompt, len(question.images)))
    prompts = llava.encode_ids(ids, questions)
    assert [prompt.query_index for prompt in prompts] == data["query_index"].tolist()
    block = prompt_block(llava, prompts)
    branch = golden_rpn(llava_folder, llava).config.branch
    with torch.no_grad(), FeatureTap(llava.decoder, branch) as tap:
        features = tap.run(
            inputs_embeds=block.embeds, attention_mask=block.mask, position_ids=block.positions
        )
    places = [
        ImagePlace(
            row,
            int(offset) + prompt.image_spans[0][0],
            prompt.images[0].grid,
            int(offset) + prompt.query_index,
        )
        for row, (prompt, offset) in enumerate(zip(prompts, block.starts, strict=True))
    ]
    return features, places


@pytest.fixture
def trainable(llava, llava_folder):
    """Makes a fresh RPN for a loss, in training mode."""
    return lambda loss, **options: golden_rpn(llava_folder, llava, loss=loss, **options).train()


@training
def test_scores(data, batch, trainable):
    for name, loss in (("roi_logits", "bce"), ("roi_map_mse", "mse")):
        scores = trainable(loss)(*batch).scores.detach().numpy()
        np.testing.assert_allclose(scores, data[name], atol=SCORES[name], rtol=0, err_msg=name)


@training
def test_the_vocabulary_head_that_no_score_depends_on(data, batch, trainable, llava_folder):
    """Published checkpoints hold a language head behind the branch's norm; an RPN has none."""
    rpn = trainable("bce")
    outputs = []
    handle = rpn.norm.register_forward_hook(lambda _, args, output: outputs.append(output))
    with torch.no_grad():
        rpn(*batch)
    handle.remove()
    head = load_file(llava_folder / "released_style/model.safetensors")["twig_head.weight"]
    logits = outputs[0][0, batch[1][0].query] @ head.float().T
    expected = data["logits_last_valid"]
    np.testing.assert_allclose(logits.numpy(), expected, atol=PLAIN_LOGITS, rtol=0)


def labels_of(data, kind):
    if kind == "all_ignore":
        return torch.full(data["roi_labels"].shape, IGNORE)
    return torch.from_numpy(data[kind].astype(np.int64))


def backward(loss, rpn):
    """Gradient norm of every parameter, ``None`` where there is no gradient."""
    rpn.zero_grad(set_to_none=True)
    loss.backward()
    return {
        name: None if parameter.grad is None else float(parameter.grad.norm())
        for name, parameter in rpn.named_parameters()
    }


def mean_loss(loss, scores, labels):
    """The published mean over the valid cells of the whole batch."""
    total, count = LOSS_FUNCTIONS[loss](scores, labels)
    return total / count.clamp(min=1)


def published_mse(scores, labels):
    """The published formula: ignored cells are a target of -100 and part of the target's sum."""
    target = labels.float()
    target = target / target.sum(dim=1, keepdim=True)
    return ((100 * scores - 100 * target) ** 2).mean()


def check_gradients(data, norms, published, n_layers):
    """Equal norms, and no parameter of ours for what gets no gradient there."""
    expected = {}
    for name, norm in zip(data["grad_names"], published, strict=True):
        own = rpn_name(n_layers, str(name))
        if np.isnan(norm):
            assert own is None, name
        else:
            expected[own] = norm
    assert None not in norms.values()
    assert norms.keys() == expected.keys()
    for name, norm in expected.items():
        assert norms[name] == pytest.approx(norm, rel=GRADIENT), name


def loss_names(file):
    """``loss.labels`` of every published loss of the whole batch."""
    with np.load(file, allow_pickle=False) as data:
        keys = [key.removeprefix("loss.") for key in data.files if key.startswith("loss.")]
    return [key for key in keys if not re.fullmatch(r"\w+\.sample\d+_alone", key)]


@pytest.mark.golden_entries("llava/training.npz", loss_names)
def test_loss_and_gradients(golden_entry, data, batch, trainable):
    loss, kind = golden_entry.split(".")
    rpn, labels = trainable(loss), labels_of(data, kind)
    scores = rpn(*batch).scores
    if loss == "mse" and (labels == IGNORE).any():
        # A deviation, see the test below: the published number needs the published formula.
        value = published_mse(scores, labels)
    else:
        value = mean_loss(loss, scores, labels)
    assert value.item() == pytest.approx(float(data[f"loss.{golden_entry}"]), rel=LOSS, abs=1e-12)
    norms = backward(value, rpn)
    if kind == "all_ignore":
        assert set(norms.values()) == {0.0}
    else:
        check_gradients(data, norms, data[f"grad_norm.{golden_entry}"], rpn.config.n_layers)


@training
def test_every_loss_is_compared_with_a_published_one(golden_file):
    assert {name.partition(".")[0] for name in loss_names(golden_file)} == set(LOSS_FUNCTIONS)


@training
def test_mse_leaves_ignored_cells_out(data, batch, trainable):
    """The deviation: the target's sum and the mean run over the cells that have a label."""
    labels = labels_of(data, "roi_labels")
    if not (labels == IGNORE).any() or "loss.mse.roi_labels" not in data:
        pytest.skip("this set has no mse loss over labels with ignored cells")
    scores = trainable("mse")(*batch).scores.detach()
    ours = mean_loss("mse", scores, labels).item()
    assert ours == pytest.approx(labeled_mse(scores.numpy(), labels.numpy()), rel=LOSS)
    assert ours != pytest.approx(float(data["loss.mse.roi_labels"]), rel=10 * LOSS)


@training
def test_mse_without_ignored_cells_is_the_published_one(data, batch, trainable):
    full = labels_of(data, "roi_labels_noignore")
    scores = trainable("mse")(*batch).scores.detach()
    # Without foreground the published one divides by zero; here the image is left out.
    nothing = torch.zeros_like(full)
    assert not torch.isfinite(published_mse(scores, nothing))
    assert mean_loss("mse", scores, nothing).item() == 0
    if not (full > 0).any(dim=1).all():
        pytest.skip("a sample of this set has no foreground")
    assert mean_loss("mse", scores, full).item() == pytest.approx(
        published_mse(scores, full).item(), rel=LOSS
    )


@training
def test_the_mean_runs_over_the_cells_of_the_whole_batch(data, batch, trainable):
    scores = trainable("bce")(*batch).scores.detach()
    labels = labels_of(data, "roi_labels")
    totals = []
    for row, (score, label) in enumerate(zip(scores, labels, strict=True)):
        total, count = LOSS_FUNCTIONS["bce"](score[None], label[None])
        assert count == data[f"n_valid_sample{row}"]
        alone = float(data[f"loss.bce.sample{row}_alone"])
        assert (total / count).item() == pytest.approx(alone, rel=LOSS)
        totals.append((total, count))
    sums = [sum(values) for values in zip(*totals, strict=True)]
    published = float(data["loss.bce.roi_labels"])
    assert (sums[0] / sums[1]).item() == pytest.approx(published, rel=LOSS)


@training
def test_single_gradients(data, batch, trainable):
    rpn = trainable("bce")
    scores = rpn(*batch).scores
    backward(mean_loss("bce", scores, labels_of(data, "roi_labels")), rpn)
    attention = rpn.head.attention
    for name, gradient in {
        "grad.last_q_proj": attention.q_proj.weight.grad,
        "grad.last_k_proj": attention.k_proj.weight.grad,
        "grad.norm": rpn.norm.weight.grad,
        "grad.layer0_q_proj_row0": rpn.layers[0].self_attn.q_proj.weight.grad[0],
    }.items():
        allowed = GRADIENT * np.abs(data[name]).max()
        np.testing.assert_allclose(
            gradient.numpy(), data[name], atol=allowed, rtol=GRADIENT, err_msg=name
        )
