"""The registered data sets, on miniatures in the Hub's schema: prompts, answers, one table."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import datasets
import pytest
from typer.testing import CliRunner

from sdrpn_bench.paper_table import paper_table
from sdrpn_bench.scoring import find_metric
from sdrpn_core.cli.main import app
from sdrpn_core.data.images import open_image
from sdrpn_core.data.read import read_records
from sdrpn_core.data.record import validate_record
from sdrpn_core.errors import ConfigError, InputError
from sdrpn_core.plugins.manager import get_plugins
from sdrpn_datasets import CATALOG
from tests.hub_miniatures import MINIATURES, png, write_miniature
from tests.tiny import write_tiny_llava

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        yield folder


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """A local copy of every data set."""
    folder = tmp_path_factory.mktemp("hub")
    return {name: write_miniature(folder / name, name) for name in MINIATURES}


def test_every_data_set_has_a_miniature():
    assert MINIATURES.keys() == CATALOG.keys()
    for name in CATALOG:
        assert find_metric(None, name).name == CATALOG[name].metric


# What lmms-eval's own functions make of the same rows, and what its metrics compare with.
EXPECTED = {
    "textvqa": ("What is the brand of this camera?" + SHORT, "nous les gosses", (), None),
    "docvqa": ("What is the date?" + SHORT, "1/8/93", (), None),
    "infovqa": ("Which platform leads?" + SHORT, "pinterest", (), None),
    "chartqa": ("How many food items are shown?" + SHORT, "14", (), "human_test"),
    "ocrbench": ("what is written in the image?", "CENTRE", (), "Regular Text Recognition"),
    "vstar": (
        "What is the material of the glove?\nA. rubber\nB. cotton\nC. kevlar (grey)\nD. leather"
        + LETTER,
        "A",
        ("rubber", "cotton", "kevlar (grey)", "leather"),
        "direct_attributes",
    ),
    "hrbench4k": (
        "Which letter is on the sign?\nA. B\nB. A\nC. C\nD. D\nAnswer the option letter directly.",
        "A",
        ("B", "A", "C", "D"),
        "single",
    ),
    "pope": ("Is there a snowboard in the image?" + SHORT, "yes", (), "adversarial"),
}
EXPECTED["hrbench8k"] = EXPECTED["hrbench4k"]


@pytest.mark.parametrize("name", CATALOG)
def test_a_record_is_asked_as_the_paper_asked_it(copies, name):
    records = read_records(f"{name}={copies[name]}")
    assert (records.name, records.dataset) == (name, name)
    assert len(records) == len(next(iter(MINIATURES[name][0].rows.values())))
    for record, outline in zip(records, records.outlines(), strict=True):
        validate_record(record)
        find_metric(None, name).check(record)
        assert replace(record, images=(), extra={}) == replace(outline, extra={})
        assert len(record.images) == 1
    first = records[0]
    found = (first.question, first.answer, first.options, first.category)
    assert found == EXPECTED[name]
    assert open_image(first.images[0]).tobytes() == open_image(png(0)).tobytes()


def test_all_columns_of_a_row_are_kept(copies):
    records = read_records(f"textvqa={copies['textvqa']}")
    assert records[0].id == "34602"
    assert records[0].answers == ("nous les gosses", *["dakota"] * 9)
    assert records[0].extra["ocr_tokens"] == ["DAKOTA"]
    assert records[1].question == "What does the sign say?" + SHORT
    assert read_records(f"hrbench4k={copies['hrbench4k']}")[1].options == ("7", "8", "9")
    pope = read_records(f"pope={copies['pope']}")
    assert len({record.id for record in pope}) == 3


def test_the_split_and_the_configuration_are_the_published_ones(tmp_path):
    def mark(split, rows):
        rows["question"][0] = f"which split? {split}"

    folder = write_miniature(tmp_path / "textvqa", "textvqa", mark)
    assert read_records(f"textvqa={folder}")[0].question.startswith("Which split? validation")
    other = read_records(f"hf:{folder}:train", columns={"id": "question_id"})
    assert other[0].question == "which split? train"


def test_a_single_file_is_a_copy_too(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png(3))
    row = {"image": "images/a.png", "text": "Left? (A) yes (B) no", "label": "A", "category": "x"}
    path = tmp_path / "test_questions.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (record,) = read_records(f"vstar={path}")
    assert record.question == "Left?\nA. yes\nB. no" + LETTER
    assert record.images == (tmp_path / "images" / "a.png",)


def test_an_unreachable_hub_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    arguments = ["bench", "-m", "none", "--data", "textvqa", "--out", str(tmp_path / "out")]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 1
    (line,) = found.stderr.strip().splitlines()
    assert line.startswith("error: hf:lmms-lab/textvqa:validation: the Hub cannot be reached")
    assert "hf download lmms-lab/textvqa --repo-type dataset --local-dir DIR" in line


def test_wrong_copies_are_named(copies, tmp_path):
    with pytest.raises(InputError, match=r"there is no split 'validation' \(splits: test\)"):
        read_records(f"textvqa={copies['chartqa']}")
    with pytest.raises(InputError, match="cannot be loaded"):
        read_records(f"textvqa={tmp_path / 'nowhere'}")
    with pytest.raises(InputError, match="there is no copy of it"):
        read_records(f"glyphs/small={tmp_path}")
    with pytest.raises(ConfigError, match="no use for the option 'split'"):
        read_records(f"textvqa={copies['textvqa']}", split="train")


def test_published_numbers_are_there_for_every_preset_that_has_some():
    presets = {entry.name for entry in get_plugins().presets.entries()}
    for name, dataset in CATALOG.items():
        published = dataset.metadata(name)["published"]
        assert published.keys() <= presets
        assert len(published) == 6
    values = CATALOG["vstar"].metadata("vstar")["published"]
    assert values["qwen2.5-vl-3b"]["threshold"] == 0.175
    assert values["llava-1.5-7b"] == {
        "threshold": 0.1,
        "scores": {"baseline": 50.3, "sdrpn": 67.5},
    }
    assert (
        CATALOG["ocrbench"].metadata("ocrbench")["published"]["qwen2.5-vl-3b"]["threshold"] == 0.03
    )


def test_the_paper_s_table():
    def results(total, preset, **methods):
        return {
            "metric": {"name": "yes_no"},
            "total": total,
            "published": {"known": {"scores": {"baseline": 50.0}}},
            "models": {"m": {"preset": preset, "methods": methods}},
        }

    f1 = {"value": 0.75, "interval": [0.7, 0.8]}
    baseline = {"accuracy": 0.25, "interval": [0.2, 0.3], "totals": {"f1": f1}}
    oracle = {"accuracy": 0.5, "interval": [0.45, 0.55], "totals": {}}
    table = paper_table(
        {
            "a": results("f1", "known", baseline=baseline),
            "b": results(None, "unknown", baseline=baseline, oracle=oracle),
        }
    )
    assert table == [
        "| model | method | a (f1) | b (yes_no) |",
        "| --- | --- | --- | --- |",
        "| m | baseline | 75.0 | 25.0 |",
        "|  | baseline, published | 50.0 | – |",
        "| m | oracle | – | 50.0 |",
    ]


def test_all_of_them_in_one_run(copies, tmp_path):
    write_tiny_llava(tmp_path / "model")
    data = ",".join(f"{name}={copies[name]}" for name in CATALOG)
    arguments = ["bench", "-m", str(tmp_path / "model"), "--data", data, "--methods", "baseline"]
    out = tmp_path / "out"
    arguments += ["--out", str(out), "--max-new-tokens", "2", "--json"]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, found.output
    results = json.loads(found.stdout)["datasets"]
    assert list(results) == list(CATALOG)
    for name, one in results.items():
        (model,) = one["models"].values()
        assert model["skipped"] == {"n": 0, "items": []}, name
        assert one["metric"]["name"] == CATALOG[name].metric
        assert (out / name / "report.md").is_file()
    report = (out / "report.md").read_text()
    assert "| textvqa (vqa_accuracy) | docvqa (anls) |" in report
    assert "| pope (f1) |" in report
    assert json.loads((out / "results.json").read_text())["datasets"] == results


def test_two_of_them_in_a_terminal(copies, tmp_path):
    write_tiny_llava(tmp_path / "model")
    data = ",".join(f"{name}={copies[name]}" for name in ("textvqa", "pope"))
    arguments = ["bench", "-m", str(tmp_path / "model"), "--data", data, "--methods", "baseline"]
    arguments += ["--out", str(tmp_path / "out"), "--max-new-tokens", "2"]
    found = CliRunner().invoke(app, arguments, env={"COLUMNS": "80"})
    assert found.exit_code == 0, found.output
    assert "| --- |" not in found.stdout
    table = found.stdout[found.stdout.index("percent [95%], by dataset") :].splitlines()
    assert table[1].split() == ["method", "textvqa", "(vqa_accuracy)", "pope", "(f1)"]
    assert re.fullmatch(r" baseline +[\d.]+ \[[\d.]+, [\d.]+\] +[\d.]+ \[.*\] *", table[4])
