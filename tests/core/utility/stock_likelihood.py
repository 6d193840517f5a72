"""What the stock model says of a response: the other side of checks of likelihoods."""

from __future__ import annotations

import torch

from sdrpn_core.answering.proposer import Proposer
from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.backbone.question import Question
from sdrpn_core.testing.stock import with_crops
from sdrpn_core.testing.subject import ContractSubject


def stock_log_likelihood(
    backbone: Backbone, question: Question, region: Proposer | None, response: tuple[int, ...]
) -> float:
    """Of a response after a prompt with crops, by the stock model on ids and pixels, in nats."""
    prompt, images = with_crops(backbone, question, region)
    ids = torch.tensor([[*backbone.token_ids(prompt), *response]])
    inputs = ContractSubject.stock_inputs(backbone, prompt.with_response(response), ids, images)
    with torch.no_grad():
        logits = backbone.model(**inputs).logits[0]
    predicted = logits[len(prompt) - 1 : -1].float().log_softmax(dim=-1)
    return predicted[torch.arange(len(response)), torch.tensor(response)].sum().item()
