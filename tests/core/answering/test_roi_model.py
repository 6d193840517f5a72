"""One object that answers: loaded from an RPN alone or from both, and equal to its parts."""

from __future__ import annotations

import inspect
import json
import shutil

import numpy as np
import pytest
import torch

from sdrpn_core import RPN, Outcome, Question, RoIModel, load_backbone
from sdrpn_core.answering import roi_model
from sdrpn_core.answering.answer import answer, answer_batch
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.answering.stream import answer_stream
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.crops.pruning import PRUNE_RULES
from sdrpn_core.errors import (
    CheckpointError,
    ConfigError,
    ImageError,
    InputError,
    UnknownNameError,
)
from sdrpn_core.gate.config import GateConfig
from sdrpn_core.grid.overlay import draw_overlay
from sdrpn_core.rpn.backbone_source import backbone_source
from sdrpn_core.rpn.checkpoint import read_rpn_config
from tests.tiny import tiny_image, write_tiny_llava

QUESTION = "which color is the circle ?"
POLICY = {"threshold": 0.5, "max_crops": 9, "max_area_fraction": 1.0}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A backbone and its RPN, side by side, and an RPN of another backbone."""
    root = tmp_path_factory.mktemp("roi-model")
    write_tiny_llava(root / "tiny", grid=8)
    write_tiny_llava(root / "other", seed=1, grid=8)
    for backbone, name in (("tiny", "rpn"), ("other", "rpn-of-other")):
        rpn = RPN.from_backbone(
            load_backbone(root / backbone), branch=3, n_layers=2, policy_options=POLICY
        )
        rpn.save_pretrained(root / name)
    return root


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "copy")


@pytest.fixture(scope="module")
def model(original):
    return RoIModel.from_pretrained(original / "rpn")


@pytest.fixture(scope="module")
def questions():
    return [
        Question(QUESTION, (tiny_image(1),)),
        Question("how many dots ?", (tiny_image(2, (60, 200)), tiny_image(3))),
        Question("what ?", (tiny_image(4),)),
    ]


def edit_name(folder, **facts):
    """Change what a configuration says of its backbone, as its author could have."""
    config, _ = read_rpn_config(folder)
    return type(config).from_dict({**config.to_dict(), "backbone": {**config.backbone, **facts}})


def boxes(proposals):
    return [[proposal.boxes for proposal in row] for row in proposals]


def test_an_rpn_brings_the_backbone_that_it_names(original, model):
    assert model.backbone.name == str(original / "tiny")
    assert model.policy == BboxPolicy(**POLICY)
    expected = load_backbone(original / "tiny").model.state_dict()
    found = model.backbone.model.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_relative_path_works_from_its_own_folder_alone(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert RoIModel.from_pretrained("rpn").backbone.name == str(folder / "tiny")
    monkeypatch.chdir(folder / "rpn")
    assert RoIModel.from_pretrained(".").backbone.name == str(folder / "tiny")


def test_a_backbone_elsewhere_is_given_beside_the_rpn(folder):
    (folder / "tiny").rename(folder / "moved")
    with pytest.raises(CheckpointError) as error:
        RoIModel.from_pretrained(folder / "rpn")
    for part in (str(folder / "rpn"), "'tiny'", f"no folder in {folder}", "from_pretrained(BACKB"):
        assert part in str(error.value)
    model = RoIModel.from_pretrained(folder / "moved", rpn=folder / "rpn")
    assert model.backbone.name == str(folder / "moved")
    assert RoIModel.from_pretrained(model.backbone.model, rpn=folder / "rpn", processor=1)


def test_a_hub_id_and_its_revision_are_taken_from_the_configuration(original):
    config = edit_name(original / "rpn", name="org/model", revision="v2")
    assert backbone_source(config, original / "rpn") == ("org/model", "v2")


@pytest.mark.parametrize(
    "name",
    ["", "unnamed", "..", ".", "../copy/tiny", "/etc", "tiny/../tiny", "a/b/c", "~/tiny", "-x/y"],
)
def test_no_other_name_leads_anywhere(folder, name):
    config = edit_name(folder / "rpn", name=name)
    with pytest.raises(CheckpointError, match="was trained on the backbone"):
        backbone_source(config, folder / "rpn")


def test_the_name_of_a_folder_is_not_asked_for_on_the_hub(original):
    # Whoever registers it there would choose what is loaded.
    config, _ = read_rpn_config(original / "rpn")
    with pytest.raises(CheckpointError, match="a local folder of wherever it was trained"):
        backbone_source(config, "org/rpn")


@pytest.mark.parametrize("facts", [{"name": None}, {"name": ["tiny"]}, {"revision": 7}])
def test_a_configuration_without_a_name(original, facts):
    config = edit_name(original / "rpn", **facts)
    with pytest.raises(CheckpointError, match="does not name its backbone"):
        backbone_source(config, original / "rpn")


def test_loading_options_reach_the_backbone(original):
    model = RoIModel.from_pretrained(
        original / "rpn",
        dtype="bfloat16",
        device="cpu",
        attn_implementation="eager",
        local_files_only=True,
        policy="mask",
        policy_options={"threshold": 0.4},
    )
    assert model.backbone.model.dtype == torch.bfloat16
    assert next(model.rpn.parameters()).dtype == torch.bfloat16
    assert model.backbone.text_config._attn_implementation == "eager"
    assert (type(model.policy).__name__, model.policy.threshold) == ("MaskPolicy", 0.4)


def test_a_device_map_and_a_revision_reach_transformers(original, monkeypatch):
    import sdrpn_core.answering.roi_model as module

    seen = {}

    def load(source, **options):
        seen.update(options, source=source)
        return load_backbone(source, device="cpu")

    monkeypatch.setattr(module, "load_backbone", load)
    given = {"device_map": "auto", "quantization_config": object(), "local_files_only": True}
    RoIModel.from_pretrained(original / "tiny", rpn=original / "rpn", revision="v3", **given)
    assert seen == {**given, "source": original / "tiny", "revision": "v3"}


def test_options_for_the_hub_hold_for_every_file(original, monkeypatch):
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    calls = {}
    for part in (AutoConfig, AutoModelForImageTextToText, AutoProcessor):
        original_call = part.from_pretrained

        def call(*args, _of=part.__name__, _call=original_call, **options):
            calls[_of] = options.get("local_files_only"), options.get("token")
            return _call(*args, **options)

        monkeypatch.setattr(part, "from_pretrained", call)
    RoIModel.from_pretrained(original / "rpn", local_files_only=True, token="t")
    assert set(calls.values()) == {(True, "t")}
    assert len(calls) == 3


BAD = {
    "a model without an RPN": (("tiny",), {}, CheckpointError, "holds a model (llava), not an RPN"),
    "no such folder": (("none",), {}, CheckpointError, "no such RPN folder"),
    "another backbone's RPN": (
        ("tiny",),
        {"rpn": "rpn-of-other"},
        CheckpointError,
        "belongs to another backbone",
    ),
    "an RPN for a backbone": (("rpn",), {"rpn": "rpn"}, InputError, "cannot load the model"),
    "a model for an RPN": (("rpn",), {"rpn": "tiny"}, CheckpointError, "not an RPN"),
    "revision of no RPN": (("rpn",), {"rpn_revision": "v1"}, ConfigError, "but no rpn"),
    "policy": (("rpn",), {"policy": "bbx"}, UnknownNameError, "did you mean 'bbox'?"),
    "policy option": (("rpn",), {"policy_options": {"treshold": 1}}, ConfigError, "threshold"),
    "dtype": (("rpn",), {"dtype": "float31"}, ConfigError, "unknown dtype"),
}


@pytest.mark.parametrize(("args", "options", "kind", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line(original, args, options, kind, message):
    if "rpn" in options:
        options = {**options, "rpn": original / options["rpn"]}
    with pytest.raises(kind) as error:
        RoIModel.from_pretrained(original / args[0], **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_loaded_model_needs_an_rpn(model):
    with pytest.raises(ConfigError, match="needs an RPN"):
        RoIModel.from_pretrained(model.backbone.model)


def test_its_answers_are_those_of_the_functions(model, questions):
    expected = answer_batch(
        model.backbone, questions, RPNProposer(model.rpn, BboxPolicy(**POLICY)), max_new_tokens=5
    )
    assert any(one.boxes for one in expected)
    batch = model.answer_batch(questions, max_new_tokens=5)
    stream = [one for _, one in model.answer_stream(iter(questions), max_new_tokens=5)]
    for found in (batch, stream):
        assert [one.ids for one in found] == [one.ids for one in expected]
        assert [one.boxes for one in found] == [one.boxes for one in expected]
    one = model.answer(list(questions[1].images), questions[1].text, max_new_tokens=5)
    assert (one.ids, one.boxes) == (expected[1].ids, expected[1].boxes)


def test_it_proposes_what_it_crops(model, questions):
    answers = model.answer_batch(questions, max_new_tokens=1)
    proposals = model.propose_batch(questions)
    assert boxes(proposals) == boxes(one.proposals for one in answers)
    for row, one in zip(proposals, answers, strict=True):
        for found, expected in zip(row, one.proposals, strict=True):
            assert found.geometry == expected.geometry
            np.testing.assert_allclose(found.roi.scores, expected.roi.scores, atol=1e-4)
    (alone,) = model.propose(questions[0].images[0], questions[0].text)
    assert alone.boxes == proposals[0][0].boxes
    assert model.propose_batch([Question("what ?"), questions[0]])[0] == []


@pytest.mark.parametrize("rule", PRUNE_RULES)
def test_proposals_are_pruned_as_answers_are(model, questions, rule):
    options = {"prune_above": 16, "prune_threshold": 0.5, "prune_rule": rule}
    pruning = model.with_policy(policy_options=options)
    (proposal,) = pruning.propose_batch(questions[:1])[0]
    (expected,) = pruning.answer_batch(questions[:1], max_new_tokens=1)[0].proposals
    assert (proposal.plan.keep is None) == (rule == "cheaper")
    np.testing.assert_array_equal(proposal.plan.keep, expected.plan.keep)


def test_another_policy_is_another_model_around_the_same_weights(model, questions):
    strict = model.with_policy(policy_options={"threshold": 0.9999})
    assert strict.rpn is model.rpn
    assert strict.policy == BboxPolicy(**{**POLICY, "threshold": 0.9999})
    assert model.policy.threshold == 0.5
    (one,) = strict.answer_batch(questions[:1], max_new_tokens=1)
    assert one.outcome is Outcome.NO_ROI
    with pytest.raises(ConfigError, match="did you mean 'threshold'"):
        model.with_policy(policy_options={"treshold": 0.1})


@pytest.fixture(scope="module")
def gated(original):
    """The RPN with a gate, which has not learned anything."""
    backbone = load_backbone(original / "tiny")
    rpn = RPN.from_pretrained(original / "rpn", backbone=backbone)
    rpn.add_gate(backbone, GateConfig("linear", threshold=0.25))
    rpn.save_pretrained(original / "gated")
    return original / "gated"


def test_the_gates_threshold_is_that_of_the_model(gated, questions):
    def needed(model):
        answers = model.answer_batch(questions, max_new_tokens=1)
        return [one.outcome is not Outcome.NOT_NEEDED for one in answers], answers

    default = RoIModel.from_pretrained(gated)
    assert default.proposer.gate_threshold == 0.25
    closed = RoIModel.from_pretrained(gated, gate_threshold=1.0)
    assert needed(closed)[0] == [False] * len(questions)
    # Nothing is asked, and another policy asks nothing either.
    opened = RoIModel(closed.backbone, closed.rpn, closed.policy, gate_threshold=0.0)
    for model in (opened, opened.with_policy(policy_options={"threshold": 0.4})):
        found, answers = needed(model)
        assert found == [True] * len(questions)
        assert {proposal.gate for one in answers for proposal in one.proposals} == {None}


def test_what_is_shown_is_one_short_line(gated, questions):
    model = RoIModel.from_pretrained(gated, gate_threshold=0.0)
    assert repr(model) == (
        f"RoIModel({model.backbone.name!r}, head='qk', branch=3, gate='linear', policy=BboxPolicy, "
        "gate_threshold=0.0)"
    )
    (one,) = model.answer_batch(questions[:1], max_new_tokens=2)
    ((proposal,),) = model.propose_batch(questions[:1])
    shown = f"boxes={one.boxes}"
    assert one.boxes
    assert repr(one) == f"Answer({one.text!r}, outcome=ok, {shown})"
    assert repr(proposal) == f"Proposal(ok, {shown})"
    assert repr(proposal.roi) == f"RoIMap(8 x 8, logit, peak {proposal.roi.scores.max():.3g})"
    (sure,) = model.answer_batch(questions[:1], max_new_tokens=2, confidence_threshold=1e-9)
    assert repr(sure) == (
        f"Answer({sure.text!r}, outcome=not_needed, boxes=[], confidence={sure.confidence:.3g})"
    )
    reason = "Proposal(not_needed: the plain answer is sure enough, boxes=[])"
    assert repr(sure.proposals) == f"({reason},)"
    asked = RoIModel(model.backbone, model.rpn, model.policy, gate_threshold=1.0)
    ((closed,),) = (row.proposals for row in asked.answer_batch(questions[:1], max_new_tokens=1))
    assert repr(closed).endswith(f"boxes=[], gate={closed.gate:.3g})")
    (plain,) = answer_batch(model.backbone, questions[:1], max_new_tokens=1)
    assert repr(plain) == f"Answer({plain.text!r}, plain)"


def test_a_threshold_without_a_gate_is_refused(original, model, monkeypatch):
    def loads(*args, **options):
        raise AssertionError("the backbone was loaded")

    assert model.proposer.gate_threshold == 0
    monkeypatch.setattr("sdrpn_core.answering.roi_model.load_backbone", loads)
    for make in (
        lambda threshold: RoIModel.from_pretrained(original / "rpn", gate_threshold=threshold),
        lambda threshold: RoIModel(model.backbone, model.rpn, model.policy, None, threshold),
    ):
        with pytest.raises(ConfigError, match=r"gate threshold of 0\.5 is .* this RPN has no gate"):
            make(0.5)
        with pytest.raises(ConfigError, match="between 0 and 1, not '0'"):
            make("0")


def test_a_policy_itself_is_as_good_as_its_name(original, model, questions):
    policy = BboxPolicy(**{**POLICY, "threshold": 0.9999})
    assert model.with_policy(policy).policy is policy
    assert RoIModel.from_pretrained(original / "rpn", policy=policy).policy is policy
    with pytest.raises(ConfigError, match=r"\(margin\) along with a BboxPolicy") as error:
        model.with_policy(policy, {"margin": 1.0})
    assert "give its name instead" in str(error.value)


@pytest.mark.parametrize("policy", [3, "", ["bbox"]])
def test_what_is_neither_a_policy_nor_a_name(model, policy):
    with pytest.raises(UnknownNameError, match="unknown crop policy") as error:
        model.with_policy(policy)
    assert "known: bbox, mask" in str(error.value)


def test_an_answer_draws_its_own_overlay(model, questions):
    image = questions[0].images[0]
    found = model.answer(image, QUESTION, max_new_tokens=2)
    assert found.boxes
    (proposal,) = found.proposals
    geometry = model.backbone.preprocess(image).geometry
    expected = draw_overlay(image, proposal.roi, geometry, found.boxes, ["caption"])
    overlay = found.overlay(image, captions=["caption"])
    np.testing.assert_array_equal(np.asarray(overlay), np.asarray(expected))
    assert not np.array_equal(np.asarray(overlay), np.asarray(draw_overlay(image, None, None)))


def test_an_overlay_without_a_region_shows_the_map(model, questions):
    image = questions[0].images[0]
    found = model.with_policy(policy_options={"threshold": 0.9999}).answer(image, QUESTION)
    expected = draw_overlay(image, found.proposals[0].roi, found.proposals[0].geometry)
    np.testing.assert_array_equal(np.asarray(found.overlay(image)), np.asarray(expected))


def test_an_overlay_is_of_the_image_that_was_asked_about(model, questions, tmp_path):
    found = model.answer_batch(questions, max_new_tokens=1)[1]
    first, second = questions[1].images
    second.save(tmp_path / "second.png")
    assert found.overlay(first, index=0).size != found.overlay(second, index=1).size
    assert found.overlay(tmp_path / "second.png", index=1)
    with pytest.raises(InputError, match="an image of 60 x 200 pixels, not of one of"):
        found.overlay(second, index=0)
    for image in (first, second):
        with pytest.raises(InputError, match="has 2 images: say which by index, from 0"):
            found.overlay(image)
    with pytest.raises(InputError, match="no image 2: the question has 2"):
        found.overlay(second, index=2)
    with pytest.raises(ImageError, match="no such file"):
        found.overlay(tmp_path / "none.png", index=0)


def test_a_plain_answer_has_nothing_to_draw(model, questions):
    plain = answer(model.backbone, questions[0].images[0], QUESTION, max_new_tokens=1)
    with pytest.raises(InputError, match="no regions to draw"):
        plain.overlay(questions[0].images[0])


def test_an_outcome_prints_as_its_value():
    assert (str(Outcome.OK), f"{Outcome.NO_ROI}") == ("ok", "no_roi")
    assert json.dumps(Outcome.OK) == '"ok"'


# -- signatures ----------------------------------------------------------------------------------


def keywords(function):
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


@pytest.mark.parametrize("function", [answer_batch, answer_stream], ids=lambda f: f.__name__)
def test_methods_have_the_arguments_of_their_functions_and_hand_them_on(
    model, questions, monkeypatch, function
):
    method = getattr(model, function.__name__)
    assert keywords(method) == keywords(function)
    received = {}
    monkeypatch.setattr(roi_model, function.__name__, lambda *_, **given: received.update(given))
    given = {name: f"for {name}" for name in [*keywords(function), "top_k"]}
    method(questions, **given)
    assert received == given


def test_one_answer_has_those_of_a_batch_that_concern_one(model, questions, monkeypatch):
    assert keywords(model.answer).items() <= keywords(answer_batch).items()
    assert keywords(model.answer).keys() == keywords(answer_batch).keys() - {"max_padding"}
    received = {}

    def answering(*_, **given):
        received.update(given)
        return [None]

    monkeypatch.setattr(roi_model, "answer_batch", answering)
    given = {name: f"for {name}" for name in [*keywords(model.answer), "streamer"]}
    model.answer(questions[0].images[0], questions[0].text, **given)
    assert {name: received[name] for name in given} == given
