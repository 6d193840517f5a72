"""Where the responses of a batch end: each for itself, by criteria of ``generate()``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import StoppingCriteria

__all__ = ["ResponseCriteria", "RowEnds"]


class ResponseCriteria(StoppingCriteria):
    """Stopping criteria that get the ids of the responses alone.

    All others get those of the prompts before them, as in a run of the stock model; with crops, and
    without them, where a question is answered twice.
    """


class RowEnds(StoppingCriteria):
    """Asks criteria, and records behind which token each row has ended first.

    ``generate()`` goes on until all rows have ended, and does not say which token of a row was its
    last: what follows may be padding, which may be a token like any other, or a further response.

    Args:
        criteria: what ends a row.
        n_prompt: length of the prompts, padding included.
    """

    def __init__(self, criteria: Sequence[StoppingCriteria], n_prompt: int) -> None:
        self._criteria = criteria
        self._n_prompt = n_prompt
        #: Per row; a length that no response has, as long as it has not ended.
        self._lengths: torch.Tensor | None = None

    def __call__(
        self, input_ids: torch.Tensor, scores: tuple[torch.Tensor] | None, **kwargs: Any
    ) -> torch.Tensor:
        """Which rows have ended with their latest token."""
        responses = input_ids[:, self._n_prompt :]
        ended = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        for one in self._criteria:
            seen = responses if isinstance(one, ResponseCriteria) else input_ids
            ended = ended | one(seen, scores, **kwargs)
        if self._lengths is None:
            endless = torch.iinfo(torch.long).max
            self._lengths = torch.full_like(ended, endless, dtype=torch.long)
        # On the device: nothing waits for it at every token.
        so_far = self._lengths.clamp(max=responses.shape[1])
        self._lengths = torch.where(ended, so_far, self._lengths)
        return ended

    def cut(self, responses: Sequence[list[int]]) -> list[list[int]]:
        """The responses up to where their rows have ended, the last token included.

        Args:
            responses: the new ids of all rows.
        """
        if self._lengths is None:
            return list(responses)
        lengths = self._lengths.tolist()
        return [ids[:length] for ids, length in zip(responses, lengths, strict=True)]
