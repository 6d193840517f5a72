"""A tap serves the thread that opened it: step by step, what two threads see of each other."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from sdrpn_core.backbone.question import Question
from sdrpn_core.errors import ConfigError
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_core.rpn.model import RPN
from sdrpn_core.runtime.generation import prompt_block
from sdrpn_core.taps.attention_tap import AttentionTap, attention_implementation
from sdrpn_core.taps.feature_tap import FeatureTap
from tests.tiny import tiny_image, tiny_llava

InOtherThread = Callable[[Callable[[], Any]], Any]


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def backbone(request):
    return tiny_llava(attn_implementation=request.param)


@pytest.fixture(scope="module")
def inputs(backbone):
    block = prompt_block(backbone, backbone.encode([Question("how many ?", (tiny_image(),))]))
    return {"inputs_embeds": block.embeds, "attention_mask": block.mask}


@pytest.fixture
def in_other() -> Iterator[InOtherThread]:
    """Runs functions in another thread, always the same one."""
    with ThreadPoolExecutor(1) as pool:
        yield lambda function: pool.submit(function).result()


@pytest.fixture
def whole(backbone, inputs) -> Callable[[], torch.Tensor]:
    """A pass through all layers."""

    @torch.no_grad()
    def run() -> torch.Tensor:
        return backbone.decoder(**inputs).last_hidden_state

    return run


def n_hooks(backbone) -> int:
    return sum(len(module._forward_pre_hooks) for module in backbone.model.modules())


def test_a_tap_neither_ends_nor_records_the_pass_of_another_thread(
    backbone, inputs, whole, in_other
):
    expected = whole()
    with FeatureTap(backbone.decoder, 2) as tap:
        assert torch.equal(in_other(whole), expected)
        with pytest.raises(RuntimeError, match="no pass has reached layer 2"):
            tap.take()


@torch.no_grad()
def test_taps_of_two_threads_on_one_layer(backbone, inputs, in_other):
    """Torch has one hook, for as long as either needs it."""
    shifted = {**inputs, "inputs_embeds": inputs["inputs_embeds"] + 1}
    before = n_hooks(backbone)
    with FeatureTap(backbone.decoder, 2) as alone:
        expected = [alone.run(**each).hidden for each in (inputs, shifted)]
    mine, other = FeatureTap(backbone.decoder, 2), FeatureTap(backbone.decoder, 2)
    mine.__enter__()
    in_other(other.__enter__)
    assert n_hooks(backbone) == before + 1
    for _ in range(2):
        assert torch.equal(mine.run(**inputs).hidden, expected[0])
        assert torch.equal(in_other(lambda: other.run(**shifted).hidden), expected[1])
    mine.__exit__(None, None, None)
    assert n_hooks(backbone) == before + 1
    assert torch.equal(in_other(lambda: other.run(**shifted).hidden), expected[1])
    in_other(lambda: other.__exit__(None, None, None))
    assert n_hooks(backbone) == before


def test_running_a_tap_of_another_thread_is_refused(backbone, inputs, in_other):
    with FeatureTap(backbone.decoder, 2) as tap:
        with pytest.raises(RuntimeError, match="the tap serves the thread that opened it"):
            in_other(lambda: tap.run(**inputs))
        assert tap.run(**inputs).hidden.shape == inputs["inputs_embeds"].shape


def test_a_tap_may_be_closed_by_another_thread(backbone, whole, in_other):
    expected, before = whole(), n_hooks(backbone)
    tap, attention = FeatureTap(backbone.decoder, 2), AttentionTap(backbone.decoder, {1: None})
    for each in (tap, attention):
        each.__enter__()
        in_other(lambda each=each: each.__exit__(None, None, None))
    assert n_hooks(backbone) == before
    assert torch.equal(whole(), expected)
    assert not attention.rows


def test_a_thread_that_ended_leaves_its_tap_to_nobody(backbone, whole):
    """Threads get the numbers of those that ended."""
    expected, taps = whole(), []

    def leave_open() -> None:
        taps.append(FeatureTap(backbone.decoder, 2).__enter__())

    for function in (leave_open, whole):
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(function).result()
    assert torch.equal(found, expected)
    taps[0].__exit__(None, None, None)


def test_a_pass_that_meets_a_half_made_hook_goes_on(backbone, whole, in_other):
    """Torch notes that a hook takes keyword arguments after it has the hook, and forgets it first;
    a pass of another thread may come in between.
    """
    expected = whole()
    with FeatureTap(backbone.decoder, 2):
        marks = backbone.layers[2]._forward_pre_hooks_with_kwargs
        kept = dict(marks)
        marks.clear()
        assert torch.equal(in_other(whole), expected)
        marks.update(kept)


@torch.no_grad()
def test_attention_of_another_thread_is_not_collected(backbone, inputs, whole, in_other):
    expected = whole()
    with AttentionTap(backbone.decoder, {1: None}) as tap:
        assert torch.equal(in_other(whole), expected)
        with pytest.raises(ConfigError, match="by the thread that opened the tap"):
            tap.weights(1)
        assert torch.equal(whole(), expected)
    assert len(tap.rows[1]) == 1


@torch.no_grad()
def test_attention_taps_of_two_threads_that_close_in_any_order(backbone, whole, in_other):
    name = backbone.decoder.config._attn_implementation
    mine = AttentionTap(backbone.decoder, {1: None, 3: (0,)})
    other = AttentionTap(backbone.decoder, {1: None})
    mine.__enter__()
    in_other(other.__enter__)
    assert backbone.decoder.config._attn_implementation != name
    assert attention_implementation(backbone.decoder.config) == name
    whole()
    mine.__exit__(None, None, None)
    in_other(whole)  # still wrapped for the other one
    in_other(whole)
    assert (len(mine.rows[1]), len(mine.rows[3]), len(other.rows[1])) == (1, 1, 2)
    assert torch.equal(mine.weights(1), other.rows[1][0].weights)
    in_other(lambda: other.__exit__(None, None, None))
    assert backbone.decoder.config._attn_implementation == name


@torch.no_grad()
def test_copies_of_layers_that_others_are_tapping(backbone, inputs, in_other):
    config = RPNConfig(branch=2, n_layers=2)
    expected = RPN.from_backbone(backbone, config)
    outer = FeatureTap(backbone.decoder, 2, stop=False)
    with outer, AttentionTap(backbone.decoder, {2: None, 3: None}) as tap:
        rpn = in_other(lambda: RPN.from_backbone(backbone, config))
        with FeatureTap(backbone.decoder, 2) as inner:
            features = inner.run(**inputs, use_cache=False)
        rows = len(tap.rows[2])
        assert torch.equal(rpn.trunk(features).hidden, expected.trunk(features).hidden)
        assert len(tap.rows[2]) == rows, "the trunk is not the decoder"
    assert torch.equal(rpn.trunk(features).hidden, expected.trunk(features).hidden)


def test_nothing_keeps_a_model_that_is_gone():
    backbone = tiny_llava()
    layer = weakref.ref(backbone.layers[2])
    with FeatureTap(backbone.decoder, 2), AttentionTap(backbone.decoder, {1: None}):
        pass
    del backbone
    gc.collect()
    assert layer() is None
