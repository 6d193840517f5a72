"""Errors in the shape of OpenAI's, which its clients turn into exceptions of their own."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from sdrpn_core import SdrpnError

__all__ = ["APIError"]

_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "timeout_error",
}
"""Status -> ``type``; any other is the caller's."""


class APIError(HTTPException):
    """A request that is not served; the message is one line.

    Args:
        status: of the response.
        message: what was wrong, where, and what to do.
        param: the field of the request that is at fault.
        code: a name for programs.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, str(SdrpnError(message)), headers)
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """What the response says."""
        error = {
            "message": self.detail,
            "type": _TYPES.get(self.status_code, "invalid_request_error"),
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    def response(self) -> JSONResponse:
        """The response."""
        return JSONResponse(self.body(), self.status_code, self.headers)
