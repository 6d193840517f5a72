"""How the embedded backbones are trained: the optimizer, its schedule, and mixed precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sdrpn_glyphs.families import NAMES, family
from sdrpn_glyphs.losses import answer_logits, visual_tokens
from sdrpn_glyphs.mixed_precision import MixedPrecision
from sdrpn_glyphs.optimizer import FINAL_LR, WARM_UP_STEPS, learning_rate, make_optimizer
from sdrpn_glyphs.question_batches import QuestionBatches


@pytest.fixture(params=sorted(NAMES))
def fresh(request):
    torch.manual_seed(0)
    return family(request.param).build()


def test_every_parameter_is_trained_once_at_its_scheduled_rate(fresh) -> None:
    model = fresh.model.requires_grad_(True)
    probe = nn.Linear(8, 4)
    head = model.get_output_embeddings()
    optimizer = make_optimizer((model.base_model, head, probe), (head, probe), 1e-2)
    matrices, others = ({id(p) for p in g["params"]} for g in optimizer.param_groups)
    everything = {id(p): p for p in (*model.parameters(), *probe.parameters())}
    assert matrices | others == set(everything)
    assert not matrices & others
    assert {id(head.weight), id(probe.weight), id(fresh.embedding.weight)} <= others
    layer = fresh.decoder.get_submodule("layers.0")
    assert id(layer.mlp.down_proj.weight) in matrices
    assert id(layer.input_layernorm.weight) in others
    for parameter in everything.values():
        parameter.grad = torch.randn_like(parameter)
    before = [p.detach().clone() for p in everything.values()]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    assert all(torch.equal(p, old) for p, old in zip(everything.values(), before, strict=True))
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    optimizer.step()
    assert not any(torch.equal(p, old) for p, old in zip(everything.values(), before, strict=True))
    assert {id(p) for p, state in optimizer.state.items() if "exp_avg" in state} == others


def test_the_rate_rises_stays_and_falls() -> None:
    rates = [learning_rate(step, 1000) for step in range(1000)]
    assert rates[0] == 1 / WARM_UP_STEPS
    assert rates[WARM_UP_STEPS:601] == [1.0] * (601 - WARM_UP_STEPS)
    assert rates[800] == pytest.approx(0.5)
    assert rates[-1] == FINAL_LR
    assert rates[600:] == sorted(rates[600:], reverse=True)


def test_mixed_precision_stays_close_and_leaves_no_trace(fresh) -> None:
    batch = QuestionBatches(fresh, 0, "questions", steps=1, size=2)[0]

    def logits() -> torch.Tensor:
        return answer_logits(fresh, batch, visual_tokens(fresh, batch.images))[0]

    with torch.no_grad():
        exact = logits()
        precision = MixedPrecision(fresh, enabled=True)
        with precision.forward():
            rounded = logits()
        assert rounded.dtype == torch.bfloat16
        assert not torch.equal(rounded.float(), exact)
        assert (rounded.float() - exact).norm() < 0.03 * exact.norm()
        precision.restore()
        assert fresh.model.config._attn_implementation == "sdpa"
        torch.testing.assert_close(logits(), exact)
        with MixedPrecision(fresh, enabled=False).forward():
            assert torch.equal(logits(), exact)
