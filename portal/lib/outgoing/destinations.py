"""Addresses that a person typed in, read so that what is checked is what is dialled.

Readers of addresses differ: in what ends a host, in numbers that are IPv4 addresses in disguise, in
letters that are digits. So what can be read in two ways is refused, and clients are given the address
in one plain form: lower case, ASCII, an IP address as everybody writes it.
"""

import functools
import ipaddress
import re
from dataclasses import dataclass

import idna
from django.utils.translation import gettext as _

from portal.lib.outgoing.networks import Address, Reach, reach

MAX_URL = 2000
MAX_HOST = 253
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[^\s/?#@:\[\]\\%]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[!-\"$-\[\]-~]*)?",  # printable ASCII, but neither a fragment nor a backslash
    re.ASCII | re.IGNORECASE,
)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
# What the last part of an IPv4 address may look like to somebody (WHATWG URL, "ends in a number").
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_SCHEMES = {"http": 80, "https": 443}
# Names that mean something near: RFC 6761, 6762, 8375, ICANN's "internal", and what resolvers make of localhost.
_NEAR = {"localhost", "localdomain", "local", "internal", "arpa"}


class Unreachable(Exception):
    """No usable answer came; the message is a plain sentence."""


class Refused(Unreachable, OSError):
    """A request may not go there. An OSError too, as clients expect one where a connection fails."""


class BadAddress(Refused):
    """Not an address, or one that can be read in two ways."""


@dataclass(frozen=True)
class Destination:
    """Where a request goes: `url` in its plain form, and what it consists of. `ip` where it names no host."""

    url: str
    scheme: str
    host: str
    port: int
    ip: Address | None

    @property
    def is_near(self) -> bool:
        """Whether the name alone says that it is in a private network: `localhost`, `ollama`, `nas.local`."""
        labels = self.host.split(".")
        return self.ip is None and (len(labels) == 1 or labels[-1] in _NEAR)


@functools.lru_cache(maxsize=512)
def parse(url: str) -> Destination:
    """Read an http(s) address. Raises `BadAddress` for everything that two readers might read differently."""
    found = _URL.fullmatch(url) if len(url) <= MAX_URL else None
    if found is None:
        raise _bad()
    scheme = found["scheme"].lower()
    port = _SCHEMES[scheme] if found["port"] is None else int(found["port"])
    if not 0 < port < 65536:
        raise _bad()
    host, ip = _host(found["host"])
    named = f"[{host}]" if isinstance(ip, ipaddress.IPv6Address) else host
    suffix = "" if port == _SCHEMES[scheme] else f":{port}"
    return Destination(f"{scheme}://{named}{suffix}{found['path'] or ''}", scheme, host, port, ip)


def check(url: str, *, allow_private: bool = False) -> Destination:
    """Read an address and judge it as far as that is possible without asking a name server.

    Raises `Refused`, with a sentence for people.
    """
    destination = parse(url)
    if destination.ip is not None:
        _judge(destination.host, reach(destination.ip), allow_private)
    elif destination.is_near:
        _judge(destination.host, Reach.PRIVATE, allow_private)
    return destination


def admitted(host: str, addresses: list[str], *, allow_private: bool) -> list[str]:
    """Of what a name server said of `host`, the addresses that may be dialled. Raises `Refused`.

    All have to be public, unless private ones are allowed: a name that is both near and far is no accident.
    """
    judged = [(address, reach(ipaddress.ip_address(address))) for address in addresses]
    worst = {verdict for _address, verdict in judged}
    if not allow_private:
        for verdict in (Reach.PRIVATE, Reach.NEVER):
            if verdict in worst:
                _judge(host, verdict, allow_private)
    usable = [address for address, verdict in judged if verdict is not Reach.NEVER]
    if judged and not usable:
        _judge(host, Reach.NEVER, allow_private)
    return usable


def _judge(host: str, verdict: Reach, allow_private: bool) -> None:
    if verdict is Reach.NEVER:
        raise Refused(_("%(host)s is an address to which no request goes.") % {"host": host})
    if verdict is Reach.PRIVATE and not allow_private:
        raise Refused(_("%(host)s is in a private network. An admin can allow it on the provider.") % {"host": host})


def _host(raw: str) -> tuple[str, Address | None]:
    try:
        if raw.startswith("["):
            ip6 = ipaddress.IPv6Address(raw[1:-1])
            return str(ip6), ip6
        name = raw.lower()
        if not name.isascii():
            if any(label.isnumeric() for label in name.split(".")):
                raise _bad()
            name = idna.encode(name, strict=True).decode("ascii")
        labels = name.split(".")
        if len(name) > MAX_HOST or not all(_LABEL.fullmatch(label) for label in labels):
            raise _bad()
        if _NUMBER.fullmatch(labels[-1]):
            ip4 = ipaddress.IPv4Address(name)
            return str(ip4), ip4
        for label in labels:
            if label.startswith("xn--"):
                idna.ulabel(label)
    except (ValueError, UnicodeError) as exc:  # idna's errors are UnicodeErrors
        raise _bad() from exc
    return name, None


def _bad() -> BadAddress:
    return BadAddress(_("Give an address like https://api.example.com/v1"))
