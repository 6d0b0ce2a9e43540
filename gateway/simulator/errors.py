"""Refusals in the API's own shape."""

from __future__ import annotations


class ApiError(Exception):
    """An answer with an error status. `error` is what stands under "error" in its body."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",  # noqa: A002 - it is the field's name
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"message": message, "type": type, "param": param, "code": code}
