"""Losses are sums over valid cells, so that a mean over the global batch can be taken."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from sdrpn_core.rpn.losses import LOSS_FUNCTIONS

LABELS = torch.tensor([[1, 0, -100, 0, 1], [-100, 0, 0, 1, -100]])


@pytest.fixture
def scores():
    return torch.randn(2, 5, generator=torch.Generator().manual_seed(0)) * 3


def scores_for(name: str, scores: torch.Tensor) -> torch.Tensor:
    return scores.softmax(1) if name == "mse" else scores


def test_bce_is_the_stock_loss_on_valid_cells(scores):
    valid = LABELS != -100
    total, count = LOSS_FUNCTIONS["bce"](scores, LABELS)
    expected = F.binary_cross_entropy_with_logits(scores[valid], LABELS[valid].float())
    torch.testing.assert_close(total / count, expected)
    assert count == 7


def test_focal_is_written_out(scores):
    total, count = LOSS_FUNCTIONS["focal"](scores, LABELS)
    expected = 0.0
    for score, label in zip(scores.flatten().tolist(), LABELS.flatten().tolist(), strict=True):
        if label == -100:
            continue
        p = torch.tensor(score).sigmoid().item()
        p_true, alpha = (p, 0.9) if label else (1 - p, 0.1)  # as published
        expected -= alpha * (1 - p_true) ** 2 * torch.tensor(p_true).log().item()
    assert total.item() == pytest.approx(expected, rel=1e-4)
    assert count == 7


def test_mse_compares_distributions_in_percent(scores):
    probabilities = scores.softmax(1)
    total, count = LOSS_FUNCTIONS["mse"](probabilities, LABELS)
    target = torch.tensor([[0.5, 0, 0, 0, 0.5], [0, 0, 0, 1, 0]])
    valid = LABELS != -100
    torch.testing.assert_close(total, ((100 * (probabilities - target))[valid] ** 2).sum())
    assert count == 7


def test_mse_leaves_an_image_without_foreground_out(scores):
    labels = LABELS.clone()
    labels[1, 3] = 0
    total, count = LOSS_FUNCTIONS["mse"](scores.softmax(1), labels)
    alone = LOSS_FUNCTIONS["mse"](scores.softmax(1)[:1], labels[:1])
    torch.testing.assert_close(total, alone[0])
    assert count == alone[1] == 4


@pytest.mark.parametrize("name", LOSS_FUNCTIONS)
def test_sums_add_up_over_any_split_of_the_batch(name, scores):
    scores = scores_for(name, scores)
    whole = LOSS_FUNCTIONS[name](scores, LABELS)
    parts = [LOSS_FUNCTIONS[name](scores[i : i + 1], LABELS[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(whole[0], parts[0][0] + parts[1][0])
    assert whole[1] == parts[0][1] + parts[1][1]


@pytest.mark.parametrize("name", LOSS_FUNCTIONS)
def test_ignored_cells_get_no_gradient(name, scores):
    scores = scores.requires_grad_()
    labels = LABELS.clone()
    labels[1] = -100
    total, count = LOSS_FUNCTIONS[name](scores, labels)
    total.backward()
    assert count == 4
    assert not scores.grad[labels == -100].any()
    assert scores.grad[labels != -100].abs().min() > 0


@pytest.mark.parametrize("name", LOSS_FUNCTIONS)
def test_nothing_valid_is_zero_and_not_nan(name, scores):
    scores = scores.requires_grad_()
    total, count = LOSS_FUNCTIONS[name](scores, torch.full_like(LABELS, -100))
    total.backward()
    assert (total.item(), count.item()) == (0, 0)
    assert not scores.grad.any()


def test_mse_takes_soft_labels_whose_sum_is_below_one(scores):
    soft = torch.tensor([[0.2, 0.0, -100, 0.1, 0.1], [0.0, 0.0, 0.0, 0.0, 0.0]])
    probabilities = scores.softmax(1)
    total, count = LOSS_FUNCTIONS["mse"](probabilities, soft)
    target = torch.tensor([0.5, 0.0, 0.25, 0.25])
    kept = probabilities[0, [0, 1, 3, 4]]
    torch.testing.assert_close(total, ((100 * (kept - target)) ** 2).sum())
    assert count == 4


def test_bce_takes_soft_labels(scores):
    soft = torch.tensor([[0.2, 0.0, -100, 0.7, 1.0], [0.5, 0.0, 0.0, 0.0, 0.0]])
    valid = soft != -100
    total, count = LOSS_FUNCTIONS["bce"](scores, soft)
    expected = F.binary_cross_entropy_with_logits(scores[valid], soft[valid], reduction="sum")
    torch.testing.assert_close(total, expected)
    assert count == 9
