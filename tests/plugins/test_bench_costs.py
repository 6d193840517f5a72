"""What methods run is counted, and accuracy is set against it: fronts, areas, equal accuracy."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from sdrpn_bench import BenchModel, Method, run_benchmark
from sdrpn_bench.cost import CostMeter
from sdrpn_bench.curve import Point, area, cost_at, curves, pareto_front
from sdrpn_bench.measure import _turns
from sdrpn_bench.method import MethodContext
from sdrpn_bench.methods import Baseline, RawAttention, TrainedRPN
from sdrpn_bench.sweep import Sweep, answer_alike, parse_sweep
from sdrpn_bench.whole_image import FullImage, MostTokens, Tiles, tile_grid
from sdrpn_core import RPN, LabelRecipe, Question, Record, answer_batch
from sdrpn_core.cli.main import app
from sdrpn_core.errors import ConfigError, InputError
from sdrpn_core.util.memory import peak_memory, reset_peak_memory
from tests.tiny import tiny_image, tiny_llava
from tests.tiny_qwen2_5_vl import CELL, tiny_qwen2_5_vl, write_tiny_qwen2_5_vl
from tests.tiny_smolvlm import tiny_smolvlm

RECIPE = LabelRecipe(grounding={2: (0, 1)}, foreground=0.3)
SIZE = (400, 300)
N = 3


def records(n=N):
    return [
        Record(
            f"r{i}", tiny_image(i, SIZE), "what color ?", answers="red", boxes=((20, 20, 90, 90),)
        )
        for i in range(n)
    ]


def images(asked):
    return [record.images for record in asked]


def make_rpn(backbone, **policy):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return RPN.from_backbone(
            backbone,
            branch=3,
            n_layers=2,
            recipe=RECIPE.to_dict(),
            policy="bbox",
            policy_options={"threshold": 0.6, "relative": True, "max_area_fraction": 1.0,
                            "max_crops": 9, **policy},
        )  # fmt: skip


@pytest.fixture(scope="module")
def qwen():
    return tiny_qwen2_5_vl(max_pixels=20 * CELL**2)


@pytest.fixture(scope="module")
def context(qwen):
    return MethodContext(qwen, make_rpn(qwen), max_new_tokens=3)


def test_a_plain_answer_costs_what_its_tokens_say(context):
    asked = records(1)
    with CostMeter(context, asked) as meter:
        (answer,) = Baseline().answer(context, asked, images(asked))
    backbone = context.backbone
    (prompt,) = backbone.encode([Question(asked[0].question, asked[0].images)])
    fed_back = max(0, len(answer.ids) - (len(answer.ids) == 3))  # the last one is not
    assert meter.share.token_layers == (len(prompt) + fed_back) * backbone.n_layers
    assert (meter.share.passes, meter.share.backward_token_layers) == (1, 0)
    assert meter.share.seconds > 0


def test_memory_is_counted_anew():
    cpu = torch.device("cpu")
    if not reset_peak_memory(cpu):
        pytest.skip("the system counts no peak anew")
    torch.ones(2**25).sum()  # 128 MiB
    with_tensor = peak_memory(cpu)
    assert reset_peak_memory(cpu)
    assert with_tensor - peak_memory(cpu) > 2**26


def test_full_has_as_many_tokens_as_the_other_answer(context, qwen):
    asked = records()
    two_stage = TrainedRPN().answer(context, asked, images(asked))
    n_two_stage = [answer.n_visual_tokens for answer in two_stage]
    assert max(n_two_stage) > 20, "no crop"
    own = MethodContext(qwen, context.rpn, max_new_tokens=3, earlier=two_stage)
    full = FullImage().answer(own, asked, images(asked))
    for answer, record, other in zip(full, asked, two_stage, strict=True):
        limited = tiny_qwen2_5_vl(max_pixels=other.n_visual_tokens * CELL**2)
        question = Question(record.question, record.images)
        (expected,) = answer_batch(limited, [question], max_new_tokens=3)
        assert (answer.ids, answer.n_visual_tokens) == (expected.ids, expected.n_visual_tokens)
        assert answer.n_visual_tokens <= other.n_visual_tokens
    assert max(answer.n_visual_tokens for answer in full) > 20
    missing = MethodContext(qwen, context.rpn, earlier=[InputError("no")])
    with pytest.raises(InputError, match="has no answer of 'sdrpn' to equal"):
        FullImage().answer(missing, asked[:1], images(asked[:1]))


def test_the_most_tokens_are_those_of_the_images_pixels(context):
    (answer,) = MostTokens().answer(context, records(1), images(records(1)))
    assert answer.n_visual_tokens == round(SIZE[0] / CELL) * round(SIZE[1] / CELL)
    (limited,) = MostTokens(visual_tokens=40).answer(context, records(1), images(records(1)))
    assert 20 < limited.n_visual_tokens <= 40
    short = tiny_qwen2_5_vl(max_position_embeddings=100)
    own = MethodContext(short, max_new_tokens=3)
    (fitting,) = MostTokens().answer(own, records(1), images(records(1)))
    assert 50 < fitting.n_visual_tokens < 97
    reason = "the family's resolution is fixed"
    assert MostTokens().unserved(MethodContext(tiny_llava())).startswith(reason)


@pytest.mark.parametrize(
    ("size", "side", "grid"),
    [
        ((1000, 1000), 400, (3, 3)),
        ((800, 400), 400, (1, 2)),
        ((4000, 500), 400, (1, 8)),
        ((300, 350), 400, (1, 1)),
    ],
)
def test_tiles_are_no_smaller_than_the_models_input(size, side, grid):
    assert tile_grid(size, side, 9) == grid


def test_tiles_are_for_families_that_were_trained_on_them():
    smol = tiny_smolvlm()
    context = MethodContext(smol, max_new_tokens=2)
    assert Tiles().unserved(context) is None
    (answer,) = Tiles(max_tiles=4).answer(context, records(1), images(records(1)))
    boxes = answer.boxes
    assert 2 <= len(boxes) <= 4
    assert sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes) == SIZE[0] * SIZE[1]
    reason = Tiles().unserved(MethodContext(tiny_llava()))
    assert reason == "the family was not trained to read tiles of an image in addition to the whole"


VARIANTS = (0.3, 0.6, 0.9)


@pytest.mark.parametrize("kind", [TrainedRPN, RawAttention])
def test_a_sweep_gives_what_each_value_gives_alone(context, kind):
    asked = records()
    methods = [kind(threshold=value) for value in VARIANTS]
    together = answer_alike(context, methods, asked, images(asked))
    boxes = set()
    for method, (answers, cost) in zip(methods, together, strict=True):
        ((alone, own),) = answer_alike(context, [method], asked, images(asked))
        assert [one.ids for one in answers] == [one.ids for one in alone]
        assert [one.boxes for one in answers] == [one.boxes for one in alone]
        boxes.add(tuple(box for one in answers for box in one.boxes))
        # A question that runs apart from its prefix costs less than one that runs with it.
        assert cost.token_layers == pytest.approx(own.token_layers, rel=0.15)
        assert {"vision", "prefix", "proposal"} <= set(answers[0].seconds)
    assert len(boxes) > 1, "the threshold changes nothing"


def test_a_sweep_runs_its_first_pass_once(context):
    asked = records()
    methods = [TrainedRPN(threshold=value) for value in VARIANTS]
    with CostMeter(context, asked) as meter:
        together = answer_alike(context, methods, asked, images(asked))
    charged = sum(cost.token_layers for _, cost in together)
    prefix = len(context.backbone.encode([Question("what color ?", asked[0].images)])[0]) - 8
    saved = 2 * prefix * context.backbone.n_layers
    assert meter.share.token_layers <= charged - saved


def test_methods_that_follow_others_come_last():
    methods = {"full": FullImage(), "a": Baseline(), "s[t=1]": TrainedRPN(), "s[t=2]": TrainedRPN()}
    assert _turns(methods, 0) == [["a"], ["s[t=1]", "s[t=2]"], ["full"]]
    assert _turns(methods, 2) == [["s[t=1]", "s[t=2]"], ["a"], ["full"]]


@pytest.mark.parametrize(
    ("text", "sweep"),
    [
        ("sdrpn.threshold=0.05,0.1", Sweep("sdrpn", "threshold", (0.05, 0.1))),
        ("zoomeye.confidence=yes_no,answer", Sweep("zoomeye", "confidence", ("yes_no", "answer"))),
    ],
)
def test_sweeps_are_written_as_options(text, sweep):
    assert parse_sweep(text) == sweep
    first, *_ = sweep.variants({"x": 1}).values()
    assert first == {"x": 1, sweep.option: sweep.values[0]}


@pytest.mark.parametrize("text", ["sdrpn=1", "sdrpn.threshold", "sdrpn.threshold=", ".a=1"])
def test_what_is_no_sweep_is_refused(text):
    with pytest.raises(ConfigError, match=r"write METHOD\.KEY=V1,V2"):
        parse_sweep(text)


def points(pairs):
    return [Point("m", "m", cost, accuracy, (0, 1), 0.0) for cost, accuracy in pairs]


pairs = st.lists(
    st.tuples(st.integers(1, 40), st.sampled_from([0.1, 0.2, 0.4, 0.7, 1.0])), min_size=1
)


@given(pairs)
def test_the_front_is_what_nothing_beats(pairs):
    found = {(point.cost, point.accuracy) for point in pareto_front(points(pairs))}
    expected = {
        (cost, accuracy)
        for cost, accuracy in pairs
        if not any((c <= cost and a >= accuracy) and (c < cost or a > accuracy) for c, a in pairs)
    }
    assert found == expected


@given(pairs, st.integers(1, 20), st.integers(1, 60))
def test_the_area_is_the_mean_of_the_best_within_each_cost(pairs, low, width):
    high = low + width
    costs = np.exp(np.linspace(math.log(low), math.log(high), 4001))
    best = [max((a for c, a in pairs if c <= cost), default=0.0) for cost in costs]
    assert area(points(pairs), low, high) == pytest.approx(np.mean(best), abs=0.01)


def test_equal_accuracy_is_the_best_of_the_baseline():
    """Of all its budgets; gradients cost as well, and what knows the truth is no rival."""

    def method(forward, accuracy, backward=0.0):
        cost = {"token_layers": forward, "backward_token_layers": backward}
        values = {"accuracy": accuracy, "interval": [0, 1], "seconds_per_question": 1.0}
        return {"cost": cost, **values}

    models = {
        "m @9": {
            "methods": {"baseline": method(10, 0.5), "sdrpn[t=1]": method(4, 0.6, backward=8)}
        },
        "m @16": {
            "methods": {
                "baseline": method(20, 0.7),
                "sdrpn[t=2]": method(15, 0.75),
                "cheap": method(1, 0.65),
                "oracle": method(2, 1.0),
            }
        },
    }
    for budget, model in zip((9, 16), models.values(), strict=True):
        model.update(name="m", visual_tokens=budget)
    found = curves(models, controls=["oracle"])["m"]
    assert found["cost_range"] == [1, 20]
    assert [point["label"] for point in found["points"] if point["on_front"]] == [
        "cheap @16",
        "sdrpn[t=2] @16",
    ]
    assert found["equal_accuracy"] == {
        "accuracy": 0.7,
        "methods": {
            "baseline": {"cost": 20, "ratio": 1},
            "sdrpn": {"cost": 15, "ratio": 0.75},
            "cheap": {"cost": None, "ratio": None},
        },
    }
    assert {point["label"]: point["cost"] for point in found["points"]}["sdrpn[t=1] @9"] == 12


def test_where_all_costs_are_the_same_the_area_is_the_accuracy():
    assert area(points([(10, 0.6), (10, 0.4)]), 10, 10) == 0.6
    assert area(points([(20, 0.6)]), 10, 10) == 0


def test_equal_accuracy_costs_the_least_that_reaches_it():
    some = points([(10, 0.3), (20, 0.6), (40, 0.5)])
    assert (cost_at(some, 0.5), cost_at(some, 0.7)) == (20, None)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two families, budgets of one, a sweep, and a method that one cannot serve."""
    out = tmp_path_factory.mktemp("run")
    llava, qwen = tiny_llava(), tiny_qwen2_5_vl()
    models = [BenchModel(llava, make_rpn(llava), name="llava")] + [
        BenchModel(qwen, make_rpn(qwen), name="qwen", visual_tokens=n) for n in (12, 30)
    ]
    results = run_benchmark(
        models,
        ["baseline", "sdrpn", "full", "oracle"],
        records(),
        out=out,
        batch_size=2,
        max_new_tokens=2,
        sweeps=[Sweep("sdrpn", "threshold", (0.3, 0.9))],
        metric=lambda prediction, record: len(prediction) % 2,
    )
    return out, results


def test_budgets_of_a_model_are_points_of_one_curve(compared):
    out, results = compared
    assert list(results["models"]) == ["llava", "qwen @12", "qwen @30"]
    assert list(results["curves"]) == ["llava", "qwen"]
    small, large = (results["models"][f"qwen @{n}"]["methods"]["baseline"] for n in (12, 30))
    assert small["visual_tokens"] <= 12 < large["visual_tokens"] <= 30
    curve = results["curves"]["qwen"]
    labels = {point["label"] for point in curve["points"]}
    assert {"baseline @12", "sdrpn[threshold=0.3] @30", "full @30"} <= labels
    assert [p["cost"] for p in curve["points"]] == sorted(p["cost"] for p in curve["points"])
    assert not any(p["on_front"] for p in curve["points"] if p["method"] == "oracle")
    assert set(curve["area"]["methods"]) == {"baseline", "sdrpn", "full"}
    assert curve["equal_accuracy"]["methods"]["baseline"]["ratio"] == 1
    report = (out / "report.md").read_text()
    assert "| front of all |" in report
    assert "figures/accuracy_and_cost.png" in report
    assert json.loads((out / "results.json").read_text()) == results


def test_a_method_that_a_model_cannot_serve_is_left_out_for_it_alone(compared, caplog):
    out, results = compared
    assert "full" in results["models"]["qwen @12"]["methods"]
    assert "full" not in results["models"]["llava"]["methods"]
    reason = "the family's resolution is fixed: every image takes the same number of visual tokens"
    assert results["models"]["llava"]["refused"] == {"full": reason}
    assert f"- `full`: {reason}" in (out / "report.md").read_text()
    costs = results["models"]["qwen @30"]["methods"]["sdrpn"]["cost"]
    assert (
        costs["token_layers"]
        > results["models"]["qwen @12"]["methods"]["baseline"]["cost"]["token_layers"]
    )


def test_what_cannot_be_compared_is_refused(tmp_path):
    llava = BenchModel(tiny_llava(), name="llava")
    cases = [
        (["tiles"], {}, "no method can be offered for model 'llava': tiles: the family was not"),
        (["full"], {}, "method 'full' depends on the answers of 'sdrpn': name both"),
        (["baseline"], {"visual_tokens": [20]}, "resolution is fixed.*budget of 20 cannot be set"),
        (["baseline"], {"visual_tokens": [0]}, "must be a whole number of at least 1"),
        (["baseline"], {"sweeps": [Sweep("sdrpn", "t", (1,))]}, "sweep of method 'sdrpn', which"),
    ]
    for methods, options, message in cases:
        with pytest.raises(ConfigError, match=message):
            run_benchmark(llava, methods, records(1), out=tmp_path, max_new_tokens=1, **options)
    with pytest.raises(ConfigError, match="give distinct values"):
        Sweep("sdrpn", "threshold", (1, 1))


def test_a_method_may_answer_its_own_way(context):
    (plain,) = Baseline().answer(context, records(1), images(records(1)))

    class Parrot(Method):
        def answer(self, context, records, images):
            return [replace(plain, text="polly") for _ in records]

    ((answers, cost),) = answer_alike(context, [Parrot()], records(2), images(records(2)))
    assert [one.text for one in answers] == ["polly", "polly"]
    assert (cost.token_layers, cost.passes) == (0, 0)

    class Silent(Method):
        def answer(self, context, records, images):
            return []

    with pytest.raises(ConfigError, match="Silent gave 0 answers to 2 questions"):
        answer_alike(context, [Silent()], records(2), images(records(2)))


def test_command(tmp_path):
    write_tiny_qwen2_5_vl(tmp_path / "model")
    tiny_image(0, SIZE).save(tmp_path / "0.png")
    record = {"image": "0.png", "question": "which color ?", "answer": "red"}
    (tmp_path / "data.jsonl").write_text(json.dumps(record))
    words = [
        "bench", "--models", str(tmp_path / "model"), "--data", str(tmp_path / "data.jsonl"),
        "--out", str(tmp_path / "out"), "--methods", "baseline,random", "--max-new-tokens", "1",
        "--visual-tokens", "8,16", "--sweep", "random.margin=0.1,0.4", "--json",
    ]  # fmt: skip
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    results = json.loads(result.stdout)
    assert list(results["models"]) == ["model @8", "model @16"]
    for model in results["models"].values():
        assert list(model["methods"]) == [
            "baseline", "random", "random[margin=0.1]", "random[margin=0.4]",
        ]  # fmt: skip
    for more in (["--visual-tokens", "8,x"], ["--visual-tokens", "0"]):
        refused = CliRunner().invoke(app, [*words, *more])
        assert "write positive numbers" in refused.stderr.splitlines()[-1]
