"""Where the answers of a batch end: each where that of stock ``generate()`` ends, asked alone."""

from __future__ import annotations

from itertools import takewhile

import pytest
import torch
from transformers import StoppingCriteria

from sdrpn_core.backbone.question import Question
from sdrpn_core.testing.images import block_image
from sdrpn_core.testing.regions import FixedRegion
from tests.backbones.stock_answers import N_NEW_TOKENS, our_answers, stock_answer
from tests.tiny import tiny_llava

#: Of equal length: what reads prompts holds no padding, so only these share a batch.
QUESTIONS = [
    Question("what color is the square ?", (block_image(seed, (150, 150)),)) for seed in range(8)
]
#: Some answers begin with one of these tokens, some have one later, and some have none.
ENDS = [35, 41, 89]

each_proposer = pytest.mark.parametrize("proposer", [None, FixedRegion()], ids=["plain", "crops"])
#: Padding behind an end may be a token that an answer has, or ends with.
each_padding = pytest.mark.parametrize("pad", [34, ENDS[1], None])


class After(StoppingCriteria):
    """Ends a response behind any of some tokens."""

    def __init__(self, tokens):
        self.tokens = torch.tensor(tokens)

    def __call__(self, input_ids, scores):
        return torch.isin(input_ids[:, -1], self.tokens)


def check_ends(backbone, expected, proposer=None, **options):
    lengths = {len(ids) for ids in expected}
    assert len(lengths) > 1, "all end together"
    assert N_NEW_TOKENS in lengths, "none goes on"
    for way, found in our_answers(backbone, QUESTIONS, proposer, **options):
        assert found == expected, way


@each_padding
@each_proposer
@pytest.mark.parametrize("ends", [ENDS[1], torch.tensor(ENDS)], ids=str)
def test_an_answer_ends_before_an_end_token_of_the_call(ends, pad, proposer):
    backbone = tiny_llava()
    backbone.model.generation_config.pad_token_id = pad
    tokens = torch.as_tensor(ends).flatten().tolist()
    expected = [
        tuple(takewhile(lambda one: one not in tokens, ids))
        for ids in (stock_answer(backbone, q, proposer, eos_token_id=ends) for q in QUESTIONS)
    ]
    check_ends(backbone, expected, proposer=proposer, eos_token_id=ends)


@each_padding
@each_proposer
@pytest.mark.parametrize("has_end", [True, False], ids=["padded", "going on"])
def test_an_answer_ends_where_a_criterion_ends_its_row(has_end, pad, proposer):
    """Rows that have ended hold padding, or, where nothing is an end token, further tokens."""
    backbone = tiny_llava()
    backbone.model.generation_config.pad_token_id = pad
    if not has_end:
        backbone.model.generation_config.eos_token_id = None
    options = {"stopping_criteria": [After(ENDS)]}
    expected = [stock_answer(backbone, one, proposer, **options) for one in QUESTIONS]
    check_ends(backbone, expected, proposer=proposer, **options)


@pytest.mark.parametrize("in_config", [True, False], ids=["config", "argument"])
def test_an_answer_ends_where_a_stop_string_ends_its_row(in_config):
    backbone = tiny_llava()
    backbone.tokenizer.add_tokens(["abcdef"])  # the stock criterion wants to see it come back
    strings = backbone.tokenizer.convert_ids_to_tokens(ENDS)
    options = {"stop_strings": strings}
    expected = [
        stock_answer(backbone, one, None, **options, tokenizer=backbone.tokenizer)
        for one in QUESTIONS
    ]
    if in_config:
        backbone.model.generation_config.update(**options)
        options = {}
    check_ends(backbone, expected, **options)
    check_ends(backbone, expected, **options, tokenizer=backbone.tokenizer)
