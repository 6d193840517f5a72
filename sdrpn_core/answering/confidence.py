"""How sure a model is of its response: the probability of its least likely token."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["TokenProbabilities"]


class TokenProbabilities:
    """Records the probabilities of the tokens that are chosen: an observer of ``generate()``.

    They are the model's own, whatever penalties and bans had the tokens chosen for. One instance
    serves one call of :func:`~sdrpn_core.runtime.generation.generate`.
    """

    def __init__(self) -> None:
        self._chosen: list[torch.Tensor] = []
        self._latest: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, logits: torch.Tensor) -> None:
        """Keep the probabilities of this step, and what was chosen in the one before."""
        if self._latest is not None:
            # The last of the ids is what the previous step has chosen.
            self._chosen.append(self._latest.gather(1, input_ids[:, -1:])[:, 0])
        self._latest = logits.float().softmax(dim=-1)

    def least(self, responses: Sequence[Sequence[int]]) -> list[float]:
        """Per row the smallest probability of a token of the response.

        Args:
            responses: the token ids that were generated, without the end token.

        Returns:
            From 0 to 1; 0 for an empty response, which says nothing that one could be sure of.
        """
        if self._latest is None:
            return [0.0] * len(responses)
        steps = torch.stack([*self._chosen, torch.ones_like(self._latest[:, 0])], dim=1)
        for row, ids in enumerate(responses):
            if len(ids) == steps.shape[1]:  # cut off: no step follows that would tell
                steps[row, -1] = self._latest[row, ids[-1]]
        return [
            min(probabilities[: len(ids)], default=0.0)
            for probabilities, ids in zip(steps.tolist(), responses, strict=True)
        ]
