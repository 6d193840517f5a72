"""Finding heads: measures as from stock attention, planted heads found, and nothing but them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import sdrpn_core.head_finding.finder as finder
from sdrpn_core import find_heads
from sdrpn_core.backbone.preset import Preset
from sdrpn_core.backbone.prompt import TextSegment
from sdrpn_core.backbone.question import Question
from sdrpn_core.backbone.recipe_file import RecipeFile
from sdrpn_core.data.read import read_records
from sdrpn_core.data.record import Record
from sdrpn_core.errors import AttentionError, ConfigError, InputError, UnknownNameError
from sdrpn_core.head_finding.figure import draw_head_map
from sdrpn_core.head_finding.measures import box_auc, pointing
from sdrpn_core.head_finding.samples import Calibration
from sdrpn_core.head_finding.selection import CHOOSE, CONFIRM
from sdrpn_core.labels.pseudo import ThresholdLabeler
from sdrpn_core.labels.recipe import LabelRecipe
from sdrpn_core.runtime.generation import prompt_block
from tests.tiny import prefer_padding, tiny_image, tiny_llava

GRID = (6, 6)
N_CELLS = 36
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
SIDE = 84
SIZES = {"batch_size": 8, "max_new_tokens": 4, "progress": False}


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava(grid=GRID[0])


DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def boxed_records(n: int, seed: int = 0, response: str | None = "red dot yes") -> list[Record]:
    """Square images, each with a box over two cells of the 6 x 6 grid; each question has a number.

    The number is that of the record, digit by digit, in words that the tokenizer knows.
    """
    rng = np.random.default_rng(seed)
    records = []
    for index in range(n):
        x, y = (14 * int(place) for place in rng.integers(0, (5, 6)))
        records.append(
            Record(
                f"r{index}",
                tiny_image(index, (SIDE, SIDE)),
                f"what color is the dot {' '.join(DIGITS[int(d)] for d in str(index))}?",
                response=response,
                boxes=((x, y, x + 28, y + 14),),
            )
        )
    return records


def inside_of(record: Record) -> np.ndarray:
    inside = np.zeros(GRID, dtype=bool)
    for x0, y0, x1, y1 in record.boxes:
        inside[y0 // 14 : y1 // 14, x0 // 14 : x1 // 14] = True
    return inside.ravel()


# -- measures from the real model ----------------------------------------------------------------


def stock_maps(records: list[Record], n_rows: int | None) -> np.ndarray:
    """``(samples, layers, heads, cells)`` from transformers' own eager attention, one by one."""
    eager = tiny_llava(grid=GRID[0], attn_implementation="eager")
    eager.model.generation_config.eos_token_id = None
    maps = []
    for record in records:
        ids = () if record.response is None else eager.tokenize_response(record.response)
        (prompt,) = eager.encode([Question.about(record.images[0], record.question)])
        if ids:
            prompt = prompt.with_response(ids)
        block = prompt_block(eager, [prompt])
        ((start, stop),) = prompt.image_spans
        with torch.no_grad():
            if record.response is None:
                output = eager.model.generate(
                    inputs_embeds=block.embeds,
                    attention_mask=block.mask,
                    max_new_tokens=SIZES["max_new_tokens"],
                    output_attentions=True,
                    return_dict_in_generate=True,
                )
                steps = output.attentions[1:]
                first = [torch.stack(step)[:, 0, :, 0, :stop] for step in steps]
                rows = torch.stack(first, dim=2)
            else:
                stacked = torch.stack(
                    eager.decoder(inputs_embeds=block.embeds, output_attentions=True).attentions
                )
                rows = stacked[:, 0, :, -len(ids) :]
        maps.append(rows[:, :, :n_rows, start:stop].mean(dim=2).numpy())
    return np.stack(maps)


@pytest.mark.parametrize("response", [None, "red dot yes"], ids=["own", "given"])
def test_the_table_is_that_of_maps_stored_by_stock_eager_attention(backbone, response):
    backbone.model.generation_config.eos_token_id = None
    records = boxed_records(6, response=response)
    report = find_heads(backbone, records, **{**SIZES, "batch_size": 4})
    backbone.model.generation_config.eos_token_id = 2
    maps = stock_maps(records, report.recipe.response_rows)
    inside = [inside_of(record) for record in records]
    shares = maps / maps.sum(-1, keepdims=True)
    assert report.n == 6
    table = report.table
    hits = np.mean([pointing(m, i) for m, i in zip(maps, inside, strict=True)], axis=0)
    areas = np.mean([box_auc(m, i) for m, i in zip(maps, inside, strict=True)], axis=0)
    np.testing.assert_allclose(table.pointing, hits, **CLOSE)
    np.testing.assert_allclose(table.auc, areas, **CLOSE)
    np.testing.assert_allclose(table.mass, maps.sum(-1).mean(0), **CLOSE)
    np.testing.assert_allclose(table.peak, shares.max(-1).mean(0), **CLOSE)
    np.testing.assert_allclose(table.sink, shares.mean(0).max(-1), **CLOSE)
    assert report.chance == pytest.approx(2 / N_CELLS)


def test_batches_and_mixed_responses_change_nothing(backbone):
    own, answered = boxed_records(5, response=None), boxed_records(5)
    records = [(own if i % 2 else answered)[i] for i in range(5)]
    one, several = (find_heads(backbone, records, **{**SIZES, "batch_size": n}) for n in (1, 3))
    assert one.recipe == several.recipe
    np.testing.assert_allclose(one.table.auc, several.table.auc, **CLOSE)
    np.testing.assert_allclose(one.table.mass, several.table.mass, **CLOSE)


def test_the_model_is_asked_as_the_recipe_says(backbone):
    template = "read the sign near {question}"
    asked = [
        replace(record, question=template.replace("{question}", record.question))
        for record in boxed_records(4, response=None)
    ]
    options = {"question_template": template, "foreground": 0.3}
    found = find_heads(backbone, boxed_records(4, response=None), recipe_options=options, **SIZES)
    np.testing.assert_allclose(found.table.mass, find_heads(backbone, asked, **SIZES).table.mass)
    assert (found.recipe.question_template, found.recipe.foreground) == (template, 0.3)


# -- planted heads -------------------------------------------------------------------------------


class Planted:
    """Attention by rule instead of the model's: noise, but for the heads that a rule is given for.

    A rule turns a sample's number, its box cells and noise into ``(response tokens, cells)`` rows.
    The number is read from the question: asked another one, a head looks where that one's box is.
    """

    n_tokens = 3

    def __init__(self, records, rules, n_heads=4, seed=0):
        self.targets = [inside_of(record) for record in records]
        self.rules = rules
        self.n_heads = n_heads
        self.seed = seed

    def stream(self, backbone, prompts, heads, visit):
        places = [self.place(backbone, prompt) for prompt in prompts]
        for layer, chosen in sorted(heads.items()):
            chosen = range(self.n_heads) if chosen is None else chosen
            rows = [[self.rows(place, layer, head) for head in chosen] for place in places]
            visit(layer, [torch.from_numpy(np.stack(own)) for own in rows])

    def place(self, backbone, prompt):
        ids = [i for s in prompt.segments if isinstance(s, TextSegment) for i in s.ids]
        question = ids[: len(ids) - prompt.response_length]
        words = backbone.processor.tokenizer.decode(question).split()
        return int("".join(str(DIGITS.index(word)) for word in words if word in DIGITS))

    def rows(self, place, layer, head):
        rng = np.random.default_rng((self.seed, place, layer, head))
        noise = rng.dirichlet(np.ones(N_CELLS), self.n_tokens) * 0.5
        rule = self.rules.get((layer, head), nothing)
        return rule(place, self.targets[place], noise).astype(np.float32)


@pytest.fixture
def plant(monkeypatch, backbone):
    """A function that plants heads and finds them."""

    def find(rules, n=60, seed=0, **options):
        records = boxed_records(n, seed)
        planted = Planted(records, rules, seed=seed)
        monkeypatch.setattr(finder, "stream_given_responses", planted.stream)
        return find_heads(backbone, records, **{**SIZES, "batch_size": 20, **options})

    return find


def nothing(place, inside, noise):
    return noise


def looks(every: int = 1, of: int = 1, tokens: slice = slice(None), mass: float = 0.4):
    """Looks at the box in the samples whose number has a remainder below ``every`` by ``of``."""

    def rule(place, inside, noise):
        if place // 2 % of < every:
            noise = noise.copy()
            noise[tokens] = noise[tokens] * 0.2 + mass * inside / inside.sum()
        return noise

    return rule


def drained(rule, cell: int, mass: float):
    """The same, but with more attention on one cell."""

    def spoilt(place, inside, noise):
        rows = rule(place, inside, noise).copy()
        rows[:, cell] += mass
        return rows

    return spoilt


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_exactly_the_planted_head_is_found(plant, seed):
    report = plant({(3, 2): looks()}, seed=seed)
    assert report.recipe.grounding == {3: (2,)}
    assert report.recipe.sink == {}
    assert report.recipe.response_rows is None
    assert (report.branch, report.n_layers) == (4, 2)
    assert report.better_than_chance
    best = report.scores[0]
    assert (best.layer, best.head, best.pointing) == (3, 2, 1.0)
    assert report.joint.pointing == report.labels.labeled == report.labels.precision == 1.0
    assert report.joint.n == report.question_effect.n == 30
    assert report.question_effect.pointing < 0.3
    assert report.warnings == ()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_heads_that_complete_each_other_are_found_together(plant, seed):
    def others(place, inside, noise):
        return looks()(place, inside, noise) if place // 2 % 2 else noise

    rules = {(1, 0): looks(1, 2), (2, 3): others}
    report = plant(rules, seed=seed)
    assert report.recipe.grounding == {1: (0,), 2: (3,)}
    assert report.joint.pointing == 1.0
    assert (report.branch, report.n_layers) == (3, 3)


def on_half(rule, half: int):
    """A rule that holds in one half of the samples; in the other there is noise."""

    def partly(place, inside, noise):
        return rule(place, inside, noise) if place % 2 == half else noise

    return partly


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_head_that_the_second_half_does_not_confirm_is_left_out(plant, seed):
    def others(place, inside, noise):
        return looks()(place, inside, noise) if place // 2 % 2 else noise

    # Each looks at half of the boxes, and they complete each other; one of them by chance, that is
    # on the samples that choose and on no other.
    rules = {(1, 0): looks(1, 2), (2, 3): on_half(others, CHOOSE)}
    report = plant(rules, seed=seed)
    assert report.recipe.grounding == {1: (0,)}
    assert report.joint.pointing < 0.7


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_sink_that_the_second_half_does_not_confirm_is_left_out(plant, seed):
    # On the samples that choose, cell 35 hides the box, and the other head marks it. On the others
    # nothing hides the box, and the same mark falls on it.
    def hidden(place, inside, noise):
        return (drained(looks(), 35, 0.6) if place % 2 == CHOOSE else looks())(place, inside, noise)

    def marks(place, inside, noise):
        rule = drained(nothing, 35, 2.0) if place % 2 == CHOOSE else looks(mass=2.0)
        return rule(place, inside, noise)

    report = plant({(2, 1): hidden, (0, 3): marks}, seed=seed, max_heads=1)
    assert report.recipe.grounding == {2: (1,)}
    assert report.recipe.sink == {}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_the_second_half_does_not_confirm_is_no_better_than_chance(plant, seed):
    report = plant({(3, 2): on_half(looks(), CHOOSE)}, seed=seed)
    assert report.recipe.grounding == {3: (2,)}
    assert not report.better_than_chance


def test_the_recipe_is_tried_with_the_registered_labeler(plant, backbone, fresh_plugins):
    class Nothing(ThresholdLabeler):
        """Labels no map."""

        def __call__(self, grounding, sink=None, content=None):
            return super().__call__(np.zeros_like(grounding), sink, content)

    fresh_plugins.pseudo_labelers.add("nothing", Nothing)
    published, chosen = plant({(3, 2): looks()}), plant({(3, 2): looks()}, labeler="nothing")
    assert (published.labels.labeled, chosen.labels.labeled) == (1.0, 0.0)
    assert published.provenance["settings"]["labeler"] == "threshold"
    assert chosen.provenance["settings"]["labeler"] == "nothing"
    assert chosen.recipe == published.recipe
    with pytest.raises(UnknownNameError, match="did you mean 'nothing'"):
        plant({}, labeler="noting")


def test_the_labeler_is_that_of_the_preset(plant, backbone, fresh_plugins, monkeypatch):
    preset = Preset("t", {}, 2, 2, training={"labeler": "none"})
    monkeypatch.setattr(backbone, "find_preset", lambda: preset)
    with pytest.raises(UnknownNameError, match="pseudo-labeler 'none'"):
        plant({(3, 2): looks()})


def test_a_set_is_no_larger_than_wished(plant):
    def others(place, inside, noise):
        return looks()(place, inside, noise) if place // 2 % 2 else noise

    report = plant({(1, 0): looks(1, 2), (2, 3): others}, max_heads=1)
    assert sum(map(len, report.recipe.grounding.values())) == 1


def test_only_the_first_rows_count_where_the_others_look_elsewhere(plant):
    def wanders(place, inside, noise):
        rows = looks(tokens=slice(0, 1))(place, inside, noise).copy()
        rows[1:, (place * 5) % N_CELLS] += 1.0
        return rows

    report = plant({(2, 1): wanders})
    assert report.recipe.response_rows == 1
    assert report.recipe.grounding == {2: (1,)}
    assert report.joint.pointing == 1.0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_sink_that_hides_the_box_is_found_and_dropped(plant, seed):
    rules = {(2, 1): drained(looks(), 35, 0.6), (0, 3): drained(nothing, 35, 2.0)}
    report = plant(rules, seed=seed)
    assert report.recipe.grounding == {2: (1,)}
    assert report.recipe.sink == {0: (3,)}
    assert report.recipe.sink_threshold in (0.1, 0.3)  # noise stays below, the sink is above
    assert report.joint.pointing > 0.95
    assert report.table.sink[0, 3] > 0.7
    assert report.table.sink[2, 1] > 0.4


def test_a_sink_that_does_no_harm_is_left_alone(plant):
    report = plant({(2, 1): looks(), (0, 3): drained(nothing, 35, 2.0)})
    assert report.table.sink[0, 3] > 0.7
    assert report.recipe.sink == {}


def test_the_branch_is_behind_the_last_layer_that_is_needed_and_leaves_room(plant):
    late = plant({(5, 2): looks()})
    assert (late.branch, late.n_layers) == (5, 1)
    first = plant({(0, 2): looks()})
    assert (first.branch, first.n_layers) == (1, 3)


@pytest.mark.parametrize("seed", range(4))
def test_noise_is_told_from_heads(plant, seed):
    report = plant({}, seed=seed)
    assert not report.better_than_chance
    (warning, *_) = report.warnings
    assert "follow the question no better than chance" in warning


class Salient(Planted):
    """The image draws attention to its box, whatever is asked: no head follows the question."""

    def place(self, backbone, prompt):
        (place,) = [
            i for i, own in enumerate(self.features) if torch.equal(own, prompt.images[0].features)
        ]
        return place


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_stands_out_in_an_image_is_no_better_than_chance(monkeypatch, backbone, seed):
    """All boxes are hit, at many times the rate of random cells; the question does not matter."""
    records = boxed_records(40, seed)
    planted = Salient(records, {(3, 2): looks()}, seed=seed)
    planted.features = [
        backbone.image_features([backbone.preprocess(record.images[0])])[0] for record in records
    ]
    monkeypatch.setattr(finder, "stream_given_responses", planted.stream)
    report = find_heads(backbone, records, **{**SIZES, "batch_size": 1})
    assert report.joint.pointing == report.question_effect.pointing == 1.0
    assert report.joint.interval[0] > 0.8 > report.chance
    assert not report.better_than_chance
    assert "pointing 100.0%, with another record's question 100.0%" in report.warnings[0]


def test_one_question_for_all_cannot_show_that_heads_follow_it(backbone):
    records = [replace(record, question="what is it?") for record in boxed_records(8)]
    report = find_heads(backbone, records, **SIZES)
    assert (report.question_effect.n, report.question_effect.pointing) == (0, None)
    assert not report.better_than_chance
    assert "no two records ask different questions" in report.warnings[0]


def test_padding_is_no_part_of_what_options_read_of_a_prompt():
    backbone = tiny_llava()
    backbone.model.generation_config.update(no_repeat_ngram_size=1, eos_token_id=None)
    prefer_padding(backbone, 35)
    asked = ("what?", "what color is the dot?", "which letter is left of the square?")
    records = [
        replace(record, question=question)
        for record, question in zip(boxed_records(3, response=None), asked, strict=True)
    ]

    def responses(batch_size):
        calibration = Calibration(
            backbone,
            read_records(records),
            LabelRecipe({0: (0,)}),
            batch_size=batch_size,
            max_new_tokens=4,
        )
        list(calibration.collect())
        return [sample.response_ids for sample in calibration.samples]

    assert responses(3) == responses(1)


def test_questions_are_exchanged_with_their_responses_within_a_half(backbone, monkeypatch):
    own, answered = boxed_records(12, response=None), boxed_records(12)
    records = [(own if i % 4 < 2 else answered)[i] for i in range(12)]
    recipe = LabelRecipe({0: (0,)})
    calibration = Calibration(
        backbone, read_records(records), recipe, batch_size=5, max_new_tokens=4
    )
    list(calibration.collect())
    by_index = {sample.index: sample for sample in calibration.samples}
    pairs = [
        (sample, prompt)
        for samples, prompts in calibration.exchange_questions(CONFIRM, seed=3)
        for sample, prompt in zip(samples, prompts, strict=True)
    ]
    assert sorted(sample.index for sample, _ in pairs) == [
        index for index, sample in by_index.items() if sample.half == CONFIRM
    ]
    place = Planted(records, {}).place
    for sample, prompt in pairs:
        other = by_index[place(backbone, prompt)]
        assert other.index != sample.index
        assert other.half == CONFIRM
        assert (other.given is None) == (sample.given is None)
        torch.testing.assert_close(
            prompt.images[0].features,
            backbone.image_features([backbone.preprocess(records[sample.index].images[0])])[0],
        )
        if other.given is not None:
            assert prompt.response_ids == other.response_ids

    def refuse(length):
        raise InputError("too long")

    monkeypatch.setattr(backbone, "check_context", refuse)
    assert all(batch == ([], []) for batch in calibration.exchange_questions(CONFIRM, seed=3))


def test_sparse_labels_say_which_field_to_change(plant):
    """The advice is what labeling with it gives."""

    def spread(place, inside, noise):
        return np.full_like(noise, 0.5) + 0.5 * inside

    for rule, options, obstacle, field in (
        (looks(), {"min_peak": 0.9}, "the highest cell is below min_peak = 0.9", "min_peak"),
        (spread, {}, "spread over max_box_fraction = 0.5 of the grid or more", "foreground"),
    ):
        report = plant({(3, 2): rule}, recipe_options=options)
        assert report.labels.labeled == 0
        (warning,) = report.warnings
        remedy = report.labels.remedy
        assert remedy.name == field
        assert "only 0.0% of the samples are labeled" in warning
        assert obstacle in warning
        assert f"recipe option {field}={remedy.value:g}" in warning
        changed = plant({(3, 2): rule}, recipe_options={**options, field: remedy.value})
        assert changed.labels.labeled == remedy.labeled >= 0.5
        assert changed.warnings == ()


def test_the_same_heads_on_other_samples(plant):
    rules = {(1, 0): looks(3, 4), (3, 3): looks(4, 5, mass=0.3)}
    found = {json.dumps(plant(rules, n=80, seed=s).recipe.to_dict()["grounding"]) for s in range(3)}
    assert len(found) == 1


# -- what it writes ------------------------------------------------------------------------------


def test_the_recipe_file_holds_what_was_found_and_how(plant, backbone, tmp_path):
    report = plant({(3, 2): looks()}, seed=1)
    report.save(tmp_path / "recipe.json")
    found = RecipeFile.from_json((tmp_path / "recipe.json").read_text())
    found.check_fits(backbone)
    assert (found.recipe, found.branch, found.n_layers) == (report.recipe, 4, 2)
    assert found.backbone["name"] == "tiny-llava-0"
    scores = found.provenance["scores"]
    assert (scores["n"], scores["joint"]["pointing"]) == (60, 1.0)
    assert [(head["layer"], head["head"], head["role"]) for head in scores["heads"]] == [
        (3, 2, "grounding")
    ]
    assert found.provenance["data"]["n"] == 60
    assert set(found.provenance["versions"]) == {"sdrpn", "torch", "transformers"}


def test_the_map_is_drawn(plant, tmp_path):
    from PIL import Image

    report = plant({(2, 1): drained(looks(), 35, 0.6), (0, 3): drained(nothing, 35, 2.0)})
    draw_head_map(report, tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as image:
        colors = {color for _, color in image.convert("RGB").getcolors(2**24)}
    assert {(34, 211, 238), (74, 222, 128)} <= colors  # a grounding head and a sink are marked
    assert [path.name for path in tmp_path.iterdir()] == ["map.png"]


# -- errors --------------------------------------------------------------------------------------


def test_records_without_boxes_are_named(backbone):
    records = [
        replace(record, boxes=None if i in (1, 3) else record.boxes)
        for i, record in enumerate(boxed_records(5))
    ]
    with pytest.raises(InputError, match=r"records: 3 of 5 records can be used; .*'r1': no boxes"):
        find_heads(backbone, records, **SIZES)
    bare = [replace(record, boxes=()) for record in boxed_records(9)]
    with pytest.raises(InputError, match=r"no record can be used: .*the first: record 'r0': no bo"):
        find_heads(backbone, bare, **SIZES)


def test_records_without_image_or_question_are_named(backbone):
    first, *rest = boxed_records(5)
    for broken, message in (
        (replace(first, images=()), "'r0': the question comes without an image"),
        (replace(first, question=" "), "'r0': the question is empty"),
    ):
        report = find_heads(backbone, [broken, *rest], **SIZES)
        assert report.n == len(rest)
        ((skipped),) = report.skipped
        assert skipped.id == "r0"
        assert message in skipped.reason


def test_records_that_cannot_be_measured_are_skipped_with_a_reason(backbone, tmp_path):
    records = boxed_records(8)
    records[1] = replace(records[1], images=tmp_path / "missing.png")
    records[2] = replace(records[2], boxes=((200, 200, 220, 220),))
    records[4] = replace(records[4], boxes=((0, 0, SIDE, SIDE),))
    records[5] = replace(records[5], response="")
    report = find_heads(backbone, records, **{**SIZES, "batch_size": 3})
    assert report.n == 4
    reasons = {record.id: record.reason for record in report.skipped}
    assert set(reasons) == {"r1", "r2", "r4", "r5"}
    assert "missing.png" in reasons["r1"]
    assert "[200, 200, 220, 220] lies outside the image of 84 x 84" in reasons["r2"]
    assert "every cell" in reasons["r4"]
    assert "no token" in reasons["r5"]


def test_too_few_usable_records_say_why(backbone):
    records = [replace(record, boxes=((90, 90, 99, 99),)) for record in boxed_records(5)]
    with pytest.raises(InputError, match=r"0 of 5 records can be used.*'r0': box .* lies outside"):
        find_heads(backbone, records, **SIZES)
    with pytest.raises(InputError, match=r"3 of 3 records can be used.*at least 4"):
        find_heads(backbone, boxed_records(3), **SIZES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"max_heads": 0}, "max_heads must be a whole number of at least 1"),
        ({"max_new_tokens": 1}, "the last token is never read"),
        ({"recipe_options": {"sink": {}}}, "recipe option sink cannot be set"),
        ({"recipe_options": {"color": 1}}, "unknown field 'color'"),
        ({"recipe_options": {"foreground": 2}}, "needs 0 < background"),
    ],
)
def test_bad_options_are_refused(backbone, options, message):
    with pytest.raises(ConfigError, match=message):
        find_heads(backbone, boxed_records(4), **{**SIZES, **options})


def test_broken_attention_is_an_error_that_names_the_layer(backbone):
    broken = tiny_llava(grid=GRID[0])
    with torch.no_grad():
        broken.layers[2].self_attn.q_proj.weight.fill_(float("nan"))
    with pytest.raises(AttentionError, match="attention of layer 2 is NaN"):
        find_heads(broken, boxed_records(4), **SIZES)
