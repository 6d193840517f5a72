"""A benchmark run on a tiny model: the same whatever the batch size, kills and processes."""

from __future__ import annotations

import json
import types
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
from typer.testing import CliRunner

from sdrpn_bench import BenchModel, Method, Metric, run_benchmark
from sdrpn_bench.method_choice import DEFAULT_METHODS
from sdrpn_bench.suite import run_suite
from sdrpn_core import RPN, LabelRecipe, hookimpl
from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.proposer import Proposer
from sdrpn_core.backbone.preset import Preset
from sdrpn_core.backbone.question import Question
from sdrpn_core.cli.main import app
from sdrpn_core.data.read import read_records
from sdrpn_core.data.record import Record
from sdrpn_core.errors import ConfigError, InputError, SdrpnError, UnknownNameError
from sdrpn_core.runtime.clock import ANSWER_STAGES
from sdrpn_core.util.folder_lock import hold_folder
from tests.tiny import tiny_image, tiny_llava, write_tiny_llava

N = 7
BOX = (10, 10, 30, 30)
RECIPE = LabelRecipe(grounding={2: (0, 1)}).to_dict()
ANSWERS = {"max_new_tokens": 3, "batch_size": 4}


def odd_length(prediction: str, record: Record) -> bool:
    """A rule that a random model meets about every other time."""
    return len(prediction) % 2 == 1


def make_rpn(backbone, threshold=0.6):
    options = {"threshold": threshold, "max_crops": 9}
    return RPN.from_backbone(backbone, branch=3, n_layers=2, recipe=RECIPE, policy_options=options)


@pytest.fixture(scope="module")
def model():
    backbone = tiny_llava()
    return BenchModel(backbone, make_rpn(backbone))


@pytest.fixture(scope="module")
def records():
    return [
        Record(
            f"r{i}",
            tiny_image(i, (60 + 7 * i, 60)),
            "which color ?",
            answers=("red",),
            boxes=(BOX,),
        )
        for i in range(N)
    ]


@pytest.fixture(scope="module")
def whole(model, records, tmp_path_factory):
    """An uninterrupted run: its folder and results."""
    out = tmp_path_factory.mktemp("whole")
    return out, run_benchmark(model, None, records, out=out, metric=odd_length, **ANSWERS)


def rows(out):
    """Item results without what may differ from run to run."""
    found = [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]
    for row in found:
        for result in row.get("methods", {}).values():
            del result["seconds"], result["cost"]
            result.pop("stages", None)  # of those that failed there are none
    return found


def test_results_hold_all_methods(whole):
    out, results = whole
    assert results == json.loads((out / "results.json").read_text())
    assert (results["n"], results["seed"]) == (N, 0)
    assert list(results["methods"]) == list(DEFAULT_METHODS)
    assert results["models"]["tiny-llava-0"]["methods"] == results["methods"]
    for name, values in results["methods"].items():
        low, high = values["interval"]
        assert low <= values["accuracy"] <= high
        assert sum(values["outcomes"].values()) == values["n"] == N
        assert values["seconds_per_question"] > 0
        assert ("difference" in values) == ("time_ratio" in values) == (name != "baseline")


def test_numbers_follow_from_the_items(whole):
    out, results = whole
    found = rows(out)
    for name, values in results["methods"].items():
        correct = [row["methods"][name]["score"] for row in found]
        assert correct == [len(row["methods"][name]["text"]) % 2 == 1 for row in found]
        assert values["accuracy"] == sum(correct) / N
        tokens = [row["methods"][name]["visual_tokens"] for row in found]
        assert values["visual_tokens"] == pytest.approx(sum(tokens) / N)
    assert 0 < results["methods"]["oracle"]["correct"] < N, "a rule that says nothing"
    assert all(row["answers"] == ["red"] for row in found)
    assert found[0]["object_size"] == pytest.approx((20 * 20 / (60 * 60)) ** 0.5)


def test_the_time_of_an_answer_is_told_by_stage(whole):
    out, results = whole
    items = [json.loads(line)["methods"] for line in (out / "items.jsonl").read_text().splitlines()]
    for name, values in results["methods"].items():
        plain = name == "baseline"
        # The question is short: it runs along with the prefix.
        two_stage = {*ANSWER_STAGES} - {"prefill", "question"}
        assert values["stages"].keys() == ({"vision", "prefill", "decode"} if plain else two_stage)
        for stage, seconds in values["stages"].items():
            mean = sum(item[name]["stages"][stage] for item in items) / N
            assert seconds == pytest.approx(mean)
        # What no stage counts is little: choosing the method, and putting the answers together.
        assert 0.5 < sum(values["stages"].values()) / values["seconds_per_question"] <= 1
    report = (out / "report.md").read_text()
    (header,) = [line for line in report.splitlines() if line.startswith("| ms / question")]
    stages = [stage for stage in ANSWER_STAGES if stage != "question"]
    assert header.removesuffix(" |").split(" | ")[1:] == stages


def test_controls_crop_what_they_say(whole):
    out, results = whole
    methods = results["methods"]
    assert methods["baseline"]["visual_tokens"] == 16
    assert methods["oracle"]["visual_tokens"] == methods["random"]["visual_tokens"] == 32
    assert methods["oracle"]["pointing"]["crop"]["accuracy"] == 1
    assert methods["oracle"]["pointing"]["map"] is None
    assert methods["sdrpn"]["pointing"]["map"]["n"] == N
    assert methods["sdrpn"]["outcomes"].get("ok", 0) > 0
    places = set()
    for row in rows(out):
        (true,), (random,) = (row["methods"][name]["boxes"] for name in ("oracle", "random"))
        assert true == [0, 0, 40, 40]
        assert (random[2] - random[0], random[3] - random[1]) == (40, 40)
        places.add(tuple(random))
    assert len(places) > N // 2


def test_batch_size_changes_nothing_but_cost(whole, model, records, tmp_path):
    options = {**ANSWERS, "batch_size": 1}
    run_benchmark(model, None, records, out=tmp_path, metric=odd_length, **options)
    assert rows(tmp_path) == rows(whole[0])


def test_a_folder_that_another_run_uses_is_refused(model, records, tmp_path):
    with hold_folder(tmp_path), pytest.raises(SdrpnError, match="is in use by process"):
        run_benchmark(model, None, records, out=tmp_path, metric=odd_length, **ANSWERS)
    assert not (tmp_path / "items.jsonl").exists()


def test_a_killed_run_goes_on(whole, model, records, tmp_path):
    def kill(name, finished, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_benchmark(
            model, None, records, out=tmp_path, metric=odd_length, progress=kill, **ANSWERS
        )
    assert len(rows(tmp_path)) == ANSWERS["batch_size"]
    assert not (tmp_path / "results.json").exists()
    with (tmp_path / "items.jsonl").open("a") as file:
        file.write('{"model": "tiny-ll')
    seen = []
    results = run_benchmark(
        model, None, records, out=tmp_path, metric=odd_length,
        progress=lambda *place: seen.append(place), **ANSWERS,
    )  # fmt: skip
    assert seen == [("tiny-llava-0", 3, 3)]
    assert rows(tmp_path) == rows(whole[0])
    expected = whole[1]["methods"]["sdrpn"]
    for key in ("accuracy", "interval", "outcomes", "difference", "pointing"):
        assert results["methods"]["sdrpn"][key] == expected[key]


def test_a_folder_holds_one_run(model, records, tmp_path):
    two, out = records[:2], tmp_path
    run_benchmark(model, ["baseline"], two, out=out, max_new_tokens=1)
    with pytest.raises(ConfigError, match="max_new_tokens is 1 there and 2 here"):
        run_benchmark(model, ["baseline"], two, out=out, max_new_tokens=2)
    other = BenchModel(model.source, make_rpn(model.source, threshold=0.3))
    with pytest.raises(ConfigError, match=r"other weights of model 'tiny-llava-0'.*--overwrite"):
        run_benchmark(other, ["baseline"], two, out=out, max_new_tokens=1)
    results = run_benchmark(other, ["baseline"], two, out=out, max_new_tokens=2, overwrite=True)
    assert results["max_new_tokens"] == 2


def test_unreadable_items_are_counted_and_skipped(model, records, tmp_path):
    broken = [
        Record("empty", b"", "what ?", answers=("red",)),
        records[0],
        Record("gone", tmp_path / "gone.png", "what ?", answers=("red",)),
        replace(records[1], id="blank", question="  "),
        replace(records[1], id="unanswered", answers=()),
        Record("bare", None, "what ?", answers=("red",)),
    ]
    results = run_benchmark(model, ["baseline", "random"], broken, out=tmp_path / "o", **ANSWERS)
    skipped = results["models"]["tiny-llava-0"]["skipped"]
    reasons = {item["id"]: item["error"] for item in skipped["items"]}
    assert set(reasons) == {"empty", "gone", "blank", "unanswered", "bare"}
    assert skipped["n"] == 5
    assert results["methods"]["baseline"]["n"] == results["methods"]["random"]["n"] == 1
    report = (tmp_path / "o" / "report.md").read_text()
    assert "Skipped for all methods: 5 of 6." in report
    assert "zero bytes" in report


def test_nothing_readable_is_an_error(model, tmp_path):
    with pytest.raises(InputError, match=r"no item could be answered; .*zero bytes"):
        run_benchmark(model, ["baseline"], [Record("e", b"", "q", answers=("a",))], out=tmp_path)


def test_a_box_outside_the_image_is_never_scored(model, records, tmp_path):
    outside = replace(records[1], id="outside", boxes=((500, 500, 510, 510),))
    beyond = replace(records[2], boxes=((-20, 10, 30, 5000),))
    results = run_benchmark(model, ["oracle"], [records[0], outside, beyond], out=tmp_path)
    assert results["methods"]["oracle"]["n"] == 2
    (skipped,) = results["models"]["tiny-llava-0"]["skipped"]["items"]
    assert skipped["id"] == "outside"
    assert "box [500, 500, 510, 510] lies outside the image" in skipped["error"]
    width, height = beyond.images[0].size
    size = rows(tmp_path)[2]["object_size"]
    assert size == pytest.approx((30 * (height - 10) / (width * height)) ** 0.5)


def test_where_no_region_is_known_to_help_the_oracle_answers_plainly(model, records, tmp_path):
    """An empty list of boxes says so; ``None`` says that nothing is known."""
    some = [replace(one, boxes=()) if i in (0, 2) else one for i, one in enumerate(records)]
    results = run_benchmark(
        model, ["baseline", "oracle"], some, out=tmp_path, metric=odd_length, **ANSWERS
    )
    assert results["methods"]["oracle"]["outcomes"] == {"not_needed": 2, "ok": N - 2}
    assert results["methods"]["oracle"]["n"] == N
    for i in (0, 2):
        found = rows(tmp_path)[i]["methods"]
        assert found["oracle"]["text"] == found["baseline"]["text"]
        assert "boxes" not in found["oracle"] or not found["oracle"]["boxes"]


def test_methods_that_need_boxes_run_on_the_records_that_have_them(
    model, records, tmp_path, caplog
):
    # The first record has none: what one record has says nothing about the others.
    mixed = [replace(one, boxes=None) if i in (0, 2) else one for i, one in enumerate(records)]
    results = run_benchmark(
        model, ["baseline", "oracle"], mixed, out=tmp_path, metric=odd_length, **ANSWERS
    )
    assert f"method 'oracle' runs on the {N - 2} of {N} records that have boxes" in caplog.text
    methods = results["methods"]
    assert (methods["baseline"]["n"], methods["oracle"]["n"]) == (N, N - 2)
    assert f"`oracle` needs boxes: {N - 2} items have some" in (tmp_path / "report.md").read_text()
    both = [row["methods"] for row in rows(tmp_path) if "oracle" in row["methods"]]
    assert len(both) == N - 2
    gain = sum(one["oracle"]["score"] - one["baseline"]["score"] for one in both) / (N - 2)
    assert methods["oracle"]["difference"]["value"] == pytest.approx(gain)
    assert (
        run_benchmark(
            model, ["baseline", "oracle"], mixed, out=tmp_path, metric=odd_length, **ANSWERS
        )
        == results
    )
    bare = [replace(one, boxes=None) for one in records]
    with pytest.raises(ConfigError, match="'oracle' needs records with boxes"):
        run_benchmark(model, ["oracle"], bare, out=tmp_path / "bare")


def test_missing_answers_are_noticed_before_a_model_is_loaded(records, tmp_path, caplog):
    unanswered = [replace(one, answers=()) for one in records]
    with pytest.raises(InputError, match=r"none of 7 records can be scored: record 'r0' has no"):
        run_benchmark(tmp_path / "no model", ["baseline"], unanswered, out=tmp_path)
    with pytest.raises(SdrpnError, match="no model"):
        run_benchmark(tmp_path / "no model", None, [*unanswered[:2], records[2]], out=tmp_path)
    assert "2 of 3 records cannot be scored and are left out; the first: " in caplog.text


def test_several_images_are_all_shown(model, records, tmp_path):
    several = [
        Record("two", (tiny_image(1), tiny_image(2, (90, 40))), "same color ?", answers=("no",)),
        replace(records[0], id="which", images=(tiny_image(1), tiny_image(2))),
    ]
    results = run_benchmark(model, ["baseline", "random"], several, out=tmp_path, **ANSWERS)
    (row, skipped) = rows(tmp_path)
    assert "boxes and 2 images" in skipped["error"]
    assert results["methods"]["random"]["errors"] == 0
    backbone = model.source
    expected = answer_batch(
        backbone, [Question.about(several[0].images, "same color ?")], max_new_tokens=3
    )
    assert row["methods"]["baseline"]["text"] == expected[0].text
    assert row["methods"]["baseline"]["visual_tokens"] == expected[0].n_visual_tokens


@dataclass(frozen=True)
class Picky(Method):
    def proposer(self, context, records):
        if any(record.id == "refused" for record in records):
            raise InputError("not this one")


def test_an_item_one_method_fails_on_is_wrong_for_that_method_alone(
    third_party, model, records, tmp_path
):
    three = [records[0], replace(records[1], id="refused"), records[2]]
    results = run_benchmark(
        model, ["baseline", "picky"], three, out=tmp_path, metric=lambda p, r: True, **ANSWERS
    )
    assert results["methods"]["baseline"]["correct"] == 3
    picky = results["methods"]["picky"]
    assert (picky["correct"], picky["n"], picky["errors"]) == (2, 3, 1)
    assert picky["outcomes"] == {"plain": 2, "error": 1}
    (failed,) = [row for row in rows(tmp_path) if row["id"] == "refused"]
    assert "not this one" in failed["methods"]["picky"]["error"]
    assert "picky (tiny-llava-0) 1" in (tmp_path / "report.md").read_text()


class Nowhere(Proposer):
    def propose(self, state):
        raise ConfigError("the settings are wrong")


@dataclass(frozen=True)
class Misconfigured(Method):
    def proposer(self, context, records):
        return Nowhere()


@pytest.fixture
def third_party(fresh_plugins):
    @hookimpl
    def sdrpn_register_methods(registry):
        registry.add("misconfigured", Misconfigured)
        registry.add("picky", Picky)
        registry.add("mine", "tests.plugins.center_method:Center", help="crops the middle")

    module = types.ModuleType("theirs")
    module.SDRPN_API = 1
    module.sdrpn_register_methods = sdrpn_register_methods
    fresh_plugins.register(module, "theirs")


def test_a_third_party_adds_a_method_in_one_short_file(third_party, model, records, tmp_path):
    results = run_benchmark(
        model, ["baseline", "mine"], records[:3], out=tmp_path,
        method_options={"mine": {"side": 0.5}}, **ANSWERS,
    )  # fmt: skip
    assert results["method_options"]["mine"] == {"side": 0.5}
    assert results["methods"]["mine"]["outcomes"] == {"ok": 3}
    assert rows(tmp_path)[0]["methods"]["mine"]["boxes"] == [[15, 15, 45, 45]]


def test_wrong_settings_end_the_run_and_are_not_counted(third_party, model, records, tmp_path):
    with pytest.raises(ConfigError, match="the settings are wrong"):
        run_benchmark(model, ["misconfigured"], records, out=tmp_path, **ANSWERS)


def test_what_cannot_be_compared_is_refused_before_anything_runs(model, records, tmp_path):
    boxless = [replace(record, boxes=None) for record in records]
    bare = BenchModel(model.source)
    cases = [
        (model, ["sdrp"], records, {}, UnknownNameError, "did you mean 'sdrpn'"),
        (bare, ["sdrpn"], records, {}, ConfigError, "'sdrpn' needs an RPN.*PATH=RPN"),
        (model, ["oracle"], boxless, {}, ConfigError, "'oracle' needs records with boxes"),
        (model, ["random", "random"], records, {}, ConfigError, "named twice"),
        (model, [], records, {}, ConfigError, "no method is named"),
        (
            *(model, ["oracle"], records, {"oracle": {"margn": 1}}, ConfigError),
            "^method 'oracle' has no option 'margn'; did you mean 'margin'[?] options: .*margin",
        ),
        (
            *(model, ["baseline"], records, {"baseline": {"threshold": 1}}, ConfigError),
            "^method 'baseline' has no option 'threshold'; options: first_look_tokens$",
        ),
        (
            *(model, ["sdrpn"], records, {"sdrpn": {"threshold": "low"}}, ConfigError),
            "^method 'sdrpn': threshold must be a finite number, not 'low'",
        ),
        (model, ["oracle"], records, {"oracle": {"margin": -1}}, ConfigError, "0 or more"),
        (model, ["oracle"], records, {"sdrpn": {}}, ConfigError, "not compared"),
        ([], ["baseline"], records, {}, ConfigError, "at least one model"),
        ([bare, bare], ["baseline"], records, {}, ConfigError, "two models are called"),
    ]
    for models, methods, data, options, error, message in cases:
        with pytest.raises(error, match=message):
            run_benchmark(
                models, methods, data, out=tmp_path / "out", method_options=options, **ANSWERS
            )
    assert not list(tmp_path.glob("out/items*"))


def test_default_methods_are_those_that_apply(model, records, tmp_path):
    boxless = [replace(record, boxes=None) for record in records[:2]]
    bare = replace(model, rpn=None)
    results = run_benchmark(bare, None, boxless, out=tmp_path / "a", **ANSWERS)
    assert list(results["methods"]) == ["baseline", "random"]
    refused = results["models"]["tiny-llava-0"]["refused"]
    assert "no preset matches" in refused["attention"]  # which heads?
    results = run_benchmark(model, None, boxless, out=tmp_path / "b", **ANSWERS)
    assert list(results["methods"]) == ["baseline", "sdrpn", "attention", "random"]
    assert results["methods"]["sdrpn"]["pointing"] == {"map": None, "crop": None}
    assert "Map peak" not in (tmp_path / "b" / "report.md").read_text()


def test_several_models_side_by_side(model, records, tmp_path):
    other = tiny_llava(seed=1)
    entries = [replace(model, name="one"), BenchModel(other, make_rpn(other), name="two")]
    results = run_benchmark(
        entries, ["baseline", "sdrpn"], records[:3], out=tmp_path, metric=odd_length, **ANSWERS
    )
    assert list(results["models"]) == ["one", "two"]
    assert "methods" not in results
    report = (tmp_path / "report.md").read_text()
    assert "## one" in report
    assert "## two" in report
    texts = {row["model"]: row["methods"]["baseline"]["text"] for row in rows(tmp_path)}
    assert texts["one"] != texts["two"]


@pytest.mark.parametrize("methods", [None, ["baseline", "sdrpn", "cascade"]])
def test_a_model_without_an_rpn_leaves_out_what_needs_one(model, records, tmp_path, methods):
    entries = [replace(model, name="one"), replace(model, rpn=None, name="bare")]
    results = run_benchmark(entries, methods, records[:2], out=tmp_path, **ANSWERS)
    one, bare = (results["models"][name] for name in ("one", "bare"))
    assert "sdrpn" in one["methods"]
    assert one["refused"] == {}
    assert "sdrpn" not in bare["methods"]
    assert bare["refused"]["sdrpn"] == "it needs an RPN: name the model as PATH=RPN"
    assert ("cascade" in bare["refused"]) == (methods is not None)


def test_the_report_says_what_the_results_say(whole):
    out, results = whole
    report = (out / "report.md").read_text()
    lines = report.splitlines()
    for name, values in results["methods"].items():
        line = next(line for line in lines if line.startswith(f"| {name} |"))
        low, high = values["interval"]
        assert f"{values['accuracy']:.1%} ({low:.1%} to {high:.1%})" in line
        if name != "baseline":
            assert f"{100 * values['difference']['value']:+.1f} (" in line
            assert f"{values['time_ratio']:.2f} |" in line
    assert results["environment"]["torch"] in report
    for name in ("accuracy", "gain_and_cost", "accuracy_and_cost"):
        assert f"(figures/{name}.png)" in report
        assert (out / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@dataclass(frozen=True)
class Graded(Metric):
    """Scores between 0 and 1 that depend on the response, and a total beside their mean."""

    name: ClassVar[str] = "graded"

    least: float = 0.25

    def score(self, prediction, record):
        return self.least if odd_length(prediction, record) else 0.9999

    def counts(self, prediction, record):
        return {"odd": float(odd_length(prediction, record)), "all": 1.0}

    def aggregate(self, sums):
        return {"odd share": sums["odd"] / sums["all"]}


def test_graded_scores_from_the_item_to_the_report(model, records, tmp_path):
    kinds = [replace(record, category="ab"[i % 2]) for i, record in enumerate(records)]
    kinds[-1] = replace(kinds[-1], category=None)
    results = run_benchmark(
        model, ["baseline", "oracle"], kinds, out=tmp_path, metric=Graded(0.5), **ANSWERS
    )
    assert results["metric"] == {"name": "graded", "options": {"least": 0.5}}
    found = rows(tmp_path)
    scores = {m: [row["methods"][m]["score"] for row in found] for m in ("baseline", "oracle")}
    assert {*scores["baseline"], *scores["oracle"]} == {0.5, 0.9999}
    report = (tmp_path / "report.md").read_text()
    assert "Metric: `graded` (least = 0.5)" in report
    for name, values in results["methods"].items():
        mean = sum(scores[name]) / N
        assert values["accuracy"] == pytest.approx(mean)
        assert values["graded"]
        assert values["correct"] == 0
        low, high = values["interval"]
        assert low <= mean <= high < 1
        odd = scores[name].count(0.5)
        assert values["totals"]["odd share"]["value"] == pytest.approx(odd / N)
        categories = values["categories"]
        assert {c: v["n"] for c, v in categories.items()} == {"a": 3, "b": 3}
        own = [s for s, r in zip(scores[name], found, strict=True) if r["category"] == "b"]
        assert categories["b"]["accuracy"] == pytest.approx(sum(own) / 3)
    difference = results["methods"]["oracle"]["difference"]
    pairs = list(zip(scores["oracle"], scores["baseline"], strict=True))
    assert difference["value"] == pytest.approx(sum(a - b for a, b in pairs) / N)
    assert difference["wins"] == sum(a > b for a, b in pairs)
    assert difference["p_value"] is None
    assert results["methods"]["oracle"]["categories"]["a"]["difference"]["interval"]
    assert "| category | items | baseline | oracle |" in report
    assert "| method | odd share (95%) |" in report
    for name in ("accuracy", "gain_and_cost", "accuracy_and_cost"):
        assert (tmp_path / "figures" / f"{name}.png").is_file()
    with pytest.raises(ConfigError, match=r"metric\.options\.least is 0\.5 there and 0\.25 here"):
        run_benchmark(
            model, ["baseline", "oracle"], kinds, out=tmp_path, metric=Graded(), **ANSWERS
        )


def test_nearly_all_is_not_shown_as_all(model, records, tmp_path):
    results = run_benchmark(
        model, ["baseline"], records, out=tmp_path, metric=lambda p, r: 0.99999, **ANSWERS
    )
    assert results["methods"]["baseline"]["correct"] == 0
    assert "99.9% (99.9% to 99.9%)" in (tmp_path / "report.md").read_text()


def test_records_that_the_metric_cannot_score_are_skipped(model, records, tmp_path):
    mixed = [replace(records[0], answers=("yes",)), *records[1:3]]
    results = run_benchmark(model, ["baseline"], mixed, out=tmp_path, metric="yes_no", **ANSWERS)
    skipped = results["models"]["tiny-llava-0"]["skipped"]
    assert skipped["n"] == 2
    assert "is yes or no, not 'red'" in skipped["items"][0]["error"]
    assert results["methods"]["baseline"]["totals"]["f1"]["interval"] == [0, 1]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same model and data as files, for the command."""
    root = tmp_path_factory.mktemp("bench")
    write_tiny_llava(root / "model")
    make_rpn(tiny_llava()).save_pretrained(root / "rpn")
    lines = []
    for i in range(5):
        tiny_image(i).save(root / f"{i}.png")
        record = {"image": f"{i}.png", "question": "which color ?", "answer": "red"}
        lines.append(json.dumps({**record, "boxes": [list(BOX)]}))
    (root / "data.jsonl").write_text("\n".join(lines))
    return root


def words(files, out, *more):
    return [
        "bench", "--models", f"{files / 'model'}={files / 'rpn'}",
        "--data", f"{files / 'data.jsonl'}", "--out", str(out),
        "--max-new-tokens", "2", "--batch-size", "2", *more,
    ]  # fmt: skip


def test_command(files, tmp_path):
    result = CliRunner().invoke(app, words(files, tmp_path, "--n", "3"), env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    for name in DEFAULT_METHODS:
        assert f" {name} " in result.stdout
    assert str(tmp_path / "report.md") in result.stdout
    assert "exact_match, n = 3, seed" in " ".join(result.stdout.split())
    again = words(files, tmp_path, "--n", "3", "--json")
    results = json.loads(CliRunner().invoke(app, again).stdout)
    assert results == json.loads((tmp_path / "results.json").read_text())
    assert results["n"] == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "baseline,orcle"], "did you mean 'oracle'"),
        (["--method-option", "oracle.margin"], "write KEY=VALUE"),
        (["--method-option", "margin=1"], "write METHOD.KEY=VALUE"),
        (["--data", "glyphs/smal"], "glyphs/small"),
        (["--metric", "exact"], "exact_match"),
        (["--metric-option", "threshold=1"], "--metric NAME"),
        (["--metric", "anls", "--metric-option", "treshold=1"], "mean 'threshold'"),
        (["--models", "nowhere="], "write PATH or PATH=RPN"),
    ],
)
def test_command_refuses_in_one_line(files, tmp_path, more, message):
    result = CliRunner().invoke(app, words(files, tmp_path, *more))
    assert result.exit_code == 1
    assert message in result.stderr.splitlines()[-1]


@dataclass(frozen=True)
class ManyRegions:
    """A data set of generated records that registers like one of a benchmark."""

    records: tuple[Record, ...]

    def __call__(self, n, seed):
        return self.records


def test_published_thresholds_are_used_and_can_be_overridden(
    fresh_plugins, model, records, tmp_path
):
    @hookimpl
    def sdrpn_register_presets(registry):
        preset = Preset("tiny", {"text_config.num_hidden_layers": 6}, branch=3, n_layers=2)
        registry.add("tiny", preset, model_types=("llava",))

    @hookimpl
    def sdrpn_register_datasets(registry):
        published = {
            "tiny": {"threshold": 0.5, "scores": {"baseline": 12.5, "sdrpn": 34.5}},
            "other": {"threshold": 0.1},
        }
        for name in ("mine", "theirs"):
            registry.add(name, ManyRegions(tuple(records)), published=published, max_new_tokens=2)

    plugin = types.ModuleType("published_numbers")
    plugin.SDRPN_API = 1
    plugin.sdrpn_register_presets = sdrpn_register_presets
    plugin.sdrpn_register_datasets = sdrpn_register_datasets
    fresh_plugins.register(plugin, "published_numbers")
    assert model.source.find_preset().name == "tiny"

    def boxes(out, **options):
        results = run_benchmark(model, ["baseline", "sdrpn"], "mine", out=out, **options)
        return results, [row["methods"]["sdrpn"].get("boxes") for row in rows(out)]

    results, published = boxes(tmp_path / "published")
    chosen = {"method_options": {"sdrpn": {"threshold": 0.5}}}
    assert boxes(tmp_path / "same", **chosen)[1] == published
    chosen = {"method_options": {"sdrpn": {"threshold": 0.6}}}  # the RPN's own
    overridden, own = boxes(tmp_path / "own", **chosen)
    assert own != published
    facts = results["models"]["tiny-llava-0"]
    assert facts["published_options"] == {"sdrpn": {"threshold": 0.5}}
    assert overridden["models"]["tiny-llava-0"]["published_options"] == {}
    report = (tmp_path / "published" / "report.md").read_text()
    assert "`sdrpn` runs with threshold 0.5, as published for tiny on this dataset" in report
    assert results["max_new_tokens"] == 2

    sources = [read_records(name) for name in ("mine", "theirs")]
    run_suite(model, ["baseline", "sdrpn"], sources, out=tmp_path / "suite")
    table = (tmp_path / "suite" / "report.md").read_text()
    accuracy = 100 * results["methods"]["sdrpn"]["accuracy"]
    assert f"| tiny-llava-0 | sdrpn | {accuracy:.1f} | {accuracy:.1f} |" in table
    assert "|  | sdrpn, published | 34.5 | 34.5 |" in table
    assert "|  | baseline, published | 12.5 | 12.5 |" in table
    assert f"- [mine](mine/report.md): n = {N}\n" in table
    # A suite goes on where it stopped, and what it has is that of single runs.
    again = run_suite(model, ["baseline", "sdrpn"], sources, out=tmp_path / "suite")
    assert again == json.loads((tmp_path / "suite" / "results.json").read_text())
