"""What crops are worth, against log-likelihoods of the stock model on ids and pixels."""

from __future__ import annotations

from functools import partial

import pytest

from sdrpn_core.answering.prefill import prefill
from sdrpn_core.answering.proposer import Proposal
from sdrpn_core.crops.policy import CropPlan, Outcome
from sdrpn_core.errors import InputError
from sdrpn_core.testing.regions import FixedRegion
from sdrpn_core.testing.subject import ContractSubject
from sdrpn_core.utility.likelihoods import crop_likelihoods
from tests.core.utility.stock_likelihood import stock_log_likelihood
from tests.tiny import CHAT_TEMPLATE, tiny_llava
from tests.tiny_gemma3 import tiny_gemma3
from tests.tiny_qwen2_5_vl import tiny_qwen2_5_vl
from tests.tiny_qwen3_vl import tiny_qwen3_vl

REGIONS = (FixedRegion(), FixedRegion((0.0, 0.0, 0.5, 0.5)))
RESPONSES = ("red", "a blue square")
TOLERANCE = 2e-4

FAMILIES = {
    "llava": partial(tiny_llava, chat_template=CHAT_TEMPLATE),
    "qwen2_5_vl": tiny_qwen2_5_vl,
    "qwen3_vl": tiny_qwen3_vl,
    "gemma3": tiny_gemma3,
}


@pytest.fixture(params=FAMILIES, scope="module")
def backbone(request):
    return FAMILIES[request.param]()


def test_utilities_equal_those_of_the_stock_model(backbone):
    """Two questions with responses of different length, two candidates each, one without a crop."""
    questions = ContractSubject.questions()[:2]
    responses = [backbone.tokenize_response(text) for text in RESPONSES]
    state = prefill(backbone, questions)
    by_region = [region.propose(state) for region in REGIONS]
    nothing = [Proposal(CropPlan(Outcome.NO_ROI))]
    candidates = [[*(rows[index] for rows in by_region), nothing] for index in range(2)]
    found = crop_likelihoods(state, candidates, responses, batch_size=3)
    for question, response, own in zip(questions, responses, found, strict=True):
        plain = stock_log_likelihood(backbone, question, None, response)
        assert own.plain == pytest.approx(plain, abs=TOLERANCE)
        cropped = [stock_log_likelihood(backbone, question, r, response) for r in REGIONS]
        assert own.cropped == pytest.approx([*cropped, plain], abs=TOLERANCE)
        assert own.utilities == pytest.approx(
            [one - plain for one in (*cropped, plain)], abs=2 * TOLERANCE
        )
        assert own.utilities[2] == 0
        assert max(map(abs, own.utilities)) > 10 * TOLERANCE  # the crops do matter


def test_an_empty_response_is_refused(backbone):
    state = prefill(backbone, ContractSubject.questions()[:1])
    with pytest.raises(InputError, match="one of these is empty"):
        crop_likelihoods(state, [[]], [()])
