"""Answers equal those of the stock model: every family, windows of every size, penalties."""

from __future__ import annotations

from functools import partial

import pytest
from transformers import MistralConfig

from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.token_layers import TokenLayerCounter
from sdrpn_core.errors import ConfigError
from sdrpn_core.testing.regions import FixedRegion
from tests.backbones.stock_answers import our_answers, random_questions, stock_answer
from tests.tiny import tiny_llava
from tests.tiny_gemma3 import tiny_gemma3
from tests.tiny_mistral3 import tiny_mistral3
from tests.tiny_qwen3_vl import tiny_qwen3_vl
from tests.tiny_smolvlm import tiny_smolvlm

FAMILIES = {
    "qwen3_vl": tiny_qwen3_vl,
    "gemma3": tiny_gemma3,
    "mistral3": tiny_mistral3,
    "smolvlm": tiny_smolvlm,
    "idefics3": partial(tiny_smolvlm, idefics=True),
}
N_QUESTIONS = 8


def check_answers(backbone, proposer, n=N_QUESTIONS, **options):
    questions = random_questions(n)
    expected = [stock_answer(backbone, one, proposer, **options) for one in questions]
    for way, found in our_answers(backbone, questions, proposer, **options):
        assert found == expected, way


@pytest.mark.parametrize("proposer", [None, FixedRegion()], ids=["plain", "crops"])
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_the_stock_models(family, proposer):
    check_answers(FAMILIES[family](), proposer)


@pytest.mark.parametrize("family", ["gemma3", "mistral3"])
@pytest.mark.parametrize("window", [6, 40, 60, 90, 400])
def test_windows_of_any_size(family, window):
    """Shorter than a question, than a prefix, than a prompt with crops, and longer."""
    check_answers(FAMILIES[family](window=window), FixedRegion())


@pytest.mark.parametrize("window", [10, 24, 400])
def test_windows_of_a_family_that_has_none_by_itself(window):
    backbone = tiny_llava(decoder=MistralConfig, sliding_window=window, num_key_value_heads=2)
    assert backbone.has_windows
    check_answers(backbone, FixedRegion())


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 2},
        {"encoder_repetition_penalty": 1.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("in_config", [True, False], ids=["config", "argument"])
def test_what_reads_a_prompt_reads_the_stock_one(options, in_config):
    backbone = tiny_llava()
    if in_config:
        backbone.model.generation_config.update(**options)
        options = {}
    for proposer in (None, FixedRegion()):
        check_answers(backbone, proposer, **options)


@pytest.mark.parametrize(
    "field", [{"guidance_scale": 2.0}, {"prompt_lookup_num_tokens": 3}, {"penalty_alpha": 0.5}]
)
@pytest.mark.parametrize("proposer", [None, FixedRegion()], ids=["plain", "two stages"])
def test_what_a_generation_config_may_not_ask_for_is_refused_before_anything_runs(field, proposer):
    backbone = tiny_llava()
    backbone.model.generation_config.update(**field)
    (name,) = field
    refused = rf"sets '{name}' to .*cannot be done .*: set model\.generation_config\.{name} = None"
    with TokenLayerCounter(backbone) as work, pytest.raises(ConfigError, match=refused):
        answer_batch(backbone, random_questions(1), proposer, max_new_tokens=2)
    assert work.token_layers == 0
