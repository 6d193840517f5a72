"""Push and pull over HTTP, by the official client, from a stand-in for the Hub on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from sdrpn_core.rpn.backbone_source import is_hub_id
from sdrpn_core.training.stage import _public_names
from tests.hub_stand_in import TOKEN, hub_stand_in
from tests.tiny import tiny_image, write_tiny_llava

ROOT = Path(__file__).resolve().parents[3]
BACKBONE, RPN_ID = "org/tiny-llava", "me/tiny-rpn"
QUESTION = "which color is the circle ?"

#: What a user does: train (here: make) an RPN on a backbone of the Hub, push it, and use it by id.
SCRIPT = """
import json, sys
from sdrpn_core import RPN, CardFacts, CardMetric, RoIModel, SdrpnError, load_backbone

BACKBONE, RPN_ID, IMAGE, QUESTION = sys.argv[1:]
report = {}

backbone = load_backbone(BACKBONE)
options = {"threshold": 0.5, "max_crops": 9, "max_area_fraction": 1.0}
rpn = RPN.from_backbone(backbone, branch=3, n_layers=2, policy_options=options)
card = CardFacts(
    license="apache-2.0",
    datasets=("me/questions",),
    metrics=(CardMetric("me/test", "accuracy", 0.97, (0.94, 0.99), 300, baseline=0.11),),
)
report["url"] = rpn.push_to_hub(RPN_ID, card=card, private=True, commit_message="first")
report["again"] = rpn.push_to_hub(RPN_ID)

model = RoIModel.from_pretrained(RPN_ID)
report["backbone"] = model.backbone.name
answer = model.answer(IMAGE, QUESTION, max_new_tokens=4)
report["text"], report["boxes"] = answer.text, answer.boxes
first = report["url"].rpartition("/")[2]
pinned = RoIModel.from_pretrained(BACKBONE, rpn=RPN_ID, rpn_revision=first)
report["same"] = pinned.answer(IMAGE, QUESTION, max_new_tokens=4).ids == answer.ids
offline = RoIModel.from_pretrained(RPN_ID, local_files_only=True)
report["offline"] = offline.answer(IMAGE, QUESTION, max_new_tokens=4).ids == answer.ids

for name, call in {
    "no such rpn": lambda: RoIModel.from_pretrained("me/nothing"),
    "no such revision": lambda: RoIModel.from_pretrained(RPN_ID, revision="v9"),
    "a backbone": lambda: RoIModel.from_pretrained(BACKBONE),
    "not downloaded": lambda: RoIModel.from_pretrained("me/other", local_files_only=True),
    "bad id": lambda: rpn.push_to_hub("no owner"),
    "bad token": lambda: rpn.push_to_hub(RPN_ID + "-2", token="hf_wrong"),
}.items():
    try:
        call()
    except SdrpnError as error:
        report[name] = str(error)
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """The report of the script, the stand-in that it talked to."""
    root = tmp_path_factory.mktemp("hub")
    folder = write_tiny_llava(root / "tiny", grid=8)
    tiny_image(1).save(root / "image.png")
    with hub_stand_in() as hub:
        hub.commit(BACKBONE, {path.name: path.read_bytes() for path in folder.iterdir()})
        environment = {**os.environ, **hub.environment(root / "home"), "PYTHONPATH": str(ROOT)}
        environment.pop("HF_HUB_OFFLINE", None)
        arguments = (BACKBONE, RPN_ID, str(root / "image.png"), QUESTION)
        result = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(SCRIPT), *arguments],
            capture_output=True,
            text=True,
            env=environment,
            cwd=root,
            timeout=300,
        )
        assert result.returncode == 0, result.stderr
        yield json.loads(result.stdout), hub


def test_a_push_is_a_commit_of_the_three_files(session):
    report, hub = session
    (_, empty), (first, pushed), (second, _) = hub.commits[RPN_ID]
    assert empty == {}
    assert sorted(pushed) == ["README.md", "config.json", "model.safetensors"]
    assert report["url"] == f"{hub.url}/{RPN_ID}/commit/{first}"
    assert report["again"].endswith(second)
    assert RPN_ID in hub.private
    assert f"PUT /lfs/{next(iter(hub.blobs))}" in hub.requests


def test_the_card_on_the_hub_names_what_it_must(session):
    _, hub = session
    card = ModelCard(hub.commits[RPN_ID][1][1]["README.md"].decode())
    data = card.data
    assert (data.license, data.base_model, data.library_name) == ("apache-2.0", BACKBONE, "sdrpn")
    assert data.base_model_relation == "adapter"
    assert data.datasets == ["me/questions"]
    assert "arxiv:2509.16944" in data.tags
    (result,) = data.eval_results
    assert (result.dataset_type, result.metric_type, result.metric_value) == (
        "me/test",
        "accuracy",
        0.97,
    )
    assert result.metric_args == {"confidence": 0.95, "interval": [0.94, 0.99], "n": 300}
    assert "| me/test | accuracy | 0.110 | 0.970 [0.940, 0.990] | 300 |" in card.text
    assert f'RoIModel.from_pretrained("{RPN_ID}")' in card.text


def test_the_id_of_an_rpn_is_all_that_it_takes(session):
    report, _ = session
    assert report["backbone"] == BACKBONE
    assert report["boxes"]
    assert report["same"]


def test_what_was_downloaded_works_without_the_hub(session):
    report, _ = session
    assert report["offline"]


def test_other_models_weights_are_not_downloaded_to_be_refused(session):
    report, hub = session
    assert "holds a model (llava), not an RPN" in report["a backbone"]
    before = hub.requests[: hub.requests.index("POST /api/repos/create")]
    weights = f"GET /{BACKBONE}/resolve/{hub.commits[BACKBONE][0][0]}/model.safetensors"
    assert hub.requests.count(weights) == before.count(weights) <= 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no such rpn", "me/nothing: neither a local RPN folder nor reachable on the Hub"),
        ("no such revision", "neither a local RPN folder nor reachable on the Hub"),
        ("not downloaded", "me/other: neither a local RPN folder nor reachable on the Hub"),
        ("bad id", "'no owner' is no id on the Hub: write owner/name"),
        ("bad token", f"cannot push to {RPN_ID}-2: "),
    ],
)
def test_what_goes_wrong_is_one_line(session, name, message):
    report, _ = session
    assert report[name].startswith(message) or message in report[name]
    assert TOKEN not in report[name]


@pytest.mark.parametrize("name", ["org/model", "a-b/c.d_e"])
def test_ids_of_the_hub(name):
    assert is_hub_id(name)


@pytest.mark.parametrize("name", ["model", "/a/b", "a/b/c", "../b", "-a/b", "a/..", "", "a b/c"])
def test_no_ids_of_the_hub(name):
    assert not is_hub_id(name)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("glyphs/train", ("glyphs/train",)),
        ("hf:org/questions:train", ("org/questions",)),
        ("hf:org/questions:text:train", ("org/questions",)),
        ("hf:/secret/questions:train", ()),
        ("/secret/data.jsonl", ()),
        ("records", ()),
    ],
)
def test_a_card_names_public_data_sets_and_no_path(source, names):
    assert _public_names([source]) == names


def test_a_card_names_each_of_several_data_sets_once():
    sources = ["hf:org/questions:train", "/secret/data.jsonl", "glyphs/train", "glyphs/train"]
    assert _public_names(sources) == ("org/questions", "glyphs/train")
