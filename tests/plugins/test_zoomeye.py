"""ZoomEye: confidences are the stock model's, and the search is the published one."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sdrpn_bench.method import MethodContext
from sdrpn_core import Outcome, Question, answer_batch
from sdrpn_core.answering.prefill import prefill
from sdrpn_core.answering.token_layers import TokenLayerCounter
from sdrpn_core.errors import ConfigError, InputError
from sdrpn_core.testing.subject import ContractSubject
from sdrpn_glyphs.families import family
from sdrpn_zoomeye.confidence import View, Viewer, yes_no_ids
from sdrpn_zoomeye.cues import _INSTRUCTION, name_cues, parse_cues, singular
from sdrpn_zoomeye.method import ZoomEye
from sdrpn_zoomeye.search import SearchRules, search_all, search_one
from sdrpn_zoomeye.tree import CropTree, Node
from tests.tiny import prefer_padding, tiny_image, tiny_llava
from tests.tiny_deepseek_vl import tiny_deepseek_vl
from tests.tiny_gemma3 import tiny_gemma3
from tests.tiny_qwen2_5_vl import tiny_qwen2_5_vl
from tests.tiny_qwen3_vl import tiny_qwen3_vl

FAMILIES = {
    "llava": tiny_llava,
    "qwen2_5_vl": tiny_qwen2_5_vl,
    "deepseek_vl": tiny_deepseek_vl,
    "qwen3_vl": tiny_qwen3_vl,
    "gemma3": tiny_gemma3,
}
TEXTS = ("what color is the small dot ?", "how many ?", "which letter is on the left ?")
SIZES = ((240, 160), (160, 240), (150, 150))


def questions():
    return [
        Question(text, (tiny_image(seed, size),))
        for seed, (text, size) in enumerate(zip(TEXTS, SIZES, strict=True))
    ]


def views():
    """Of the whole image and of crops, of several images in turn."""
    about = ("red square", "dot", "is it red or blue ?")
    boxes = (None, (0, 0, 120, 80), (40, 20, 140, 110))
    aspects = ("existence", "latent", "answering")
    return [
        View(index, box, aspects[(index + place) % 3], about[index])
        for index in range(3)
        for place, box in enumerate(boxes)
    ] + [View(0, None, aspect, "dot") for aspect in aspects]


def stock_inputs(backbone, question, text, box):
    """Ids and pixels of the stock model: the image, and the crop as what follows it."""
    (image,) = question.images
    state = prefill(backbone, [question])
    viewer = Viewer(state, "yes_no", 1)
    view = View(0, box, "answering", "")
    viewer._encode([view])
    crop = () if box is None else viewer._crops[0, box]
    prompt = state.prompt_asking(0, text).with_crops((crop,))
    items = [backbone.preprocess(image)]
    if box is not None:
        items.append(backbone.preprocess_crop(image.crop(box)))
    ids = torch.tensor([backbone.token_ids(prompt)])
    inputs = ContractSubject.stock_inputs(backbone, prompt, ids, items)
    return {**inputs, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("family", FAMILIES)
def test_confidences_are_those_of_the_stock_models_logits(family):
    backbone = FAMILIES[family]()
    asked = questions()
    found = Viewer(prefill(backbone, asked), "yes_no", 1).confidences(views())
    yes, no = (backbone.tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    assert yes_no_ids(backbone) == (yes, no)
    expected = []
    for view in views():
        text = TEXT_OF[view.aspect, view.box is None].replace("THIS", view.about)
        with torch.no_grad():
            inputs = stock_inputs(backbone, asked[view.index], text, view.box)
            logits = backbone.model(**inputs).logits[0, -1]
        odds = float(logits[yes] - logits[no])
        expected.append(2 / (1 + np.exp(-odds)) - 1)
    assert np.ptp(expected) > 0.05
    np.testing.assert_allclose(found, expected, atol=2e-3)


TEXT_OF = {
    ("existence", True): "Is there a THIS in the image? Answer Yes or No.",
    ("existence", False): "Is there a THIS in the zoomed-in part of the image? Answer Yes or No.",
    ("latent", True): (
        "From what the image shows, and by common sense: might a THIS be found by zooming in "
        "further? Answer Yes or No."
    ),
    ("latent", False): (
        "From what the zoomed-in part of the image shows, and by common sense: might a THIS be "
        "found by zooming in further? Answer Yes or No."
    ),
    ("answering", True): (
        "Question: THIS\nIs what can be seen enough to answer the question? Answer Yes or No."
    ),
    ("answering", False): (
        "Question: THIS\nIs what can be seen enough to answer the question? Answer Yes or No."
    ),
}


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_the_certainty_of_an_answer_is_that_of_the_stock_models_generation(family):
    backbone = FAMILIES[family]()
    asked, shown = questions(), [None, (0, 0, 120, 80)]
    some = [View(index, box, "answering", "") for index in range(3) for box in shown]
    found = Viewer(prefill(backbone, asked), "answer", 3).confidences(some)
    for view, value in zip(some, found, strict=True):
        question = asked[view.index]
        output = backbone.model.generate(
            **stock_inputs(backbone, question, question.text, view.box),
            max_new_tokens=3,
            do_sample=False,
            output_scores=True,
            return_dict_in_generate=True,
        )
        likely = min(float(step[0].softmax(dim=-1).max()) for step in output.scores)
        assert value == pytest.approx(2 * likely - 1, abs=2e-3)


@pytest.mark.parametrize(
    ("options", "token"), [({"repetition_penalty": 1.5}, 11), ({"no_repeat_ngram_size": 1}, 41)]
)
def test_padding_is_no_part_of_what_options_read_of_a_prompt(options, token):
    backbone = tiny_llava()
    prefer_padding(backbone, token)
    backbone.model.generation_config.update(**options)
    asked = questions()
    some = [View(index, None, "answering", "") for index in range(3)]
    found = Viewer(prefill(backbone, asked), "answer", 3).confidences(some)
    for question, value in zip(asked, found, strict=True):
        (alone,) = Viewer(prefill(backbone, [question]), "answer", 3).confidences(some[:1])
        assert value == pytest.approx(alone, abs=1e-4)


def test_a_view_runs_only_what_follows_the_prefix():
    backbone = tiny_llava()
    state = prefill(backbone, questions()[:1])
    viewer = Viewer(state, "yes_no", 1)
    view = View(0, (0, 0, 120, 80), "existence", "dot")
    with TokenLayerCounter(backbone) as counter:
        first = viewer.confidences([view])
    prompt = viewer._prompt(view)
    assert counter.token_layers == (len(prompt) - len(state.prefixes[0])) * backbone.n_layers
    with TokenLayerCounter(backbone) as counter:
        assert viewer.confidences([view, view]) == first * 2
    assert counter.token_layers == 0, "what is known is not asked again"


@given(size=st.tuples(st.integers(1, 3000), st.integers(1, 3000)), side=st.integers(20, 600))
@example(size=(9, 7), side=4)
@example(size=(1, 1134), side=20)  # its last parts, the largest, are not those divided most often
def test_the_parts_of_a_node_cover_it(size, side):
    tree = CropTree(size, side)
    level, deepest = [tree.root], 0
    while level:
        parts = []
        for node in level:
            below = tree.children(node)
            deepest = max(deepest, node.depth)
            x0, y0, x1, y1 = node.box
            assert bool(below) == (max(x1 - x0, y1 - y0) >= side)
            if not below:
                continue
            assert len(below) == 4
            areas = [(part.box[2] - part.box[0]) * (part.box[3] - part.box[1]) for part in below]
            assert sum(areas) == (x1 - x0) * (y1 - y0)
            shapes = {(part.box[0], part.box[1]) for part in below}
            if y1 - y0 >= 2 * (x1 - x0):
                assert {x for x, _ in shapes} == {x0}
            elif x1 - x0 >= 2 * (y1 - y0):
                assert {y for _, y in shapes} == {y0}
            parts += below if len(level) < 50 else below[-1:]
        level = parts
    assert tree.depth == deepest


def test_views_are_as_wide_as_the_models_input_at_least():
    tree = CropTree((1000, 800), 200)
    assert tree.view(Node((0, 0, 500, 400), 1), 1.2) == (0, 0, 600, 480)
    assert tree.view(Node((900, 700, 1000, 800), 3), 1.0) == (850, 650, 1000, 800)
    assert tree.view(tree.root, 1.2) == (0, 0, 1000, 800)


class Oracle:
    """Answers queries from a table of random confidences, and keeps what was asked."""

    def __init__(self, seed, low=-1.0):
        self.draw, self.low = random.Random(seed), low
        self.table = {}
        self.asked = []

    def __call__(self, query):
        key = (query.node, query.aspect, query.about)
        self.asked.append(key)
        return self.table.setdefault(key, self.draw.uniform(self.low, 1))

    def run(self, search):
        try:
            queries = next(search)
            while True:
                queries = search.send([self(query) for query in queries])
        except StopIteration as end:
            return end.value


def published_search(tree, table, cue, question, to_bottom):
    """As the published code has it: all in one loop, priorities when they are sorted by."""
    rules = SearchRules()
    deepest = min(tree.depth, 5)
    limit, upper, steps = 3 * deepest, 0.6, [0.1, 0.1, 0.2]
    queue, trace, candidates = [tree.root], [], []
    n_popped, at_bottom = 0, False

    def priority(node):
        weight = (1 - rules.bias) / tree.depth**2 * node.depth**2 + rules.bias
        existence, latent = table(node, "existence", cue), table(node, "latent", cue)
        return existence * weight + latent * (1 - weight)

    while queue:
        node = queue.pop(0)
        n_popped += 1
        trace.append(node)
        if table(node, "answering", question) >= upper:
            candidates.append(node)
            if not to_bottom or at_bottom:
                break
        elif n_popped >= limit:
            upper -= steps[0]
            if len(steps) > 1:
                steps.pop(0)
            limit += 2
            for one in trace:
                if table(one, "answering", question) >= upper and one not in candidates:
                    candidates.append(one)
            candidates.sort(key=lambda one: table(one, "answering", question), reverse=True)
            del candidates[1:]
            if candidates or upper < 0:
                break
        if not tree.children(node) or node.depth == deepest:
            at_bottom = True
            if to_bottom and candidates:
                break
        else:
            queue += tree.children(node)
        queue.sort(key=priority, reverse=True)
    candidates.sort(key=lambda one: one.depth, reverse=True)
    return candidates[:1]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([(900, 700), (500, 400), (1600, 400), (250, 900), (90, 80)]),
    to_bottom=st.booleans(),
    low=st.sampled_from([-1.0, -3.0]),
)
def test_the_search_is_the_published_one(seed, size, to_bottom, low):
    tree, oracle = CropTree(size, 100), Oracle(seed, low)
    found = oracle.run(search_one(tree, "dot", "what ?", SearchRules(), to_bottom=to_bottom))
    draw = oracle.draw

    def table(node, aspect, about):
        return oracle.table.setdefault((node, aspect, about), draw.uniform(low, 1))

    assert found == published_search(tree, table, "dot", "what ?", to_bottom)
    answered = [key for key in oracle.asked if key[1] == "answering"]
    assert len(answered) == len(set(answered)), "no node is asked twice"


def published_search_all(node, tree, table, found, depth):
    highest = -1.0
    if node.depth < depth:
        for child in tree.children(node):
            highest = max(highest, published_search_all(child, tree, table, found, depth))
    own = table[node, "existence", "dot"]
    if own >= max(highest, 0.6):
        found.append(node)
    return max(highest, own)


@pytest.mark.parametrize("seed", range(20))
def test_everything_of_a_kind_is_found_as_published(seed):
    tree, oracle = CropTree((900, 700), 100), Oracle(seed)
    nodes = oracle.run(search_all(tree, "dot", SearchRules()))
    expected = []
    published_search_all(tree.root, tree, oracle.table, expected, 2)
    assert set(nodes) == set(expected)
    assert nodes


def test_an_image_that_is_small_is_not_searched():
    oracle = Oracle(0)
    tree = CropTree((90, 80), 100)
    assert tree.children(tree.root) == ()
    assert oracle.run(search_one(tree, "dot", "what ?", SearchRules())) in ([], [tree.root])
    assert {key[1] for key in oracle.asked} == {"answering"}


@pytest.mark.parametrize(
    ("text", "cues"),
    [
        ("dog, bench", ["dog", "bench"]),
        ("Handbag of the woman.\nQuestion: more", ["Handbag of the woman"]),
        ("man and his bag, and all red umbrellas", ["man", "all red umbrellas"]),
        ("", []),
    ],
)
def test_cues_are_what_the_first_line_names(text, cues):
    assert parse_cues(text) == cues


def test_one_of_many_is_called_without_its_s():
    assert singular("all red umbrellas") == "red umbrella"


@pytest.mark.parametrize("confidence", ["yes_no", "answer"])
def test_a_batch_is_searched_as_its_questions_alone(confidence, monkeypatch):
    monkeypatch.setattr("sdrpn_zoomeye.method.name_cues", lambda _, texts: [["dot"]] * len(texts))
    backbone = tiny_llava(grid=4)
    method = ZoomEye(confidence=confidence, side=60, upper=-0.3, lower=-0.7)
    context = MethodContext(backbone, max_new_tokens=2)
    asked = questions()
    together = answer_batch(backbone, asked, method.proposer(context, []), max_new_tokens=2)
    for question, answer in zip(asked, together, strict=True):
        (alone,) = answer_batch(
            backbone, [question], method.proposer(context, []), max_new_tokens=2
        )
        assert (answer.ids, answer.boxes) == (alone.ids, alone.boxes)
    assert {answer.outcome for answer in together} >= {Outcome.OK}


def test_every_kind_of_cue_is_searched(monkeypatch):
    backbone = tiny_llava(grid=4)
    cues = [["all dots"], ["dot"], ["square", "circle"]]
    monkeypatch.setattr("sdrpn_zoomeye.method.name_cues", lambda _, texts: cues)
    proposer = ZoomEye(side=60, upper=-0.3, lower=-0.7).proposer(MethodContext(backbone), [])
    answers = answer_batch(backbone, questions(), proposer, max_new_tokens=2)
    for answer, (width, height) in zip(answers, SIZES, strict=True):
        for x0, y0, x1, y1 in answer.boxes:
            assert 0 <= x0 < x1 <= width
            assert 0 <= y0 < y1 <= height
    assert any(answer.boxes for answer in answers)


def test_what_cannot_be_searched_is_refused_in_one_line(monkeypatch):
    backbone = tiny_llava()
    context = MethodContext(backbone)
    assert ZoomEye().unserved(context) is None
    monkeypatch.setattr("sdrpn_glyphs.tokenizer.vocabulary", lambda: ("red", "square"))
    few_words = MethodContext(family("llava").build())
    reason = ZoomEye().unserved(few_words)
    assert "has no tokens for Yes and No; its option confidence=answer does without" in reason
    assert ZoomEye(confidence="answer").unserved(few_words) is None
    two = Question("how many ?", (tiny_image(0), tiny_image(1)))
    with pytest.raises(InputError, match="the question has several"):
        answer_batch(backbone, [two], ZoomEye().proposer(context, []), max_new_tokens=1)
    with pytest.raises(ConfigError, match="must be at least 1"):
        ZoomEye(max_depth=0)
    for side in (2, 3):  # a strip of so many pixels has no four parts
        with pytest.raises(ConfigError, match=f"side must be at least 4, not {side}"):
            ZoomEye(side=side)


def test_the_model_names_what_to_look_for():
    """In its own words, after examples: whatever a random model says is parsed."""
    backbone = tiny_llava()
    cues = name_cues(backbone, ["how many red dots ?", "what color is the square ?"])
    ids = [backbone.tokenize(_INSTRUCTION.format(text), 0) for text in ("how many red dots ?",)]
    output = backbone.model.generate(
        input_ids=torch.tensor(ids),
        attention_mask=torch.ones_like(torch.tensor(ids)),
        max_new_tokens=48,
        do_sample=False,
    )
    said = backbone.tokenizer.decode(output[0, len(ids[0]) :], skip_special_tokens=True)
    assert cues[0] == parse_cues(said)
    assert len(cues) == 2
