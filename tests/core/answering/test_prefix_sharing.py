"""Questions about one image pay for it once; work is at the floor of what has to run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from sdrpn_core.answering.answer import answer, answer_batch
from sdrpn_core.answering.prefix_store import PrefixKey, PrefixStore
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.answering.token_layers import AnswerShape, TokenLayerCounter
from sdrpn_core.backbone.question import Question
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.errors import ConfigError
from sdrpn_core.rpn.model import RPN
from sdrpn_core.testing.regions import FixedRegion
from tests.tiny import tiny_image, tiny_llava
from tests.tiny_qwen2_5_vl import tiny_qwen2_5_vl

BRANCH, N_NEW = 2, 5
TEXTS = ("what color is the square ?", "how many ?", "which letter is near the dot ?")
IMAGE = tiny_image(0, (60, 90))


@pytest.fixture(scope="module", params=[tiny_llava, tiny_qwen2_5_vl], ids=["one grid", "own grids"])
def backbone(request):
    return request.param()


@pytest.fixture(scope="module")
def rpn(backbone):
    return RPN.from_backbone(backbone, branch=BRANCH, n_layers=3)


@pytest.fixture(scope="module")
def proposer(rpn):
    return RPNProposer(rpn, BboxPolicy(threshold=0.5, max_area_fraction=1, max_crops=9))


def ids_alone(backbone, question, proposer):
    (found,) = answer_batch(backbone, [question], proposer, max_new_tokens=N_NEW)
    return found.ids


@pytest.mark.parametrize("two_stage", [True, False])
def test_questions_about_one_image_prefill_it_once(backbone, proposer, two_stage):
    asked = proposer if two_stage else None
    store = PrefixStore()
    questions = [Question.about(IMAGE, text) for text in TEXTS]
    calls = []
    features = backbone.image_features

    def counted(inputs):
        calls.append(len(inputs))
        return features(inputs)

    backbone.image_features = counted
    try:
        together = answer_batch(backbone, questions, asked, store=store, max_new_tokens=N_NEW)
        for question, found in zip(questions, together, strict=True):
            (again,) = answer_batch(backbone, [question], asked, store=store, max_new_tokens=N_NEW)
            assert again.ids == found.ids
            assert "prefix" not in again.seconds
            assert "vision" not in again.seconds
    finally:
        del backbone.image_features
    n_crops = [len(found.boxes) for found in together]
    # The image once; the crops of the batch, then those of each question asked again.
    assert sum(calls) == 1 + 2 * sum(n_crops)
    assert (store.misses, store.hits, len(store)) == (1, len(TEXTS), 1)
    for question, found in zip(questions, together, strict=True):
        assert found.ids == ids_alone(backbone, question, asked)


@pytest.mark.parametrize("two_stage", [True, False])
def test_without_a_store_a_batch_shares_all_the_same(backbone, rpn, proposer, two_stage):
    asked = proposer if two_stage else None
    questions = [Question.about(IMAGE, text) for text in TEXTS]
    (prompt, *_) = backbone.encode(questions)
    with TokenLayerCounter(backbone, rpn) as two:
        answer_batch(backbone, [questions[0]] * 2, asked, max_new_tokens=1)
    with TokenLayerCounter(backbone, rpn) as four:
        answer_batch(backbone, [questions[0]] * 4, asked, max_new_tokens=1)
    prefix = prompt.prefix_length
    assert 2 * two.token_layers - four.token_layers == prefix * backbone.n_layers
    trunk = prefix * len(rpn.layers) if two_stage else 0
    assert 2 * two.rpn_token_layers - four.rpn_token_layers == trunk
    together = answer_batch(backbone, questions, asked, max_new_tokens=N_NEW)
    for question, found in zip(questions, together, strict=True):
        assert found.ids == ids_alone(backbone, question, asked)


def test_other_images_of_the_same_size_are_not_shared(backbone, proposer):
    others = [tiny_image(seed, IMAGE.size) for seed in (1, 2)]
    store = PrefixStore()
    for image in (IMAGE, *others, IMAGE):
        question = Question.about(image, TEXTS[0])
        (found,) = answer_batch(backbone, [question], proposer, store=store, max_new_tokens=N_NEW)
        assert found.ids == ids_alone(backbone, question, proposer)
    assert (store.misses, store.hits) == (3, 1)


def test_an_rpn_reads_its_own_prefixes(backbone, rpn, proposer):
    """Another RPN's are run again; a plain answer takes whatever there is."""
    store = PrefixStore()
    torch.manual_seed(1)
    other = RPN.from_backbone(backbone, branch=BRANCH + 1, n_layers=2)
    for chosen in (rpn, other, None):
        found = answer(backbone, IMAGE, TEXTS[0], rpn=chosen, store=store, max_new_tokens=N_NEW)
        fresh = answer(backbone, IMAGE, TEXTS[0], rpn=chosen, max_new_tokens=N_NEW)
        assert (found.ids, found.boxes) == (fresh.ids, fresh.boxes)
    assert (store.misses, store.hits, len(store)) == (2, 1, 1)


def test_a_prefix_that_is_read_anew_is_the_most_recent():
    keys = {name: PrefixKey((1,), (((9, 9), name),)) for name in "abc"}
    store = PrefixStore(max_bytes=2)
    for name in "aba":  # the second time by another reader
        store.put(keys[name], SimpleNamespace(nbytes=1, reader=None))
    store.put(keys["c"], SimpleNamespace(nbytes=1, reader=None))
    assert [name for name in "abc" if store.get(keys[name], None)] == ["a", "c"]


def test_a_store_keeps_to_its_limit(backbone):
    images = [tiny_image(seed, IMAGE.size) for seed in range(3)]

    def ask(store, image):
        answer(backbone, image, TEXTS[0], store=store, max_new_tokens=1)

    unlimited = PrefixStore()
    ask(unlimited, images[0])
    size = unlimited.nbytes
    keys = backbone.text_config.num_key_value_heads * backbone.layers[0].self_attn.head_dim
    (prompt,) = backbone.encode([Question.about(images[0], TEXTS[0])])
    assert size > 4 * 2 * keys * backbone.n_layers * prompt.prefix_length  # float32
    store = PrefixStore(max_bytes=2 * size)
    for image in (*images[:2], images[0], images[2]):  # the second is the least recent
        ask(store, image)
    assert (len(store), store.nbytes) == (2, 2 * size)
    ask(store, images[0])
    assert store.hits == 2
    ask(store, images[1])
    assert store.misses == 4
    small = PrefixStore(max_bytes=size - 1)
    ask(small, images[0])
    assert (len(small), small.nbytes) == (0, 0)
    store.clear()
    assert len(store) == 0


def test_a_store_belongs_to_one_backbone(backbone):
    store = PrefixStore()
    answer(backbone, IMAGE, TEXTS[0], store=store, max_new_tokens=1)
    other = tiny_llava()
    with pytest.raises(ConfigError, match="use one store per backbone"):
        answer(other, IMAGE, TEXTS[0], store=store, max_new_tokens=1)
    store.clear()
    assert answer(other, IMAGE, TEXTS[0], store=store, max_new_tokens=1)
    with pytest.raises(ConfigError, match="0 or more"):
        PrefixStore(-1)


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize(
    ("image", "text", "is_short"),
    [(tiny_image(0, (900, 700)), TEXTS[1], True), (IMAGE, TEXTS[0], False)],
    ids=["short question", "long question"],
)
def test_an_answer_takes_no_more_than_it_says(backbone, rpn, image, text, is_short, crop):
    """Counted in token-layers, to the last one."""

    class Looks(RPNProposer):
        """Asks the RPN, and crops the middle, or nothing."""

        def propose(self, state):
            plans = super().propose(state)
            return FixedRegion().propose(state) if crop else plans

    nothing = BboxPolicy(threshold=0.9999999)
    question = Question.about(image, text)
    (prompt,) = backbone.encode([question])
    options = {"max_new_tokens": N_NEW, "min_new_tokens": N_NEW}
    with TokenLayerCounter(backbone, rpn) as work:
        (found,) = answer_batch(backbone, [question], Looks(rpn, nothing), **options)
    assert bool(found.boxes) == crop
    inserted = 0
    if crop:
        grid = backbone.preprocess_crop(image.crop(found.boxes[0])).geometry.grid
        framing = len(backbone.frame_crop(prompt.images[0])) - 1
        inserted = grid[0] * grid[1] + framing
    shape = AnswerShape(
        prompt.prefix_length, len(prompt) - prompt.prefix_length, inserted, N_NEW - 1
    )
    if is_short:
        assert work.token_layers == shape.in_one_pass(backbone.n_layers)
    else:
        assert work.token_layers == shape.floor(backbone.n_layers, BRANCH)
    assert work.rpn_token_layers == shape.rpn(len(rpn.layers))
    with TokenLayerCounter(backbone) as plain:
        answer_batch(backbone, [question], **options)
    assert plain.token_layers == shape.baseline(backbone.n_layers)
    saved = shape.recomputed(backbone.n_layers, BRANCH) - shape.floor(backbone.n_layers, BRANCH)
    assert saved == prompt.prefix_length * BRANCH
