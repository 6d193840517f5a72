"""Which memory the two passes of an answer write to, and caches of a fixed size."""

from __future__ import annotations

import pytest
import torch

from sdrpn_core.answering import passes
from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.passes import first_pass, second_pass
from sdrpn_core.answering.prefix_store import PrefixStore
from sdrpn_core.answering.stream import answer_stream
from sdrpn_core.errors import ConfigError
from sdrpn_core.testing.regions import FixedRegion
from tests.readers import KeepsHidden
from tests.scripted import GRID, LONG_QUESTIONS, QUESTIONS, Scripted
from tests.tiny import tiny_llava
from tests.tiny_gemma3 import tiny_gemma3
from tests.tiny_qwen2_5_vl import tiny_qwen2_5_vl

N_NEW = 6
OPTIONS = {"max_new_tokens": N_NEW, "min_new_tokens": N_NEW}


class Middle(FixedRegion):
    """Crops the middle, for any geometry; attempts the plain answer."""

    reader = KeepsHidden(2)


def pending_of(backbone, questions, store=None):
    return first_pass(
        backbone, questions, Scripted(), store=store, max_padding=0.2, generation=OPTIONS
    )


def memory_of(prefix):
    return [
        part.untyped_storage().data_ptr() for pair in prefix.keys_values.values() for part in pair
    ]


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava(grid=GRID)


@pytest.mark.parametrize("name", ["ok", "first only", "second only"])
@pytest.mark.parametrize("questions", [QUESTIONS, LONG_QUESTIONS], ids=["short", "long"])
def test_the_second_pass_writes_behind_the_prefix(backbone, questions, name):
    (one,) = pending_of(backbone, [questions[name]])
    prefix = one.prefix
    before, memory = prefix.keys_values[1][0][:, : one.n_reused].clone(), memory_of(prefix)
    (found,) = second_pass(backbone, [one], **OPTIONS)
    layers = prefix.cache.layers
    n_last = len(one.prompt) + N_NEW - 1  # the last token is never fed back
    assert {layer.get_seq_length() for layer in layers} == {n_last}
    held = [part for layer in layers for part in (layer.keys, layer.values)]
    assert [part.untyped_storage().data_ptr() for part in held] == memory
    assert torch.equal(layers[1].keys[0, :, : one.n_reused], before)
    # Behind what is reused nothing is left of the first pass.
    (again,) = second_pass(backbone, [one], **OPTIONS)
    assert found.ids == again.ids


@pytest.mark.parametrize("name", ["ok", "first only"])
def test_a_stored_prefix_has_no_room_and_is_only_read(backbone, name):
    """Also where the second pass keeps only its beginning."""
    store = PrefixStore()
    (one,) = pending_of(backbone, [QUESTIONS[name]], store)
    assert (one.n_reused < len(one.prefix)) == (name == "first only")
    assert one.prefix.cache is None  # the next answer, in another thread, may come at any time
    before = [part.clone() for pair in one.prefix.keys_values.values() for part in pair]
    second_pass(backbone, [one], **OPTIONS)
    after = [part for pair in one.prefix.keys_values.values() for part in pair]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert all(part.untyped_storage().nbytes() == part.nbytes for part in after)


def test_rows_of_a_batch_hold_no_more_than_themselves(backbone):
    for one in pending_of(backbone, [QUESTIONS["ok"], QUESTIONS["two crops"]]):
        assert one.prefix.cache is None
        for keys, values in one.prefix.keys_values.values():
            assert keys.untyped_storage().nbytes() == keys.nbytes
            assert values.untyped_storage().nbytes() == values.nbytes


def ways(backbone, questions, proposer, **options):
    """Alone, in a batch, as a stream, and with a store, cold and warm."""
    alone = [answer_batch(backbone, [one], proposer, **options)[0] for one in questions]
    stream = answer_stream(backbone, questions, proposer, batch_size=2, **options)
    store = PrefixStore()
    return {
        "alone": alone,
        "batch": answer_batch(backbone, questions, proposer, **options),
        "stream": [found for _, found in stream],
        "cold store": answer_batch(backbone, questions, proposer, store=store, **options),
        "warm store": answer_batch(backbone, questions, proposer, store=store, **options),
    }


@pytest.mark.parametrize("family", [tiny_llava, tiny_qwen2_5_vl, tiny_gemma3])
@pytest.mark.parametrize("proposer", [None, Middle()], ids=["plain", "two-stage"])
def test_a_static_cache_answers_the_same(family, proposer):
    backbone = family()
    questions = [QUESTIONS["ok"], QUESTIONS["two crops"], QUESTIONS["no image"]]
    expected = [answer_batch(backbone, [one], proposer, **OPTIONS)[0].ids for one in questions]
    static = ways(backbone, questions, proposer, cache_implementation="static", **OPTIONS)
    for way, answers in static.items():
        assert [one.ids for one in answers] == expected, way


def test_a_static_cache_is_the_stock_one(backbone, monkeypatch):
    """For which stock ``generate()`` compiles, where that pays."""
    seen = []
    generate = passes.generate

    def spy(*args, **kwargs):
        seen.append(kwargs["cache"])
        return generate(*args, **kwargs)

    monkeypatch.setattr(passes, "generate", spy)
    options = {**OPTIONS, "cache_implementation": "static"}
    (found,) = answer_batch(backbone, [QUESTIONS["ok"]], Scripted(), **options)
    assert found.boxes
    (cache,) = seen
    assert cache.is_compileable
    assert cache.get_max_length() % 256 == 0


@pytest.mark.parametrize("proposer", [None, Scripted()])
def test_other_caches_are_refused(backbone, proposer):
    for asked in (answer_batch, lambda *args, **kwargs: next(answer_stream(*args, **kwargs))):
        with pytest.raises(ConfigError, match=r"'static' or None .* not 'quantized'"):
            asked(backbone, [QUESTIONS["ok"]], proposer, cache_implementation="quantized")


@pytest.mark.cuda
@pytest.mark.parametrize("proposer", [None, Middle()], ids=["plain", "two-stage"])
def test_decoding_is_compiled_on_cuda(proposer):
    backbone = tiny_llava(grid=GRID)
    backbone.model.to("cuda")
    questions = [QUESTIONS["ok"], QUESTIONS["two crops"]]
    expected = [one.ids for one in answer_batch(backbone, questions, proposer, **OPTIONS)]
    torch._dynamo.utils.counters.clear()
    found = answer_batch(backbone, questions, proposer, cache_implementation="static", **OPTIONS)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert [one.ids for one in found] == expected
