"""What can go wrong with a request, in the portal's own codes, and the one form in which callers hear of it."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import orjson
from django.utils.translation import gettext_lazy as _

from executions.errors import ErrorCode
from portal.lib.redaction import redact

MAX_DETAIL = 400  # characters of a provider's own words

# How each code leaves the gateway. Nothing leaves as 401 but trouble with the caller's own token.
_STATUS = {
    ErrorCode.LLM_UNAVAILABLE: 502,
    ErrorCode.LLM_TIMEOUT: 504,
    ErrorCode.LLM_RATE_LIMITED: 429,
    ErrorCode.LLM_AUTH: 502,
    ErrorCode.LLM_BAD_OUTPUT: 502,
    ErrorCode.CONTEXT_TOO_LONG: 400,
    ErrorCode.INVALID_INPUT: 400,
    ErrorCode.BUDGET_EXCEEDED: 402,
}
_TOO_LONG = re.compile(
    r"context.{0,20}(length|window|size)|maximum.{0,20}tokens|too many (input )?tokens"
    r"|(prompt|input) is too long",
    re.IGNORECASE,
)
_REFUSED = _("The model's provider refused the request.")


@dataclass(eq=False)
class Fault(Exception):
    """Why a request to a model has no usable answer.

    `detail` is the provider's own sentence, `http_status` its status, `retry_after` the seconds for
    which it asked to be left alone. `is_passing` says whether the same request may succeed in a moment.
    """

    code: ErrorCode
    detail: str = ""
    http_status: int | None = None
    retry_after: float | None = None
    is_passing: bool | None = None
    # Says more than the code's own sentence.
    sentence: str = field(default="", kw_only=True)
    # What programs are told of it in the run's log.
    data: dict[str, Any] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        # Before it is cut: half a key is not recognised any more.
        self.detail = " ".join(redact(str(self.detail)).split())[:MAX_DETAIL]
        if self.is_passing is None:
            self.is_passing = self.code.is_passing

    def __str__(self) -> str:
        return self.message

    @property
    def message(self) -> str:
        """One plain sentence, with the provider's words in brackets."""
        sentence = self.sentence or str(_REFUSED if self.code == ErrorCode.INVALID_INPUT else self.code.label)
        return f"{sentence} ({self.detail})" if self.detail else sentence

    def hide(self, secret: str) -> None:
        """Keep a key out of the provider's words: some repeat what they refuse."""
        if secret:
            self.detail = self.detail.replace(secret, "…")

    @property
    def status(self) -> int:
        return _STATUS.get(self.code, 500)

    @property
    def may_fall_back(self) -> bool:
        """Whether another model may do better: not when it is the run that has reached its limit."""
        return self.code != ErrorCode.BUDGET_EXCEEDED or self.data.get("limit") == "price"

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status in {400, 402} else "upstream_error"
        return error_body(self.message, kind, self.code.value)


# OpenAI's words for what is wrong with a caller, or here.
_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 503: "server_error"}


class Refusal(Exception):
    """The gateway will not even try: the caller's token or request is wrong. Nothing was sent upstream."""

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after  # seconds

    def body(self) -> dict[str, Any]:
        kind = _KINDS.get(self.status, "invalid_request_error")
        return error_body(self.message, kind, self.code, self.param)

    @property
    def headers(self) -> dict[str, str]:
        """Beside the body."""
        if self.retry_after is not None:
            return {"Retry-After": str(self.retry_after)}
        return {"WWW-Authenticate": 'Bearer realm="Agent Portal"'} if self.status == 401 else {}


def error_body(message: str, kind: str, code: str, param: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    return {"error": {"message": message, "type": kind, "code": code, "param": param}}


def of_response(status: int, headers: Mapping[str, str], body: bytes) -> Fault:
    """The fault behind a provider's refusal."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        return of_status(status, body[:2000].decode(errors="replace"), "", headers)
    error = data.get("error", data) if isinstance(data, dict) else data
    return of_error(error, status, headers)


def of_error(error: Any, status: int | None = None, headers: Mapping[str, str] | None = None) -> Fault:
    """The fault behind an `error` object, which may also stand in the middle of a stream."""
    if not isinstance(error, dict):
        return of_status(status or 502, str(error), "", headers or {})
    detail = error.get("message") or error.get("detail") or ""
    words = f"{error.get('code') or ''} {error.get('type') or ''}"
    if status is None:
        code = error.get("code")
        status = code if isinstance(code, int) and 400 <= code < 600 else 502
    return of_status(status, str(detail), words, headers or {})


def of_status(status: int, detail: str, words: str, headers: Mapping[str, str]) -> Fault:
    """`words`: the provider's machine-readable codes."""
    retry_after = _retry_after(headers)
    if status in {401, 403}:
        return Fault(ErrorCode.LLM_AUTH, detail, status)
    if status == 413 or "context_length" in words or "exceed_context" in words:
        return Fault(ErrorCode.CONTEXT_TOO_LONG, detail, status)
    if status in {400, 422}:
        too_long = _TOO_LONG.search(detail)
        return Fault(ErrorCode.CONTEXT_TOO_LONG if too_long else ErrorCode.INVALID_INPUT, detail, status)
    if status == 429 or status == 402:
        # A used-up quota does not come back in a moment.
        passing = status == 429 and "insufficient_quota" not in words
        return Fault(ErrorCode.LLM_RATE_LIMITED, detail, status, retry_after, passing)
    if status in {408, 504}:
        return Fault(ErrorCode.LLM_TIMEOUT, detail, status, retry_after)
    return Fault(ErrorCode.LLM_UNAVAILABLE, detail, status, retry_after, status >= 500)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from a number or a date; None when there is neither."""
    if value := headers.get("retry-after-ms"):
        return _seconds(value, 0.001)
    value = headers.get("retry-after")
    if not value:
        return None
    if (seconds := _seconds(value)) is not None:
        return seconds
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _seconds(value: str, unit: float = 1.0) -> float | None:
    try:
        number = float(value) * unit
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
