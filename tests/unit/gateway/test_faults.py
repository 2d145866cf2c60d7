"""Every refusal of a provider has its code."""

import json

import pytest

from executions.errors import ErrorCode
from executions.gateway.faults import of_response


@pytest.mark.parametrize(
    ("status", "error", "code", "passing"),
    [
        (401, {"message": "bad key"}, ErrorCode.LLM_AUTH, False),
        (403, {"message": "no"}, ErrorCode.LLM_AUTH, False),
        (400, {"message": "x", "code": "context_length_exceeded"}, ErrorCode.CONTEXT_TOO_LONG, False),
        (400, {"message": "x", "type": "exceed_context_size_error"}, ErrorCode.CONTEXT_TOO_LONG, False),
        (400, {"message": "prompt is too long: 9 tokens > 8 maximum"}, ErrorCode.CONTEXT_TOO_LONG, False),
        (413, {"message": "x"}, ErrorCode.CONTEXT_TOO_LONG, False),
        (400, {"message": "temperature must be below 2"}, ErrorCode.INVALID_INPUT, False),
        (422, {"message": "x"}, ErrorCode.INVALID_INPUT, False),
        (404, {"message": "no such model"}, ErrorCode.LLM_UNAVAILABLE, False),
        (408, {"message": "x"}, ErrorCode.LLM_TIMEOUT, True),
        (429, {"message": "slow down"}, ErrorCode.LLM_RATE_LIMITED, True),
        (429, {"message": "x", "code": "insufficient_quota"}, ErrorCode.LLM_RATE_LIMITED, False),
        (402, {"message": "pay"}, ErrorCode.LLM_RATE_LIMITED, False),
        (500, {"message": "x"}, ErrorCode.LLM_UNAVAILABLE, True),
        (503, {"message": "x"}, ErrorCode.LLM_UNAVAILABLE, True),
        (504, {"message": "x"}, ErrorCode.LLM_TIMEOUT, True),
    ],
)
def test_a_refusal_has_its_code(status: int, error: dict[str, str], code: ErrorCode, passing: bool) -> None:
    fault = of_response(status, {}, json.dumps({"error": error}).encode())
    assert (fault.code, fault.is_passing, fault.http_status) == (code, passing, status)
    assert fault.detail == error["message"]
    assert fault.message.startswith(str(code.label)) or code == ErrorCode.INVALID_INPUT


@pytest.mark.parametrize("body", [b"<html>Bad gateway</html>", b'"text"', b"{}", b"", b'{"error": "plain"}'])
def test_bodies_of_any_form_are_understood(body: bytes) -> None:
    assert of_response(502, {}, body).code == ErrorCode.LLM_UNAVAILABLE


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "inf"}, None),
    ],
)
def test_how_long_a_provider_wants_to_be_left_alone(headers: dict[str, str], seconds: float | None) -> None:
    assert of_response(429, headers, b"{}").retry_after == seconds
