"""The gate of an RPN in answers: alone, in batches, with stores, saved and loaded."""

from __future__ import annotations

from math import nextafter

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
from sdrpn_core.errors import CheckpointError, ConfigError, UnknownNameError
from sdrpn_core.gate.config import GateConfig
from sdrpn_core.gate.losses import gate_loss
from sdrpn_core.labels.pseudo import IGNORE
from sdrpn_core.rpn.model import RPN
from sdrpn_core.runtime.generation import prompt_block
from sdrpn_core.taps.feature_tap import FeatureTap
from sdrpn_core.training.stage import train
from tests.tiny import tiny_image, tiny_llava
from tests.written_out_gate import written_out_logit

QUESTIONS = [
    "what color ?",
    "where is the red square in this image , and what is near it ?",
    "why ?",
]
POLICY = BboxPolicy(threshold=1e-6, max_area_fraction=1.0)  # crops whatever it sees
KINDS = {"decoder": {"n_layers": 2}, "linear": {}, "mlp": {"width": 8}}
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava()


@pytest.fixture(scope="module", params=KINDS)
def rpn(request, backbone):
    torch.manual_seed(0)
    rpn = RPN.from_backbone(backbone, branch=1, n_layers=2)
    rpn.add_gate(backbone, GateConfig(request.param, KINDS[request.param]))
    with torch.no_grad():
        # To random weights, questions differ little beside what they have in common.
        logits = expected_logits(backbone, rpn)
        last = rpn.gate.head.fc2 if request.param == "mlp" else rpn.gate.head
        last.bias.sub_(logits.median())
        for parameter in last.parameters():
            parameter.div_(logits.std())
    return rpn.eval()


def questions():
    return [Question(text, (tiny_image(seed),)) for seed, text in enumerate(QUESTIONS)]


@torch.no_grad()
def expected_logits(backbone, rpn):
    """One question at a time, in one pass over its whole prompt."""
    found = []
    for prompt in backbone.encode(questions()):
        block = prompt_block(backbone, [prompt])
        with FeatureTap(backbone.decoder, rpn.branch) as tap:
            features = tap.run(**block.model_inputs())
        found.append(written_out_logit(rpn, prompt, block, features))
    return torch.stack(found)


@pytest.mark.parametrize("stored", [False, True])
def test_a_batch_is_decided_question_by_question(backbone, rpn, stored):
    probabilities = expected_logits(backbone, rpn).sigmoid().tolist()
    low, threshold, high = sorted(probabilities)
    assert low < threshold - 10 * TOLERANCE
    assert threshold < high - 10 * TOLERANCE
    proposer = RPNProposer(rpn, POLICY, gate_threshold=threshold - TOLERANCE)
    always = RPNProposer(rpn, POLICY, gate_threshold=0)
    options = {"max_new_tokens": 4}
    store = PrefixStore(2**30) if stored else None
    for _ in range(2 if stored else 1):  # the second time, all prefixes come from the store
        found = answer_batch(backbone, questions(), proposer, store=store, **options)
    plain = answer_batch(backbone, questions(), **options)
    cropped = answer_batch(backbone, questions(), always, **options)
    for answer, probability, without, with_crop in zip(
        found, probabilities, plain, cropped, strict=True
    ):
        (proposal,) = answer.proposals
        assert proposal.gate == pytest.approx(probability, abs=TOLERANCE)
        if probability == low:
            assert answer.outcome is Outcome.NOT_NEEDED
            assert (answer.ids, proposal.roi) == (without.ids, None)
        else:
            assert answer.outcome is Outcome.OK
            assert answer.ids == with_crop.ids
    assert [p.gate for answer in cropped for p in answer.proposals] == [None] * 3


def test_a_probability_that_just_reaches_the_threshold_opens_the_gate(backbone, rpn):
    asked = questions()[:1]
    always = RPNProposer(rpn, POLICY, gate_threshold=1e-30)
    (found,) = answer_batch(backbone, asked, always, max_new_tokens=1)
    need = found.proposals[0].gate
    for threshold, outcome in ((need, Outcome.OK), (nextafter(need, 1.0), Outcome.NOT_NEEDED)):
        proposer = RPNProposer(rpn, POLICY, gate_threshold=threshold)
        (found,) = answer_batch(backbone, asked, proposer, max_new_tokens=1)
        assert found.outcome is outcome


def test_behind_a_closed_gate_with_layers_nothing_of_the_rpn_runs(backbone, rpn):
    calls = []
    hook = rpn.layers[0].register_forward_hook(lambda *args: calls.append(1))
    proposer = RPNProposer(rpn, POLICY, gate_threshold=1.0)
    found = answer_batch(backbone, questions(), proposer, max_new_tokens=2)
    hook.remove()
    assert {answer.outcome for answer in found} == {Outcome.NOT_NEEDED}
    assert bool(calls) == (not rpn.gate.layers)


def test_the_layers_of_a_gate_are_counted(backbone, rpn):
    """As many tokens as the prompts have, in every layer that runs."""
    proposer = RPNProposer(rpn, POLICY, gate_threshold=1.0)
    (prompt,) = backbone.encode(questions()[:1])
    with TokenLayerCounter(backbone, rpn) as counter:
        answer_batch(backbone, questions()[:1], proposer, max_new_tokens=1)
    # The trunk is what a gate without layers reads.
    n_layers = len(rpn.gate.layers) or len(rpn.layers)
    assert counter.rpn_token_layers == n_layers * len(prompt)


def test_training_regions_with_an_untrained_gate_is_refused(backbone, rpn, tmp_path):
    with pytest.raises(ConfigError, match="take the gate out of the RPN's configuration"):
        train(backbone, [], tmp_path, config=rpn.config)
    assert not any(tmp_path.iterdir())


def test_the_gate_of_the_configuration_decides_unless_another_threshold_is_given(backbone, rpn):
    assert RPNProposer(rpn).gate_threshold == rpn.config.gate.threshold
    assert RPNProposer(rpn, gate_threshold=0.7).gate_threshold == 0.7
    with pytest.raises(ConfigError, match=r"between 0 and 1, not 1\.5"):
        RPNProposer(rpn, gate_threshold=1.5)
    bare = RPN.from_backbone(backbone, branch=1, n_layers=2)
    assert RPNProposer(bare).gate_threshold == 0
    with pytest.raises(ConfigError, match="this RPN has no gate"):
        RPNProposer(bare, gate_threshold=0.1)


def test_the_default_gate_is_the_published_one(backbone):
    """Of arXiv:2604.06912: three layers, and regions from a probability of 0.1 on."""
    rpn = RPN.from_backbone(backbone, branch=1, n_layers=2)
    gate = rpn.add_gate(backbone, GateConfig())
    assert len(gate.layers) == 3
    assert RPNProposer(rpn).gate_threshold == 0.1


def test_a_gate_is_saved_with_its_rpn(backbone, rpn, tmp_path):
    rpn.save_pretrained(tmp_path)
    loaded = RPN.from_pretrained(tmp_path, backbone=backbone)
    assert loaded.config.gate == rpn.config.gate
    for name, tensor in rpn.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    bare = RPN.from_backbone(backbone, branch=1, n_layers=2)
    bare.save_pretrained(tmp_path / "bare")
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "bare/model.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointError):
        RPN.from_pretrained(tmp_path / "bare", backbone=backbone)


def test_what_a_prefix_keeps_counts_as_memory(backbone, rpn):
    """To the byte: float32 states, rotary embeddings, and keys and values of the copies."""
    (prefix,) = prefill(backbone, questions()[:1], rpn).prefixes
    reading = prefix.reading
    assert reading.trunk
    assert bool(reading.gate) == bool(rpn.gate.layers)
    config, head_dim = backbone.text_config, backbone.layers[0].self_attn.head_dim
    per_layer = 2 * config.num_key_value_heads * head_dim
    trunk = config.hidden_size + 2 * head_dim + len(rpn.layers) * per_layer
    gate = len(rpn.gate.layers) * per_layer
    last = config.hidden_size if rpn.gate.layers else 0
    assert reading.nbytes == 4 * (len(prefix) * (trunk + gate) + last)


@torch.no_grad()
def test_a_gate_decides_in_half_precision_what_its_weights_say(backbone, rpn):
    half = tiny_llava()
    half.model.to(torch.bfloat16)
    rounded = RPN.from_backbone(half, branch=1, n_layers=2)
    rounded.add_gate(half, rpn.config.gate)
    rounded.load_state_dict(rpn.state_dict())
    proposer = RPNProposer(rounded, POLICY, gate_threshold=1e-30)
    found = answer_batch(half, questions(), proposer, max_new_tokens=1)
    expected = expected_logits(backbone, rpn)
    assert expected.std() > 0.9
    logits = torch.tensor([one.proposals[0].gate for one in found]).logit()
    torch.testing.assert_close(logits, expected, rtol=0, atol=0.3)


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"name": "decodr"}, UnknownNameError, "decoder"),
        ({"options": {"layers": 2}}, ConfigError, "no option layers; its options: n_layers"),
        ({"options": {"n_layers": 0}}, ConfigError, "must be 1 or more, not 0"),
        (
            {"options": {"n_layers": 99}},
            ConfigError,
            r"from 1 on, up to 99, but the decoder ends with layer 5: take 5 or fewer \(--gate",
        ),
        ({"options": {"n_layers": "abc"}}, ConfigError, "n_layers of the decoder gate .*, not str"),
        ({"options": {"n_layers": 2.7}}, ConfigError, "kind of its default 3, not float"),
        ({"options": {"n_layers": True}}, ConfigError, "not bool"),
        ({"name": "mlp", "options": {"width": None}}, ConfigError, "default 64, not null"),
        ({"name": "linear", "options": {"n_layers": 2}}, ConfigError, "its options: none"),
        ({"name": "mlp", "options": {"width": 0}}, ConfigError, "width of the mlp gate must be 1"),
    ],
)
def test_impossible_gates_are_refused(backbone, config, error, message):
    rpn = RPN.from_backbone(backbone, branch=1, n_layers=2)
    with pytest.raises(error, match=message):
        rpn.add_gate(backbone, GateConfig(**config))


def test_a_gate_of_layers_that_were_not_loaded_says_how_many_it_takes():
    backbone = tiny_llava()
    del backbone.layers[3:]
    rpn = RPN.from_backbone(backbone, branch=1, n_layers=2)
    with pytest.raises(ConfigError, match="only 3 were loaded: load 4 or more"):
        rpn.add_gate(backbone, GateConfig())


def test_the_loss_leaves_ignored_questions_out():
    logits = torch.tensor([0.5, -1.0, 3.0], requires_grad=True)
    total, count = gate_loss(logits, torch.tensor([1.0, IGNORE, 0.25]))
    reference = torch.nn.BCEWithLogitsLoss(reduction="sum")
    expected = reference(logits[[0, 2]], torch.tensor([1.0, 0.25]))
    assert count == 2
    assert total.item() == pytest.approx(expected.item())
    total.backward()
    assert logits.grad[1] == 0
