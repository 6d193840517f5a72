"""Responses in the shape of OpenAI's chat completions; what sdrpn adds is in field ``sdrpn``."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from typing import Any

from sdrpn_serve.calls import Reply

__all__ = ["DONE", "Completion", "server_sent_event"]

DONE = "data: [DONE]\n\n"
"""Ends a stream."""


class Completion:
    """One answer: whole, or chunk by chunk.

    Args:
        model: name of the model.
    """

    def __init__(self, model: str) -> None:
        self._shared = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, reply: Reply) -> dict[str, Any]:
        """The response that is not streamed."""
        message = {"role": "assistant", "content": reply.text, "refusal": None}
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": reply.finish_reason,
            "logprobs": None,
        }
        return {
            **self._shared,
            "object": "chat.completion",
            "choices": [choice],
            "usage": _usage(reply),
            "sdrpn": reply.facts,
        }

    def first_chunk(self) -> dict[str, Any]:
        """The chunk that says who speaks."""
        return self._chunk({"role": "assistant", "content": ""})

    def chunk(self, piece: str) -> dict[str, Any]:
        """A piece of the response."""
        return self._chunk({"content": piece})

    def last_chunk(self, reply: Reply) -> dict[str, Any]:
        """The chunk that says why the response ended, and what led to it."""
        return {**self._chunk({}, reply.finish_reason), "sdrpn": reply.facts}

    def usage_chunk(self, reply: Reply) -> dict[str, Any]:
        """The chunk behind the last, for those who asked for it."""
        return {**self._chunk({}), "choices": [], "usage": _usage(reply)}

    def _chunk(self, delta: Mapping[str, str], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        return {**self._shared, "object": "chat.completion.chunk", "choices": [choice]}


def server_sent_event(data: Mapping[str, Any]) -> str:
    """One event of a stream."""
    return f"data: {json.dumps(data)}\n\n"


def _usage(reply: Reply) -> dict[str, int]:
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "total_tokens": reply.prompt_tokens + reply.completion_tokens,
    }
