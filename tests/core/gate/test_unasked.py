"""What nobody asks does not run: neither a gate's layers nor the RPN's trunk, stored or not."""

from __future__ import annotations

import pytest
import torch

from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.prefill import prefill
from sdrpn_core.answering.prefix_store import PrefixStore
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.answering.token_layers import TokenLayerCounter
from sdrpn_core.backbone.question import Question
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.crops.policy import Outcome
from sdrpn_core.data.record import Record
from sdrpn_core.gate.config import GateConfig
from sdrpn_core.rpn.model import RPN
from sdrpn_core.runtime.generation import prompt_block
from sdrpn_core.taps.feature_tap import FeatureTap
from sdrpn_core.utility.reference import Reference, ReferenceKind
from sdrpn_core.utility.stage import judge_crops
from tests.tiny import tiny_image, tiny_llava

GATE_LAYERS, TRUNK_LAYERS = 3, 2
TEXTS = ("what color ?", "where is the red square in this image ?", "why ?")
POLICY = BboxPolicy(threshold=1e-6, max_area_fraction=1.0)  # crops whatever it sees
SURE, UNSURE = 1e-9, 1.0
#: All run behind the same prefix, in one batch.
ALIKE = [Question(TEXTS[1], (tiny_image(seed),)) for seed in range(3)]


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava()


@pytest.fixture(scope="module")
def rpn(backbone):
    torch.manual_seed(0)
    rpn = RPN.from_backbone(backbone, branch=1, n_layers=TRUNK_LAYERS)
    rpn.add_gate(backbone, GateConfig("decoder", {"n_layers": GATE_LAYERS}))
    return rpn.eval()


def cost(backbone, rpn, questions, **options):
    """What the RPN and its gate cost, and the outcomes."""
    threshold = options.pop("gate_threshold", None)
    proposer = RPNProposer(rpn, POLICY, gate_threshold=threshold)
    with TokenLayerCounter(backbone, rpn) as counter:
        found = answer_batch(backbone, questions, proposer, max_new_tokens=2, **options)
    return counter, {answer.outcome for answer in found}


def gate_tokens(rpn):
    """Counts the tokens in each call of the gate's first layer."""
    tokens = []

    def count(module, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        tokens.append(hidden.shape[0] * hidden.shape[1])

    return tokens, rpn.gate.layers[0].register_forward_pre_hook(count, with_kwargs=True)


@pytest.mark.parametrize("stored", [False, True])
def test_a_threshold_of_0_costs_what_an_rpn_without_a_gate_costs(backbone, rpn, stored):
    bare = RPN.from_backbone(backbone, branch=1, n_layers=TRUNK_LAYERS)
    spent = []
    for each in (rpn, bare):
        store = PrefixStore() if stored else None
        counter, outcomes = cost(backbone, each, ALIKE, gate_threshold=0, store=store)
        assert outcomes == {Outcome.OK}
        spent.append(counter.rpn_token_layers)
    assert spent[0] == spent[1] > 0


@pytest.mark.parametrize("gate_threshold", [0, 0.5])
@pytest.mark.parametrize("stored", [False, True])
def test_sure_questions_cost_exactly_the_plain_answers(backbone, rpn, gate_threshold, stored):
    store = PrefixStore() if stored else None
    options = {"gate_threshold": gate_threshold, "confidence_threshold": SURE, "store": store}
    counter, outcomes = cost(backbone, rpn, ALIKE, **options)
    assert outcomes == {Outcome.NOT_NEEDED}
    assert counter.rpn_token_layers == 0
    (prompt,) = backbone.encode(ALIKE[:1])
    with TokenLayerCounter(backbone) as plain:
        answer_batch(backbone, ALIKE, max_new_tokens=2)
    assert counter.token_layers == plain.token_layers
    assert plain.token_layers >= len(ALIKE) * len(prompt) * backbone.n_layers


@pytest.mark.parametrize("stored", [False, True])
def test_behind_a_closed_gate_only_the_gate_runs(backbone, rpn, stored):
    store = PrefixStore() if stored else None
    counter, outcomes = cost(backbone, rpn, ALIKE, gate_threshold=1.0, store=store)
    assert outcomes == {Outcome.NOT_NEEDED}
    (prompt,) = backbone.encode(ALIKE[:1])
    assert counter.rpn_token_layers == len(ALIKE) * len(prompt) * GATE_LAYERS
    if store is not None:  # once more, about the images that are kept: the questions alone
        counter, _ = cost(backbone, rpn, ALIKE, gate_threshold=1.0, store=store)
        rest = len(prompt) - prompt.prefix_length
        assert counter.rpn_token_layers == len(ALIKE) * rest * GATE_LAYERS


def test_the_gate_runs_for_the_unsure_questions_of_a_batch_alone(backbone, rpn):
    plain = answer_batch(
        backbone, ALIKE, RPNProposer(rpn), max_new_tokens=2, confidence_threshold=SURE
    )
    threshold = sorted(answer.confidence for answer in plain)[1] - 1e-6  # one of three is unsure
    tokens, hook = gate_tokens(rpn)
    cost(backbone, rpn, ALIKE, gate_threshold=1.0, confidence_threshold=threshold)
    hook.remove()
    (prompt,) = backbone.encode(ALIKE[:1])
    assert sum(tokens) == len(prompt)


def test_what_regions_are_worth_is_told_without_the_gate(backbone, rpn, tmp_path):
    records = [
        Record(f"r{seed}", tiny_image(seed), TEXTS[0], answers=("red",)) for seed in range(2)
    ]
    tokens, hook = gate_tokens(rpn)
    for reference in (Reference(max_new_tokens=2), Reference(ReferenceKind.ANSWER)):
        folder = tmp_path / reference.kind.value
        judge_crops(backbone, records, folder, rpn, reference=reference, n_candidates=1)
    hook.remove()
    assert tokens == []


def test_a_store_keeps_to_its_limit_when_the_trunk_runs_later(backbone, rpn):
    """A plain answer that was sure leaves no trunk behind; a question that looks adds one."""
    question = ALIKE[0]
    measured = PrefixStore()
    options = {"gate_threshold": 0, "store": measured}
    cost(backbone, rpn, [question], confidence_threshold=SURE, **options)
    before = measured.nbytes
    cost(backbone, rpn, [question], **options)
    after = measured.nbytes
    (prompt,) = backbone.encode([question])
    config = backbone.text_config
    width = config.num_key_value_heads * backbone.layers[0].self_attn.head_dim
    keys_values = 4 * 2 * width * len(rpn.layers) * prompt.prefix_length  # float32
    assert after - before > keys_values
    assert (measured.hits, measured.misses) == (1, 1)

    store = PrefixStore(max_bytes=2 * before + (after - before) // 2)
    for asked in ALIKE[:2]:
        cost(backbone, rpn, [asked], gate_threshold=0, confidence_threshold=SURE, store=store)
    assert (len(store), store.nbytes) == (2, 2 * before)
    cost(backbone, rpn, [ALIKE[1]], gate_threshold=0, store=store)
    assert (len(store), store.nbytes) == (1, after)
    # What has grown too large by itself goes, and takes no others with it.
    small = PrefixStore(max_bytes=after - 1)
    cost(backbone, rpn, [question], gate_threshold=0, confidence_threshold=SURE, store=small)
    assert (len(small), small.nbytes) == (1, before)
    cost(backbone, rpn, [question], gate_threshold=0, confidence_threshold=UNSURE, store=small)
    assert (len(small), small.nbytes) == (0, 0)


@torch.no_grad()
def test_what_waits_for_the_trunk_counts_as_memory(backbone, rpn):
    """The branch features of a batch, once for all rows that wait for them."""
    store = PrefixStore()
    state = prefill(backbone, ALIKE, rpn, store=store)
    block = prompt_block(backbone, [prefix.prompt for prefix in state.prefixes])
    with FeatureTap(backbone.decoder, rpn.branch) as tap:
        features = tap.run(**block.model_inputs())
    readings = [prefix.reading for prefix in state.prefixes]
    waiting = sum(reading.nbytes for reading in readings)
    hidden = len(ALIKE) * state.prefixes[0].embeds.shape[0] * 64 * 4
    assert features.hidden.nbytes == hidden < features.nbytes
    assert features.nbytes - len(ALIKE) < waiting <= features.nbytes
    assert readings[0].trunk
    assert readings[0].gate
    done = readings[0].trunk.nbytes + readings[0].gate.nbytes
    assert readings[0].nbytes == done
    rest = sum(reading.nbytes for reading in readings[1:])
    assert features.nbytes - len(ALIKE) < rest <= features.nbytes
    for reading in readings:
        assert reading.trunk
        assert reading.gate
    assert sum(reading.nbytes for reading in readings) == len(ALIKE) * done
