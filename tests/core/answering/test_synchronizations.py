"""How often an answer waits for the device: no more per token than the stock model does."""

from __future__ import annotations

import warnings

import pytest
import torch

from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.backbone.question import Question
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.rpn.model import RPN
from sdrpn_core.runtime.clock import StageClock, synchronized_stages
from sdrpn_core.runtime.generation import prompt_block
from sdrpn_core.taps.response_attention import read_own_responses
from tests.synchronizations import Synchronizations
from tests.tiny import tiny_image, tiny_llava

SHORT, LONG = 4, 12
QUESTION = Question("what is on the left ?", (tiny_image(0),))
#: Of a whole answer, whatever its length: reading the map, the ids and the like.
MOST_PER_ANSWER = 30


@pytest.fixture(scope="module")
def backbone():
    backbone = tiny_llava()
    backbone.model.generation_config.eos_token_id = None  # every response has its full length
    return backbone


def stock(backbone, n_new):
    block = prompt_block(backbone, backbone.encode([QUESTION]))
    inputs = {"inputs_embeds": block.embeds, "attention_mask": block.mask}
    backbone.model.generate(**inputs, max_new_tokens=n_new, do_sample=False, pad_token_id=0)


def plain(backbone, n_new):
    answer_batch(backbone, [QUESTION], max_new_tokens=n_new)


def two_stage(backbone, n_new):
    rpn = RPN.from_backbone(backbone, branch=2, n_layers=2)
    proposer = RPNProposer(rpn, BboxPolicy(threshold=1e-6, max_area_fraction=1.0))
    (found,) = answer_batch(backbone, [QUESTION], proposer, max_new_tokens=n_new)
    assert found.boxes


def labels_of(*layers):
    def label(backbone, n_new):
        prompts = backbone.encode([QUESTION])
        heads = {layer: None if layer % 2 else [0, 1] for layer in layers}
        (found,) = read_own_responses(backbone, prompts, heads, max_new_tokens=n_new)
        assert found.n_rows == n_new - 1

    return label


CASES = {
    "plain": plain,
    "two-stage": two_stage,
    "labels, one layer": labels_of(1),
    "labels, all layers": labels_of(0, 1, 2, 3, 4, 5),
}


@torch.no_grad()
def count(run, backbone, n_new):
    with Synchronizations() as found:
        run(backbone, n_new)
    return found


def per_token(run, backbone):
    short, long = (count(run, backbone, n_new) for n_new in (SHORT, LONG))
    return (long.total - short.total) / (LONG - SHORT)


@pytest.mark.parametrize("case", CASES)
def test_no_more_per_token_than_the_stock_model(backbone, case):
    expected = per_token(stock, backbone)
    assert expected > 0  # generate() asks whether all sequences have ended
    assert per_token(CASES[case], backbone) == expected


@pytest.mark.parametrize("case", CASES)
def test_few_per_answer(backbone, case):
    assert count(CASES[case], backbone, SHORT).total <= MOST_PER_ANSWER


def test_tapped_layers_add_none(backbone):
    one, all_of_them = (
        count(CASES[f"labels, {layers}"], backbone, LONG).counts
        for layers in ("one layer", "all layers")
    )
    # The maps of a layer become an array each, which waits for nothing: they are on the host.
    for counts in (one, all_of_them):
        counts.pop("torch.Tensor.numpy")
    assert all_of_them == one


def test_stages_wait_for_the_device_only_on_request(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    device = torch.device("cuda")

    def run():
        clock = StageClock(device)
        with clock.stage("prefix"), clock.stage("proposal"):
            clock.switch("decode")
        assert list(clock.seconds) == ["prefix", "proposal", "decode"]

    run()
    assert waited == []
    with synchronized_stages():
        run()
        assert waited == [device] * 4
    run()
    assert waited == [device] * 4


@pytest.mark.cuda
@pytest.mark.parametrize("case", CASES)
def test_no_more_per_token_on_cuda(case):
    backbone = tiny_llava()
    backbone.model.generation_config.eos_token_id = None
    backbone.model.to("cuda")

    def waits(run, n_new):
        run(backbone, n_new)  # what the first run sets up is no concern of this test
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                run(backbone, n_new)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing" in str(one.message) for one in caught)

    def per_token_on_cuda(run):
        return (waits(run, LONG) - waits(run, SHORT)) / (LONG - SHORT)

    assert per_token_on_cuda(CASES[case]) <= per_token_on_cuda(stock)
