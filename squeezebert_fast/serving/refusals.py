"""Answers other than 200, all in the form of OpenAI's errors, which its clients understand."""

from __future__ import annotations

from typing import Any

BAD_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"


class Refused(Exception):
    """A request isn't answered: with which status, and one line that says why.

    param: which part of the request is meant. code: a name for programs. retry_after: seconds, of a full queue.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message = status, " ".join(message.split())
        self.param, self.code = param, code
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}

    @property
    def body(self) -> dict[str, Any]:
        kind = BAD_REQUEST if self.status < 500 else SERVER_ERROR
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}
