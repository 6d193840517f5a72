"""``ask`` and ``roi`` end to end on a tiny model, and what they say to bad input."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sdrpn_core import RPN, load_backbone, open_image
from sdrpn_core.answering.answer import answer
from sdrpn_core.cli.main import app
from sdrpn_core.gate.config import GateConfig
from tests.tiny import tiny_image, tiny_llava, write_tiny_llava
from tests.tiny_qwen2_5_vl import write_tiny_qwen2_5_vl

QUESTION = "which color is the circle ?"
MODEL = ("--model", "{f}/model")
POLICY = {"threshold": 0.5, "max_crops": 9, "max_area_fraction": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A backbone, its RPN, an RPN of another backbone, and images, as files."""
    root = tmp_path_factory.mktemp("ask")
    write_tiny_llava(root / "model", grid=8)
    for name, backbone in (("rpn", tiny_llava(grid=8)), ("other", tiny_llava(seed=1, grid=8))):
        rpn = RPN.from_backbone(backbone, branch=3, n_layers=2, policy_options=POLICY)
        rpn.save_pretrained(root / name)
        rpn.add_gate(backbone, GateConfig("linear"))
        rpn.save_pretrained(root / f"{name}-gated")
    tiny_image(1).save(root / "a.png")
    tiny_image(2, (60, 200)).save(root / "b.png")
    (root / "empty.png").write_bytes(b"")
    (root / "text.png").write_text("no image")
    (root / "cut.png").write_bytes((root / "a.png").read_bytes()[:-30])
    return root


def image_size(path):
    with Image.open(path, formats=["PNG"]) as image:
        return image.size


def run(folder, *words):
    return CliRunner().invoke(app, [str(word).format(f=folder) for word in words])


def ask(folder, *words, rpn="{f}/rpn"):
    given = ["--rpn", rpn] if rpn else []
    return run(folder, "ask", "{f}/a.png", QUESTION, *MODEL, "--max-new-tokens", 5, *given, *words)


def loaded(folder):
    backbone = load_backbone(folder / "model")
    return backbone, RPN.from_pretrained(folder / "rpn", backbone=backbone)


def test_ask_prints_the_answer_alone_on_stdout_and_what_led_to_it_on_stderr(folder):
    result = ask(folder)
    backbone, rpn = loaded(folder)
    expected = answer(backbone, folder / "a.png", QUESTION, rpn=rpn, max_new_tokens=5)
    assert result.exit_code == 0
    assert result.stdout == expected.text + "\n"
    assert expected.boxes, "the example must have crops to print"
    for box in expected.boxes:
        assert str(list(box)) in result.stderr
    assert f"visual tokens: {expected.n_visual_tokens}" in result.stderr
    assert "outcome:       ok" in result.stderr


def test_ask_without_an_rpn_gives_the_plain_answer_and_says_so(folder):
    result = ask(folder, rpn=None)
    backbone, _ = loaded(folder)
    plain = answer(backbone, folder / "a.png", QUESTION, max_new_tokens=5)
    assert result.stdout == plain.text + "\n"
    assert "plain answer, no region was proposed (no --rpn)" in result.stderr


def test_ask_json_about_several_images(folder, tmp_path):
    result = ask(folder, "-i", "{f}/b.png", "--json", "--save", tmp_path / "o.png")
    facts = json.loads(result.stdout)
    backbone, rpn = loaded(folder)
    paths = [folder / "a.png", folder / "b.png"]
    expected = answer(backbone, paths, QUESTION, rpn=rpn, max_new_tokens=5)
    assert facts["answer"] == expected.text
    assert len(facts["images"]) == 2
    boxes = [tuple(crop["box"]) for image in facts["images"] for crop in image["crops"]]
    assert boxes == expected.boxes
    assert facts["visual_tokens"] == expected.n_visual_tokens
    assert facts["overlays"] == [str(tmp_path / "o-1.png"), str(tmp_path / "o-2.png")]
    for path in facts["overlays"]:
        assert image_size(path) > (400, 400)


def test_stream_prints_the_same_answer(folder):
    assert ask(folder, "--stream").stdout.strip() == ask(folder).stdout.strip()


def test_threshold_and_policy_change_what_is_cropped(folder):
    none = json.loads(ask(folder, "--threshold", 0.9999, "--json").stdout)
    assert (none["outcome"], none["visual_tokens"]) == ("no_roi", 64)
    masked = ask(folder, "--policy", "mask", "--policy-option", "min_regions=1", "--json")
    assert len(json.loads(masked.stdout)["images"][0]["crops"]) == 1


def test_the_gates_threshold_decides_about_the_look(folder):
    def facts(threshold):
        words = ("--json", "--gate-threshold", threshold)
        return json.loads(ask(folder, *words, rpn="{f}/rpn-gated").stdout)

    closed, opened = facts(1), facts(0)
    assert closed["outcome"] == "not_needed"
    assert 0 < closed["images"][0]["gate"] < 1
    assert opened["outcome"] != "not_needed"
    assert "gate" not in opened["images"][0]


def test_a_sure_plain_answer_stays(folder):
    plain = ask(folder, rpn=None).stdout.strip()
    sure = json.loads(ask(folder, "--confidence-threshold", 1e-9, "--json").stdout)
    assert (sure["answer"], sure["outcome"]) == (plain, "not_needed")
    unsure = json.loads(ask(folder, "--confidence-threshold", 1, "--json").stdout)
    always = json.loads(ask(folder, "--json").stdout)
    assert always["confidence"] is None
    assert 0 < sure["confidence"] < 1
    # The surer one of the two.
    assert unsure["confidence"] >= sure["confidence"] - 1e-6
    surer = unsure["confidence"] > sure["confidence"] + 1e-6 or plain == always["answer"]
    assert unsure["answer"] == (always["answer"] if surer else plain)
    assert unsure["outcome"] == ("ok" if surer else "less_sure")
    assert unsure["visual_tokens"] == always["visual_tokens"]


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory):
    """A backbone of dynamic resolution, its RPN, and an image."""
    root = tmp_path_factory.mktemp("dynamic")
    write_tiny_qwen2_5_vl(root / "model")
    rpn = RPN.from_backbone(
        load_backbone(root / "model"), branch=3, n_layers=2, policy_options=POLICY
    )
    rpn.save_pretrained(root / "rpn")
    tiny_image(1, (300, 280)).save(root / "a.png")
    return root


def test_a_first_look_with_few_tokens_and_crops_with_few(dynamic):
    backbone, rpn = loaded(dynamic)
    options = ("--policy-option", "max_crop_tokens=6", "--first-look-tokens", 16)
    facts = json.loads(ask(dynamic, *options, "--json").stdout)
    policy = rpn.config.crop_policy(options={"max_crop_tokens": 6})
    expected = answer(
        backbone, dynamic / "a.png", QUESTION, rpn=rpn, policy=policy, first_look_tokens=16,
        max_new_tokens=5,
    )  # fmt: skip
    assert (facts["answer"], facts["visual_tokens"]) == (expected.text, expected.n_visual_tokens)
    assert facts["images"][0]["grid"] == [3, 4]
    plain = json.loads(ask(dynamic, *options[2:], "--json", rpn=None).stdout)
    assert plain["visual_tokens"] == 12
    words = ("roi", "{f}/a.png", QUESTION, *MODEL, "--rpn", "{f}/rpn", "--json", *options)
    (shown,) = json.loads(run(dynamic, *words).stdout)["images"]
    assert (shown["grid"], shown["crops"]) == ([3, 4], facts["images"][0]["crops"])


def test_a_fixed_resolution_has_neither(folder):
    for words, asked in (
        (("--first-look-tokens", 16), "first_look_tokens=16"),
        (("--policy-option", "max_crop_tokens=6"), "max_crop_tokens=6"),
    ):
        result = ask(folder, *words)
        assert result.exit_code == 1
        last = result.stderr.splitlines()[-1]
        assert "the family's resolution is fixed" in last
        assert last.endswith(f"{asked} cannot be set")


def test_roi_is_the_map_of_the_answer(folder, tmp_path):
    result = run(
        folder, "roi", "{f}/a.png", QUESTION, *MODEL, "--rpn", "{f}/rpn", "--json",
        "--npy", tmp_path / "m.npy", "--save", tmp_path / "h.png",
    )  # fmt: skip
    facts = json.loads(result.stdout)["images"][0]
    backbone, rpn = loaded(folder)
    expected = answer(backbone, folder / "a.png", QUESTION, rpn=rpn, max_new_tokens=1)
    (proposal,) = expected.proposals
    np.testing.assert_allclose(facts["scores"], proposal.roi.scores, atol=1e-4)
    np.testing.assert_array_equal(np.load(tmp_path / "m.npy"), np.float32(facts["scores"]))
    assert [tuple(crop["box"]) for crop in facts["crops"]] == expected.boxes
    assert facts["geometry"]["source_size"] == list(open_image(folder / "a.png").size)
    assert image_size(tmp_path / "h.png") > (400, 400)


def test_roi_draws_the_map_with_characters(folder):
    words = ("roi", "{f}/a.png", QUESTION, *MODEL, "-i", "{f}/b.png", "--rpn", "{f}/rpn")
    lines = run(folder, *words).stdout.splitlines()
    assert lines[0] == "image 1:"
    assert max(map(len, lines[1:9])) <= 16
    assert any("@@" in line for line in lines[1:9])


def test_an_rpn_that_names_its_backbone_needs_no_model(folder, tmp_path):
    (tmp_path / "model").symlink_to(folder / "model")
    named = tmp_path / "named"
    backbone = load_backbone(folder / "model")
    RPN.from_backbone(backbone, branch=3, n_layers=2, policy_options=POLICY).save_pretrained(named)
    for command, key in (("ask", "answer"), ("roi", "images")):
        words = (command, "{f}/a.png", QUESTION, "--json", "--rpn")
        alone, both = run(folder, *words, named), run(folder, *words, named, *MODEL)
        assert json.loads(alone.stdout)[key] == json.loads(both.stdout)[key]
        nowhere = run(folder, *words, "{f}/rpn")  # its backbone was never a folder
        assert nowhere.exit_code == 1
        assert "'tiny-llava-0'" in nowhere.stderr


ASK, ROI = ("ask", *MODEL), ("roi", *MODEL)
RPN_OPTION = ("--rpn", "{f}/rpn")
BAD = {
    "missing image": ((*ASK, "{f}/none.png", QUESTION), "none.png"),
    "zero bytes": ((*ASK, "{f}/empty.png", QUESTION), "zero bytes"),
    "not an image": ((*ROI, "{f}/text.png", QUESTION, *RPN_OPTION), "text.png"),
    "truncated": ((*ASK, "{f}/cut.png", QUESTION), "cut.png"),
    "second image": ((*ASK, "{f}/a.png", QUESTION, "-i", "{f}/empty.png"), "empty.png"),
    "empty question": ((*ASK, "{f}/a.png", "  "), "the question is empty"),
    "surrogates": ((*ASK, "{f}/a.png", "\udcd5\udce2"), "the question is not valid Unicode"),
    "roi, surrogates": ((*ROI, "{f}/a.png", "\ud800", *RPN_OPTION), "not valid Unicode"),
    "path of surrogates": ((*ASK, "\udcd5\udce2.png", QUESTION), "no such file"),
    "max pixels": ((*ASK, "{f}/a.png", QUESTION, "--max-pixels", "99"), "over the limit of 99"),
    "roi, max pixels": (
        (*ROI, "{f}/a.png", QUESTION, *RPN_OPTION, "--max-pixels", "99"),
        "over the limit of 99",
    ),
    "neither model nor rpn": (("ask", "{f}/a.png", QUESTION), "give --model, or --rpn"),
    "no model": (("ask", "-m", "{f}/nothing", "{f}/a.png", QUESTION), "cannot load the model"),
    "other backbone": (
        (*ASK, "{f}/a.png", QUESTION, "--rpn", "{f}/other"),
        "belongs to another backbone",
    ),
    "roi, other backbone": (
        (*ROI, "{f}/a.png", QUESTION, "--rpn", "{f}/other"),
        "belongs to another backbone",
    ),
    "no rpn folder": ((*ASK, "{f}/a.png", QUESTION, "--rpn", "{f}/nothing"), "no such RPN folder"),
    "policy": (
        (*ASK, "{f}/a.png", QUESTION, *RPN_OPTION, "--policy", "bbx"),
        "did you mean 'bbox'?",
    ),
    "policy option": (
        (*ASK, "{f}/a.png", QUESTION, *RPN_OPTION, "--policy-option", "treshold=0.1"),
        "did you mean 'threshold'?",
    ),
    "policy option form": (
        (*ROI, "{f}/a.png", QUESTION, *RPN_OPTION, "--policy-option", "threshold"),
        "write KEY=VALUE",
    ),
    "policy option twice": (
        (*ROI, "{f}/a.png", QUESTION, *RPN_OPTION, *2 * ("--policy-option", "threshold=0.1")),
        "given twice",
    ),
    "threshold": (
        (*ROI, "{f}/a.png", QUESTION, *RPN_OPTION, "--threshold", "-0.1"),
        "between 0 and 1",
    ),
    "policy without rpn": ((*ASK, "{f}/a.png", QUESTION, "--threshold", "0.2"), "give --rpn"),
    "stream and json": ((*ASK, "{f}/a.png", QUESTION, "--stream", "--json"), "cannot be combined"),
    "gate without rpn": ((*ASK, "{f}/a.png", QUESTION, "--gate-threshold", "0.1"), "give --rpn"),
    "no gate": (
        (*ASK, "{f}/a.png", QUESTION, *RPN_OPTION, "--gate-threshold", "0.1"),
        "this RPN has no gate",
    ),
    "gate": (
        (*ASK, "{f}/a.png", QUESTION, *RPN_OPTION, "--gate-threshold", "1.5"),
        "must lie between 0 and 1, not 1.5",
    ),
    "confidence without rpn": (
        (*ASK, "{f}/a.png", QUESTION, "--confidence-threshold", "0.9"),
        "give --rpn",
    ),
    "confidence and stream": (
        (*ASK, "{f}/a.png", QUESTION, *RPN_OPTION, "--confidence-threshold", "0.9", "--stream"),
        "cannot be combined",
    ),
    "confidence": (
        (*ASK, "{f}/a.png", QUESTION, *RPN_OPTION, "--confidence-threshold", "1.5"),
        "above 0, at most 1, not 1.5",
    ),
    "overlay format": (
        (*ASK, "{f}/a.png", QUESTION, "--save", "{f}/o.xyz"),
        "cannot write .xyz images",
    ),
    "overlay folder": (
        (*ROI, "{f}/a.png", QUESTION, *RPN_OPTION, "--save", "{f}/no/o.png"),
        "no such folder",
    ),
    "scores format": (
        (*ROI, "{f}/a.png", QUESTION, *RPN_OPTION, "--npy", "{f}/o.txt"),
        "saved as .npy",
    ),
    "dtype": ((*ASK, "{f}/a.png", QUESTION, "--dtype", "float31"), "unknown dtype 'float31'"),
    "context": (
        (*ASK, "{f}/a.png", QUESTION, "--max-new-tokens", 600),
        "exceeds the context of 512 tokens",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line(folder, words, message):
    result = run(folder, *words)
    assert result.exit_code == 1
    assert result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert "Traceback" not in result.stderr
