"""Requests to addresses that a person typed in: the one place they leave from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from django.utils.translation import gettext as _

MAX_BYTES = 4 * 1024 * 1024


class Unreachable(Exception):
    """No usable answer came; the message is a plain sentence."""


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def get(url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 10) -> Answer:
    """GET `url`. Follows no redirect, reads at most 4 MB, waits `timeout` seconds for each step.

    Raises `Unreachable`.
    """
    return _request("GET", url, headers=headers, timeout=timeout)


def post(url: str, body: Any, *, headers: Mapping[str, str] | None = None, timeout: float = 10) -> Answer:
    """POST `body` as JSON to `url`; else like `get`."""
    return _request("POST", url, headers=headers, timeout=timeout, json=body)


def _request(method: str, url: str, *, headers: Mapping[str, str] | None, timeout: float, json: Any = None) -> Answer:
    limits = httpx.Timeout(timeout, connect=min(timeout, 5))
    content = bytearray()
    try:
        with (
            httpx.Client(timeout=limits, follow_redirects=False) as client,
            client.stream(method, url, headers=headers, json=json) as response,
        ):
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > MAX_BYTES:
                    raise Unreachable(_("The answer is too long to be what was asked for."))
            return Answer(response.status_code, bytes(content), dict(response.headers))
    except httpx.ConnectTimeout as exc:
        raise Unreachable(_("Nobody answers at this address.")) from exc
    except httpx.TimeoutException as exc:
        raise Unreachable(_("The server did not answer in time.")) from exc
    except httpx.ConnectError as exc:
        raise Unreachable(_("The connection was refused, or the address is unknown: %(why)s") % {"why": exc}) from exc
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as exc:
        raise Unreachable(_("The request failed: %(why)s") % {"why": exc}) from exc
