"""Rows while generating are stock ones, whether a cache holds fewer keys than positions or more."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from sdrpn_core.backbone.question import Question
from sdrpn_core.runtime.generation import generate, prompt_block
from sdrpn_core.taps.attention_tap import AttentionTap
from tests.tiny import tiny_image, tiny_llava
from tests.tiny_gemma3 import tiny_gemma3
from tests.tiny_mistral3 import tiny_mistral3

N_NEW = 7
QUESTIONS = (
    Question("what color is the square ?", (tiny_image(0, (56, 56)),)),
    Question("how many ?", (tiny_image(1, (56, 56)),)),
)
#: float32, several layers deep, another order of summation.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
MAKERS = {"gemma3": tiny_gemma3, "mistral3": tiny_mistral3}


@torch.no_grad()
def check_rows(backbone, eager, n_questions, run):
    """Compare the rows of generated tokens with one eager pass over the whole sequence."""
    block = prompt_block(backbone, backbone.encode(QUESTIONS[:n_questions]))
    length, everything = block.length, dict.fromkeys(range(backbone.n_layers))
    with AttentionTap(backbone.decoder, everything, queries=slice(length, None)) as tap:
        responses = run(backbone, block)
    n_rows = min(map(len, responses)) - 1  # the last token is not fed back
    assert n_rows == N_NEW - 1
    fed_back = torch.tensor(responses)[:, :-1]
    beside = eager.token_width - eager.hidden_size
    embeds = F.pad(eager.embedding(fed_back), (0, beside))
    mask = torch.cat([block.mask, torch.ones_like(fed_back)], dim=1)
    attentions = eager.decoder(
        inputs_embeds=torch.cat([block.embeds, embeds], dim=1),
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        output_attentions=True,
    ).attentions
    for layer, expected in enumerate(attentions):
        assert len(tap.rows[layer]) == n_rows
        for step, rows in enumerate(tap.rows[layer]):
            place = length + step
            assert rows.queries == (place, place + 1)
            wanted = expected[:, :, place : place + 1, : place + 1]
            torch.testing.assert_close(rows.weights, wanted, **CLOSE)
    return attentions


def ours(backbone, block):
    return generate(backbone, block, max_new_tokens=N_NEW, min_new_tokens=N_NEW)


def stock_on(implementation):
    def run(backbone, block):
        inputs = {
            "inputs_embeds": block.embeds,
            "attention_mask": block.mask,
            "position_ids": block.positions,
        }
        return backbone.model.generate(
            **inputs,
            max_new_tokens=N_NEW,
            min_new_tokens=N_NEW,
            do_sample=False,
            cache_implementation=implementation,
            disable_compile=True,
        ).tolist()

    return run


RUNS = {"ours": ours, "stock": stock_on(None), "stock static": stock_on("static")}
#: Stock ``generate()`` of the other family takes no embeddings.
CASES = [("gemma3", "ours"), *(("mistral3", name) for name in RUNS)]


@pytest.mark.parametrize("n_questions", [1, 2])
@pytest.mark.parametrize("window", [6, 36, 400])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("family", "run"), CASES)
def test_what_a_window_forgot_has_no_weight(family, attention, window, run, n_questions):
    """Forgotten before the first row, while generating, and never."""
    backbone = MAKERS[family](attn_implementation=attention, window=window)
    eager = MAKERS[family](attn_implementation="eager", window=window)
    attentions = check_rows(backbone, eager, n_questions, RUNS[run])
    forgotten = [bool((weights[:, :, -1, :-window] == 0).all()) for weights in attentions]
    assert any(forgotten)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("run", RUNS)
def test_room_behind_the_last_key_is_no_column(attention, run):
    backbone = tiny_llava(attn_implementation=attention)
    check_rows(backbone, tiny_llava(attn_implementation="eager"), 2, RUNS[run])
