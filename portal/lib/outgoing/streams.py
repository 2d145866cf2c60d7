"""Connections of asynchronous clients, which live long and carry many requests: for aiohttp and for httpx.

A client is made for one policy, private addresses allowed or not, so that no connection that one of them
opened is used by the other. Before each request: `check` its address, which also names addresses without
a name server; then these ask the name server once and dial what it said.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from typing import Any

import aiohttp
import httpcore
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult

from portal.lib.outgoing.destinations import Refused, admitted, check
from portal.lib.outgoing.networks import Reach, reach
from portal.lib.outgoing.requests import tls


def session(*, allow_private: bool, keepalive_seconds: float, connect_seconds: float) -> aiohttp.ClientSession:
    """A client of aiohttp that dials only what may be dialled, without limits of size or in all.

    Proxies of the environment are not used: one would resolve names by itself. Say `allow_redirects=False`
    with each request, and `check` its address before.
    """
    connector = aiohttp.TCPConnector(
        limit=0,
        keepalive_timeout=keepalive_seconds,
        resolver=_Resolver(allow_private),
        socket_factory=_Sockets(allow_private),
    )
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_seconds),
        trust_env=False,
        skip_auto_headers=("User-Agent",),
    )


async def look_up(host: str, port: int, family: int = socket.AF_UNSPEC) -> list[tuple[int, str]]:
    loop = asyncio.get_running_loop()
    rows = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
    return list(dict.fromkeys((int(row[0]), str(row[4][0])) for row in rows))


class _Resolver(AbstractResolver):
    """Gives aiohttp only addresses that may be dialled; a `Refused` leaves it as the cause of a DNS error."""

    def __init__(self, allow_private: bool) -> None:
        self._allow_private = allow_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await look_up(host, port, family)
        usable = set(admitted(host, [address for _family, address in found], allow_private=self._allow_private))
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=kind,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, address in found
            if address in usable
        ]

    async def close(self) -> None:
        pass


class _Sockets:
    """The last look: at the very address that is dialled, whoever found it."""

    def __init__(self, allow_private: bool) -> None:
        self._usable = {Reach.PUBLIC, Reach.PRIVATE} if allow_private else {Reach.PUBLIC}

    def __call__(self, info: Any) -> socket.socket:
        family, kind, protocol, _name, address = info
        if reach(ipaddress.ip_address(address[0])) not in self._usable:
            raise Refused(f"{address[0]} may not be dialled")
        return socket.socket(family, kind, protocol)


class Transport(httpx.AsyncHTTPTransport):
    """For httpx: checks each request's address, dials only what may be dialled, and passes no redirect on.

    A redirect would take headers with keys along that no client knows to be such.
    """

    def __init__(self, *, allow_private: bool) -> None:
        super().__init__(verify=tls(), trust_env=False)
        self._allow_private = allow_private
        # httpx has no parameter for how connections are made, while its pool has one.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls(), max_connections=None, network_backend=_Backend(allow_private)
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        check(str(request.url), allow_private=self._allow_private)
        response = await super().handle_async_request(request)
        if response.has_redirect_location:
            del response.headers["Location"]
        return response


class _Backend(httpcore.AnyIOBackend):
    def __init__(self, allow_private: bool) -> None:
        self._allow_private = allow_private

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                return await self._first_that_answers(host, port, local_address, socket_options)
        except TimeoutError as exc:
            raise httpcore.ConnectTimeout from exc

    async def _first_that_answers(
        self,
        host: str,
        port: int,
        local_address: str | None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            found = await look_up(host, port)
        except (OSError, UnicodeError) as exc:
            raise httpcore.ConnectError(str(exc)) from exc
        failed: httpcore.ConnectError | None = None
        for address in admitted(host, [each for _family, each in found], allow_private=self._allow_private):
            try:
                return await super().connect_tcp(address, port, None, local_address, socket_options)
            except httpcore.ConnectError as exc:
                failed = exc
        raise failed or httpcore.ConnectError("no address")
