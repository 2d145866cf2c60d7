"""Single requests to addresses that a person typed in, from code that is not asynchronous."""

import functools
import math
import socket
import ssl
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import httpcore
import httpx
from django.utils.translation import gettext as _

from portal.lib.outgoing.destinations import Unreachable, admitted, check

MAX_BYTES = 4 * 1024 * 1024
CONNECT_SECONDS = 5.0
TOTAL_SECONDS = 30.0


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def get(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    allow_private: bool = False,
    timeout: float = 10,
    total: float = TOTAL_SECONDS,
) -> Answer:
    """GET `url`. Follows no redirect, reads at most 4 MB, waits `timeout` seconds for each step, `total` in all.

    Goes to private addresses only where that is allowed. Raises `Unreachable`, and of it `Refused`.
    """
    return _request("GET", url, headers, allow_private, timeout, total)


def post(
    url: str,
    body: Any,
    *,
    headers: Mapping[str, str] | None = None,
    allow_private: bool = False,
    timeout: float = 10,
    total: float = TOTAL_SECONDS,
) -> Answer:
    """POST `body` as JSON to `url`; else like `get`."""
    return _request("POST", url, headers, allow_private, timeout, total, body)


def _request(
    method: str,
    url: str,
    headers: Mapping[str, str] | None,
    allow_private: bool,
    timeout: float,
    total: float,
    body: Any = None,
) -> Answer:
    destination = check(url, allow_private=allow_private)
    limits = httpx.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS))
    transport = Transport(allow_private=allow_private, deadline=monotonic() + total)
    content = bytearray()
    try:
        with (
            httpx.Client(timeout=limits, transport=transport, follow_redirects=False, trust_env=False) as client,
            client.stream(
                method, destination.url, headers={"Accept-Encoding": "identity", **(headers or {})}, json=body
            ) as response,
        ):
            # As it came: what is compressed nevertheless might be a million times as long.
            for chunk in response.iter_raw():
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
    except httpx.LocalProtocolError as exc:  # its words may hold a header, and so a key
        raise Unreachable(_("The request cannot be sent: a header has characters that it may not have.")) from exc
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as exc:
        raise Unreachable(_("The request failed: %(why)s") % {"why": exc}) from exc


@functools.cache
def tls() -> ssl.SSLContext:
    """Which certificates are trusted: the usual ones, or those that `SSL_CERT_FILE` names."""
    return httpx.create_ssl_context()


class Transport(httpx.HTTPTransport):
    """For httpx: checks each request's address, dials only what may be dialled, and passes no redirect on.

    `deadline` (of `time.monotonic`) ends whatever is under way. A redirect would take headers with keys
    along that no client knows to be such.
    """

    def __init__(self, *, allow_private: bool, deadline: float = math.inf) -> None:
        super().__init__(verify=tls(), trust_env=False)
        self._allow_private = allow_private
        # httpx has no parameter for how connections are made, while its pool has one.
        self._pool = httpcore.ConnectionPool(ssl_context=tls(), network_backend=_Backend(allow_private, deadline))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        check(str(request.url), allow_private=self._allow_private)
        response = super().handle_request(request)
        if response.has_redirect_location:
            del response.headers["Location"]
        return response


class _Backend(httpcore.SyncBackend):
    """Asks the name server once, and connects to what it said and nothing else; until the deadline."""

    def __init__(self, allow_private: bool, deadline: float) -> None:
        self._allow_private = allow_private
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        until = min(self._deadline, monotonic() + (timeout or CONNECT_SECONDS))
        found = look_up(host, port, seconds=until - monotonic())
        failed: httpcore.ConnectError | httpcore.ConnectTimeout | None = None
        for address in admitted(host, found, allow_private=self._allow_private):
            left = until - monotonic()
            if left <= 0:
                break
            try:
                stream = super().connect_tcp(address, port, left, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                failed = exc
            else:
                return _Stream(stream, self._deadline)
        raise failed or httpcore.ConnectTimeout()


class _Stream(httpcore.NetworkStream):
    """A connection that ends at a deadline, however slowly the other side drips."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def _left(self, timeout: float | None, late: type[Exception]) -> float | None:
        left = self._deadline - monotonic()
        if left <= 0:
            raise late
        shorter = left if timeout is None else min(timeout, left)
        return None if shorter == math.inf else shorter

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def look_up(host: str, port: int, *, seconds: float) -> list[str]:
    """The addresses of a host, in the order in which to try them. Raises httpcore's errors of a connection.

    On a thread that nobody waits for longer than `seconds`: name servers that are silent take minutes.
    """
    found: Future[list[str]] = Future()

    def ask() -> None:
        try:
            rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.set_result(list(dict.fromkeys(str(row[4][0]) for row in rows)))
        except (OSError, UnicodeError) as exc:
            found.set_exception(exc)

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    try:
        return found.result(max(0.0, seconds))
    except TimeoutError as exc:
        raise httpcore.ConnectTimeout("no answer of the name server") from exc
    except (OSError, UnicodeError) as exc:
        raise httpcore.ConnectError(str(exc)) from exc
