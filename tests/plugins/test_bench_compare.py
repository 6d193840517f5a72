"""Two runs, or two models of one run, compared question by question."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import binomtest
from typer.testing import CliRunner

from sdrpn_bench import BenchModel, compare_runs, run_benchmark
from sdrpn_bench.compare import parse_method_pairs
from sdrpn_bench.item_store import ItemStore
from sdrpn_core import RPN, LabelRecipe
from sdrpn_core.cli.main import app, main
from sdrpn_core.data.record import Record
from sdrpn_core.errors import ConfigError, InputError, SdrpnError, UnknownNameError
from tests.plugins.odd_length import odd_length
from tests.tiny import tiny_image, tiny_llava

#: Newcombe (1998) 2635: both right, only the second, only the first, neither.
PUBLISHED = [(1, 1)] * 36 + [(0, 1)] * 12 + [(1, 0)] * 2
EXACT_MATCH = {"name": "exact_match", "options": {}}
ANLS = {"name": "anls", "options": {"threshold": 0.5}}


def write_run(
    folder, scores, *, model="llava", metric=EXACT_MATCH, cost=100.0, backward=0.0, **changes
):
    """A run's folder, as ``sdrpn bench`` leaves it.

    Args:
        folder: where.
        scores: by record id and method; ``None``: the item was skipped.
        model: its label.
        metric: what scored it.
        cost: token-layers of an answer.
        backward: those of its gradients.
        changes: of the configuration.
    """
    methods = dict.fromkeys(name for row in scores.values() for name in row or ())
    config = {
        "metric": metric,
        "models": {model: {"model": "m", "rpn": "rpn"}},
        "methods": {name: {} for name in methods},
        "seed": 0,
        "batch_size": 8,
        "max_new_tokens": 32,
        "max_pixels": 1000,
        "load_options": {},
        **changes,
    }
    rows = []
    for index, (key, results) in enumerate(scores.items()):
        row = {"model": model, "fingerprint": "f", "index": index, "id": key}
        if results is None:
            rows.append({**row, "error": "unreadable"})
            continue
        named = {
            name: {
                "score": score,
                "outcome": "plain",
                "seconds": 0.1,
                "cost": {"token_layers": cost, "backward_token_layers": backward},
            }
            for name, score in results.items()
        }
        asked = {"question": f"what is {key} ?", "answers": ["red"], "images": ["cafe"]}
        rows.append({**row, **asked, "methods": named})
    store = ItemStore(Path(folder))
    store.write_config(config)
    store.append(rows)
    return folder


def published(tmp_path, **second):
    a = {f"r{i}": {"sdrpn": pair[0]} for i, pair in enumerate(PUBLISHED)}
    b = {f"r{i}": {"sdrpn": pair[1]} for i, pair in reversed([*enumerate(PUBLISHED)])}
    write_run(tmp_path / "a", {**a, "only a": {"sdrpn": 1}, "skipped": {"sdrpn": 1}})
    write_run(tmp_path / "b", {**b, "only b": {"sdrpn": 0}, "skipped": None}, cost=150, **second)
    return tmp_path / "a", tmp_path / "b"


def test_questions_are_matched_by_record_id(tmp_path):
    found = compare_runs(*published(tmp_path))
    (one,) = found.comparisons
    assert (one.model, one.method) == (("llava", "llava"), ("sdrpn", "sdrpn"))
    assert (one.results.n, one.results.reference, one.results.accuracy) == (50, 0.76, 0.96)
    assert one.results.difference.value == pytest.approx(0.2)
    assert one.results.difference.interval == pytest.approx((0.0569, 0.3404), abs=5e-5)
    assert one.results.difference.p_value == pytest.approx(binomtest(12, 14).pvalue)
    assert one.results.token_layers_ratio == pytest.approx(1.5)


def test_a_method_is_compared_on_what_both_runs_answered_by_it(tmp_path):
    """One that needs boxes has no answer to some questions."""
    both, alone = {"sdrpn": 1, "oracle": 1}, {"sdrpn": 0}
    a = write_run(tmp_path / "a", {"r0": both, "r1": both, "r2": alone})
    b = write_run(tmp_path / "b", {"r0": both, "r1": alone, "r2": both})
    found = {one.method[0]: one.results.n for one in compare_runs(a, b).comparisons}
    assert found == {"sdrpn": 3, "oracle": 1}


def test_gradients_cost_as_much_as_forward_passes(tmp_path):
    scores = {"r": {"sdrpn": 1}}
    a = write_run(tmp_path / "a", scores, cost=100.0, backward=20.0)
    b = write_run(tmp_path / "b", scores, cost=100.0, backward=140.0)
    assert compare_runs(a, b).comparisons[0].results.token_layers_ratio == pytest.approx(2)


def test_graded_scores_are_paired_too(tmp_path):
    easy = {f"r{i}": {"sdrpn": 0.1 * (i % 8)} for i in range(40)}
    better = {key: {"sdrpn": row["sdrpn"] + 0.1} for key, row in easy.items()}
    a, b = write_run(tmp_path / "a", easy), write_run(tmp_path / "b", better)
    difference = compare_runs(a, b).comparisons[0].results.difference
    assert difference.interval == pytest.approx((0.1, 0.1))
    assert difference.p_value is None


def test_single_models_of_other_names_are_compared(tmp_path):
    (one,) = compare_runs(*published(tmp_path, model="qwen")).comparisons
    assert one.model == ("llava", "qwen")


def test_settings_that_differ_are_named(tmp_path):
    a, b = published(
        tmp_path,
        models={"llava": {"model": "m", "rpn": "other"}},
        methods={"sdrpn": {"threshold": 0.2}, "more": {}},
        max_new_tokens=8,
        batch_size=4,
    )
    assert compare_runs(a, b).settings == {
        "batch_size": (8, 4),
        "max_new_tokens": (32, 8),
        "models.llava.rpn": ("rpn", "other"),
        "methods.sdrpn.threshold": (None, 0.2),
    }
    assert compare_runs(a, a).settings == {}


def test_versions_that_differ_are_named(tmp_path):
    a, b = published(tmp_path)
    ours = {"torch": "2.14.0", "transformers": "5.20.0"}
    theirs = {"torch": "2.15.0", "transformers": "5.20.0", "accelerator": "H100"}
    (a / "results.json").write_text(json.dumps({"environment": ours}))
    assert compare_runs(a, b).settings == {}  # B is not finished, and does not say
    (b / "results.json").write_text(json.dumps({"environment": theirs}))
    assert compare_runs(a, b).settings == {
        "environment.torch": ("2.14.0", "2.15.0"),
        "environment.accelerator": (None, "H100"),
    }
    shown = CliRunner().invoke(app, ["compare", str(a), str(b)]).stdout
    assert 'environment.torch: "2.14.0" in A, "2.15.0" in B' in shown
    (b / "results.json").write_text('{"environment": 1}')
    with pytest.raises(ConfigError, match=r"results.json: environment must be an object"):
        compare_runs(a, b)


def test_methods_of_other_names(tmp_path):
    scores = {"r0": {"sdrpn": 1, "attention": 0}, "r1": {"sdrpn": 1, "attention": 1}}
    run = write_run(tmp_path / "a", scores)
    pairs = parse_method_pairs("sdrpn:attention, sdrpn")
    assert pairs == [("sdrpn", "attention"), ("sdrpn", "sdrpn")]
    across, same = compare_runs(run, run, pairs).comparisons
    assert (across.results.reference, across.results.accuracy) == (1, 0.5)
    assert same.results.difference.value == 0
    with pytest.raises(UnknownNameError, match=r"'atention' in .*did you mean 'attention'"):
        compare_runs(run, run, [("sdrpn", "atention")])
    with pytest.raises(ConfigError, match="METHOD_OF_A:METHOD_OF_B"):
        parse_method_pairs("sdrpn:")


def test_a_method_that_answered_fewer_is_compared_on_these(tmp_path):
    a = write_run(tmp_path / "a", {"r0": {"x": 1, "y": 1}, "r1": {"x": 0}})
    b = write_run(tmp_path / "b", {"r0": {"x": 0, "y": 0}, "r1": {"x": 1, "y": 1}})
    x, y = compare_runs(a, b).comparisons
    assert (x.results.n, y.results.n) == (2, 1)


ONE = {"r0": {"sdrpn": 1}}


@pytest.mark.parametrize(
    ("second", "error", "message"),
    [
        ({"scores": {"q0": {"sdrpn": 1}}}, InputError, "have no question in common"),
        ({"scores": {"r0": None}, "methods": {"sdrpn": {}}}, InputError, "no question in common"),
        ({"metric": ANLS}, ConfigError, r"metrics: exact_match in .*, anls \(threshold = 0.5\) in"),
        ({"scores": {"r0": {"mine": 1}}}, ConfigError, "no method is in both.*METHOD_OF_A"),
        ({"models": {"x": {}, "y": {}}}, ConfigError, "no model is in both.* has llava; .*x, y"),
        ({"models": None}, ConfigError, r"b/config.json: models must be an object"),
    ],
)
def test_what_cannot_be_compared_is_one_line(tmp_path, capsys, second, error, message):
    a = write_run(tmp_path / "a", ONE)
    b = write_run(tmp_path / "b", **{"scores": ONE, **second})
    with pytest.raises(error, match=message):
        compare_runs(a, b)
    with pytest.raises(SystemExit) as end:
        main(["compare", str(a), str(b)])
    assert end.value.code == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("key", "old", "new"),
    [
        ("question", "what is", "where is"),
        ("answers", '"red"', '"blue"'),
        ("images", '"cafe"', '"beef"'),
    ],
)
def test_rows_of_other_data_with_the_same_ids_are_refused(tmp_path, key, old, new):
    a, b = write_run(tmp_path / "a", ONE), write_run(tmp_path / "b", ONE)
    items = b / "items.jsonl"
    items.write_text(items.read_text().replace(old, new))
    with pytest.raises(InputError, match=rf"record 'r0' is not the same in .* \(other {key}\)"):
        compare_runs(a, b)


def test_a_run_that_does_not_tell_its_images_is_compared(tmp_path):
    a, b = write_run(tmp_path / "a", ONE), write_run(tmp_path / "b", ONE)
    items = b / "items.jsonl"
    items.write_text(items.read_text().replace('"images": ["cafe"], ', ""))
    assert "images" not in items.read_text()
    assert compare_runs(a, b).comparisons


def test_what_is_no_run_is_left_alone(tmp_path):
    a = write_run(tmp_path / "a", ONE)
    with pytest.raises(ConfigError, match=r"is not a benchmark run: it has no config\.json"):
        compare_runs(a, tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(ConfigError, match=r"run for each of several data sets: name one, .*a$"):
        compare_runs(a, tmp_path)
    (a / "items.jsonl").write_text("{}\n")
    with pytest.raises(SdrpnError, match="line 1 is not an item result"):
        compare_runs(a, a)


def test_without_costs_there_is_no_ratio(tmp_path):
    a = write_run(tmp_path / "a", ONE)
    b = write_run(tmp_path / "b", ONE, cost=None)
    (one,) = compare_runs(a, b).comparisons
    assert one.results.token_layers_ratio is None


def test_command(tmp_path):
    a, b = map(str, published(tmp_path, max_new_tokens=8))
    shown = CliRunner().invoke(app, ["compare", a, b], env={"COLUMNS": "80"})
    assert shown.exit_code == 0, shown.output
    words = " ".join(shown.stdout.split())
    assert f"A: {a} B: {b}" in words
    assert "sdrpn 50 76.0% 96.0% +20.0 [+5.7, +34.0] 1.50x" in words
    assert "max_new_tokens: 32 in A, 8 in B" in words
    printed = json.loads(CliRunner().invoke(app, ["compare", a, b, "--json"]).stdout)
    assert printed == compare_runs(a, b).to_dict()
    (one,) = printed["comparisons"]
    assert one["accuracy"] == {"a": 0.76, "b": 0.96}
    assert one["difference"]["wins"] == 12


RECIPE = LabelRecipe(grounding={2: (0, 1)}).to_dict()
ANSWERS = {"max_new_tokens": 3, "batch_size": 4, "metric": odd_length}


def rpn_of(backbone, threshold):
    options = {"threshold": threshold, "max_crops": 9}
    return RPN.from_backbone(backbone, branch=3, n_layers=2, recipe=RECIPE, policy_options=options)


def test_models_of_a_run_are_compared_with_the_first(tmp_path):
    """As two runs of one model each are, by ``sdrpn compare``."""
    backbone = tiny_llava()
    models = [
        BenchModel(backbone, rpn_of(backbone, threshold), name=name)
        for name, threshold in (("low", 0.3), ("mid", 0.5), ("high", 0.7))
    ]
    records = [
        Record(f"r{i}", tiny_image(i, (60 + 7 * i, 60)), "which color ?", answers=("red",))
        for i in range(6)
    ]
    records.append(replace(records[0], id="unreadable", images=(tmp_path / "gone.png",)))
    methods = ["baseline", "sdrpn"]
    results = run_benchmark(models, methods, records, out=tmp_path / "all", **ANSWERS)
    differences = results["model_differences"]
    assert differences["reference"] == "low"
    assert list(differences["models"]) == ["mid", "high"]
    report = (tmp_path / "all/report.md").read_text()
    assert "| method | mid minus low | high minus low |" in report
    for model in models:
        alone = run_benchmark(model, methods, records, out=tmp_path / model.name, **ANSWERS)
        assert "model_differences" not in alone
    for name, own in differences["models"].items():
        compared = compare_runs(tmp_path / "low", tmp_path / name)
        assert [one.method[0] for one in compared.comparisons] == methods
        for one in compared.comparisons:
            found = own[one.method[0]]
            assert found["n"] == 6
            assert found == json.loads(json.dumps(one.results.to_dict()))
            low, high = (100 * limit for limit in found["difference"]["interval"])
            points = f"{100 * found['difference']['value']:+.1f} ({low:+.1f} to {high:+.1f}) points"
            assert f"{points}, n = 6" in report
    plain = differences["models"]["high"]["baseline"]["difference"]
    assert (plain["value"], plain["wins"], plain["losses"]) == (0, 0, 0)
    assert differences["models"]["high"]["sdrpn"]["difference"]["wins"] > 0
