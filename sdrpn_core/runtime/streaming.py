"""Streamers of ``generate()``: which can be served, and what they are shown."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TextStreamer
from transformers.generation.streamers import BaseStreamer

from sdrpn_core.errors import ConfigError

__all__ = ["WithoutPrompt", "check_streamer"]


def check_streamer(streamer: object, batch_size: int) -> None:
    """Check that a streamer takes the tokens of a batch, as it would only say while they come.

    Args:
        streamer: what was given as one; ``None`` for none.
        batch_size: how many sequences go through the model together at most.

    Raises:
        ConfigError: it is no streamer, or shows the text of one sequence alone, and there are more.
    """
    if streamer is None:
        return
    methods = (getattr(streamer, name, None) for name in ("put", "end"))
    if isinstance(streamer, type) or not all(map(callable, methods)):
        raise ConfigError(
            "streamer must be an object with the methods put and end, such as "
            f"TextStreamer(backbone.tokenizer), not {streamer!r}"
        )
    if batch_size > 1 and getattr(type(streamer), "put", None) is TextStreamer.put:
        raise ConfigError(
            f"a {type(streamer).__name__} shows one answer, and up to {batch_size} are made "
            "together: answer one question per call, or give a stream batch_size=1"
        )


class WithoutPrompt(BaseStreamer):
    """Reports an empty prompt to a streamer, whose user knows the question.

    Args:
        streamer: gets everything else.
    """

    def __init__(self, streamer: Any) -> None:
        self._streamer = streamer
        self._is_prompt = True

    def put(self, value: torch.Tensor) -> None:
        """Hand tokens on; the first ones are the prompt."""
        self._streamer.put(value[:, :0] if self._is_prompt else value)
        self._is_prompt = False

    def end(self) -> None:
        """Hand on that the response has ended."""
        self._streamer.end()
