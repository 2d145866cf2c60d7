"""Addresses that are to trick the guard for outgoing requests, and a server that notices when one does.

Every payload leads, for some reader of addresses, to a place inside: the canary, which listens on all
addresses of this machine, or one that nothing may reach from here. `names` says what the name server
answers for the hosts that need one.
"""

import contextlib
import ipaddress
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import psutil

PUBLIC = "93.184.215.14"  # an address out there, which no test dials


class Canary:
    """Listens on every address of this machine, IPv4 and IPv6, and counts who comes. A context."""

    def __init__(self) -> None:
        self._listener = _everywhere()
        self.port: int = self._listener.getsockname()[1]
        self.visits: list[str] = []
        self._thread = threading.Thread(target=self._serve, name="canary", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                connection, _peer = self._listener.accept()
            except OSError:
                return
            self.visits.append(str(connection.getsockname()[0]))
            with connection, contextlib.suppress(OSError):
                connection.settimeout(1)
                connection.recv(65536)
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 27\r\n"
                    b'Connection: close\r\n\r\n{"data": [{"id": "inner"}]}'
                )


def _everywhere() -> socket.socket:
    try:
        listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    except OSError:  # no IPv6 here
        listener = socket.create_server(("0.0.0.0", 0))  # noqa: S104 - the tests' own
    return listener


def own_address() -> str:
    """An IPv4 address of this machine beside loopback; loopback's second one where there is none."""
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family == socket.AF_INET and not address.address.startswith("127."):
                return address.address
    return "127.0.0.2"


@dataclass(frozen=True)
class Payload:
    """An address, and what name servers say of its hosts; of all others, that they are here."""

    name: str
    url: str
    names: dict[str, list[str]] = field(default_factory=dict)

    def look_up(self, host: str) -> list[str]:
        return self.names.get(host, ["127.0.0.1"])


def payloads(port: int) -> list[Payload]:
    """All of them, against a canary on `port`; each name once."""
    found = [*_ipv4(port), *_ipv6(port), *_near(port), *_readings(port), *_resolved(port)]
    assert len({payload.name for payload in found}) == len(found)
    return found


_INSIDE = {
    "loopback": "127.0.0.1",
    "loopback-2": "127.0.0.2",
    "metadata": "169.254.169.254",
    "ten": "10.0.0.1",
    "home": "192.168.1.1",
    "middle": "172.16.0.1",
    "carrier": "100.64.0.1",
    "zero": "0.0.0.0",  # noqa: S104 - no bind
}


def _digits(text: str, zero: int) -> str:
    return "".join(chr(zero + int(c)) if c.isdigit() else c for c in text)


def _circled(text: str) -> str:
    return "".join("⓪①②③④⑤⑥⑦⑧⑨"[int(c)] if c.isdigit() else c for c in text)


def _writings(address: str) -> dict[str, str]:
    """An IPv4 address in every way that some reader takes for it."""
    parts = [int(part) for part in address.split(".")]
    number = int(ipaddress.IPv4Address(address))
    return {
        "plain": address,
        "decimal": str(number),
        "hex": hex(number),
        "octal": f"0{number:o}",
        "dotted hex": ".".join(hex(part) for part in parts),
        "dotted octal": ".".join(f"0{part:o}" for part in parts),
        "octal with zeros": ".".join(f"0000{part:o}" for part in parts),
        "leading zeros": ".".join(f"{part:03d}" for part in parts),
        "mixed": f"{hex(parts[0])}.0{parts[1]:o}.{parts[2]}.{parts[3]}",
        "two parts": f"{parts[0]}.{number & 0xFFFFFF}",
        "three parts": f"{parts[0]}.{parts[1]}.{number & 0xFFFF}",
        "too large": str(number + 2**32),
        "trailing dot": f"{address}.",
        "percent": "".join(f"%{ord(c):02x}" for c in address),
        "percent dots": address.replace(".", "%2e"),
        "full width": _digits(address, 0xFF10),
        "arabic": _digits(address, 0x0660),
        "mathematical": _digits(address, 0x1D7CE),
        "circled": _circled(address),
        "ideographic dots": address.replace(".", "。"),
        "wide dots": address.replace(".", "．"),
        "half-wide dots": address.replace(".", "｡"),
        "in brackets": f"[{address}]",
    }


def _ipv4(port: int) -> Iterator[Payload]:
    for place, address in {**_INSIDE, "own": own_address()}.items():
        for writing, host in _writings(address).items():
            if place in {"loopback", "metadata", "own"} or writing in {"plain", "decimal", "dotted octal", "circled"}:
                yield Payload(f"ipv4 {place} {writing}", f"http://{host}:{port}/v1")


def _ipv6(port: int) -> Iterator[Payload]:
    literal = {
        "loopback": "::1", "loopback in full": "0:0:0:0:0:0:0:1", "loopback padded": "0000::0001",
        "unspecified": "::", "link local": "fe80::1", "site local": "fec0::1", "unique local": "fc00::1",
        "unique local d": "fd12:3456:789a::1", "aws metadata": "fd00:ec2::254", "google metadata": "fd20:ce::254",
        "multicast": "ff02::1", "documentation": "2001:db8::1", "documentation too": "3fff::1",
        "benchmark": "2001:2::1",
        "orchid": "2001:20::1", "teredo": "2001:0:4136:e378:8000:63bf:3fff:fdd2", "discard": "100::1",
        "zone": "fe80::1%eth0", "zone quoted": "fe80::1%25lo", "loopback with a zone": "::1%lo",
    }  # fmt: skip
    for name, host in literal.items():
        yield Payload(f"ipv6 {name}", f"http://[{host}]:{port}/v1")
    for place in ("loopback", "metadata", "ten"):
        address = _INSIDE[place]
        high, low = divmod(int(ipaddress.IPv4Address(address)), 65536)
        for name, host in {
            "mapped": f"::ffff:{address}", "mapped hex": f"::ffff:{high:x}:{low:x}",
            "mapped in full": f"0:0:0:0:0:ffff:{high:x}:{low:x}", "translated": f"::ffff:0:{address}",
            "compatible": f"::{address}", "6to4": f"2002:{high:x}:{low:x}::1", "nat64": f"64:ff9b::{address}",
            "local nat64": f"64:ff9b:1::{high:x}:{low:x}", "isatap": f"fe80::5efe:{address}",
            "teredo": f"2001:0:0:0:0:0:{high ^ 0xFFFF:x}:{low ^ 0xFFFF:x}",
        }.items():  # fmt: skip
            yield Payload(f"ipv6 {place} {name}", f"http://[{host}]:{port}/v1")


def _near(port: int) -> Iterator[Payload]:
    names = [
        "localhost", "LOCALHOST", "LocalHost", "localhost.", "localhost.localdomain", "a.localhost", "a.b.localhost",
        "ip6-localhost", "ip6-loopback", "broadcasthost", "kubernetes", "metadata", "metadata.google.internal",
        "instance-data.ec2.internal", "host.docker.internal", "gateway.docker.internal", "nas.local",
        "router.home.arpa", "ollama", "db", "1.0.0.127.in-addr.arpa", "ⓛocalhost", "ℓocalhost",
        "ｌｏｃａｌｈｏｓｔ", "loc\u00adalhost",
        "local\u200bhost", "localhost\u3002", "ſocalhost", "ʟocalhost", "xn--localhost", "local_host",
        socket.gethostname(),
    ]  # fmt: skip
    for number, name in enumerate(names):
        yield Payload(f"name {number} {name.encode('unicode_escape').decode()}", f"http://{name}:{port}/v1")


def _readings(port: int) -> Iterator[Payload]:
    """Addresses that readers cut into parts in different places."""
    inner, outer = f"127.0.0.1:{port}", "api.example.com"
    for name, url in {
        "user": f"http://{outer}@{inner}/v1", "user and password": f"http://a:{outer}@{inner}/v1",
        "user with a port": f"http://{outer}:80@{inner}/v1", "two users": f"http://a@{outer}@{inner}/v1",
        "user behind": f"http://{inner}@{outer}/v1", "user in percent": f"http://{outer}%40{inner}/v1",
        "backslash": f"http://{inner}\\@{outer}/v1", "backslash behind": f"http://{outer}\\@{inner}/v1",
        "backslashes": f"http:\\\\{inner}\\v1", "backslash and slash": f"http:/\\{inner}/v1",
        "hash": f"http://{inner}#@{outer}/v1", "hash behind": f"http://{outer}#@{inner}/v1",
        "question": f"http://{inner}?@{outer}/v1", "question behind": f"http://{outer}?@{inner}/v1",
        "semicolon": f"http://{inner};@{outer}/v1", "comma": f"http://{outer},{inner}/v1",
        "space": f"http://{outer} {inner}/v1", "space within": f"http://127.0.0.1 :{port}/v1",
        "leading space": f" http://{inner}/v1", "tab": f"http://127.0.\t0.1:{port}/v1",
        "newline": f"http://127.0.0.1\n:{port}/v1", "carriage return": f"http://{inner}\r\n/v1",
        "injected header": f"http://{inner}/v1\r\nHost: {outer}", "null": f"http://127.0.0.1\x00.{outer}:{port}/v1",
        "null in percent": f"http://127.0.0.1%00.{outer}:{port}/v1", "bell": f"http://127.0.0.1\x07:{port}/v1",
        "no-break space": f"http://127.0.0.1\u00a0:{port}/v1", "wide slash": f"http://{inner}／@{outer}/v1",
        "account of": f"http://127.0.0.1℀.{outer}:{port}/v1", "wide at": f"http://{outer}＠{inner}/v1",
        "wide colon": f"http://127.0.0.1：{port}/v1", "right to left": f"http://\u202e127.0.0.1:{port}/v1",
        "byte order mark": f"\ufeffhttp://{inner}/v1", "brackets": f"http://[{outer}]@{inner}/v1",
        "half a bracket": f"http://[::1:{port}/v1", "bracket behind": f"http://::1]:{port}/v1",
        "two ports": f"http://127.0.0.1:{port}:80/v1", "port zero": "http://127.0.0.1:0/v1",
        "port too large": f"http://127.0.0.1:{port + 65536}/v1", "negative port": f"http://127.0.0.1:-{port}/v1",
        "port with plus": f"http://127.0.0.1:+{port}/v1", "port with zeros": f"http://127.0.0.1:000{port}/v1",
        "wide port": f"http://127.0.0.1:{_digits(str(port), 0xFF10)}/v1", "empty port": "http://127.0.0.1:/v1",
        "no slashes": f"http:{inner}/v1", "one slash": f"http:/{inner}/v1", "three slashes": f"http:///{inner}/v1",
        "four slashes": f"http:////{inner}/v1", "no scheme": f"//{inner}/v1", "bare": inner,
        "upper case": f"HTTP://{inner}/v1", "https": f"https://{inner}/v1", "long s": f"httpſ://{inner}/v1",
        "file": "file:///etc/passwd", "gopher": f"gopher://{inner}/_GET%20/", "dict": f"dict://{inner}/info",
        "ftp": f"ftp://{inner}/v1", "ws": f"ws://{inner}/v1", "unix": f"http+unix://{inner}/v1", "data": "data:,x",
        "javascript": f"javascript://{inner}/%0aalert(1)", "url of a url": f"url:http://{inner}/v1",
        "jar": f"jar:http://{inner}!/v1", "scheme with a tab": f"ht\ttp://{inner}/v1", "ldap": f"ldap://{inner}/v1",
        "dots in the path": f"http://127.0.0.1:{port}/../v1", "no host": f"http://:{port}/v1",
        "dot": f"http://.:{port}/v1", "two dots": f"http://127..1:{port}/v1", "dot first": f"http://.127.0.0.1:{port}/v1",
        "minus": f"http://-127.0.0.1:{port}/v1", "quoted": f'http://"127.0.0.1":{port}/v1',
        "variable": f"http://${{HOST}}127.0.0.1:{port}/v1", "long": f"http://{'a.' * 200}{inner}/v1",
    }.items():  # fmt: skip
        yield Payload(f"reading {name}", url)


def _resolved(port: int) -> Iterator[Payload]:
    """Names that are fine, and whose addresses are not."""
    for place, address in {
        **_INSIDE,
        "own": own_address(),
        "azure": "168.63.129.16",
        "alibaba": "100.100.100.200",
    }.items():
        yield Payload(f"dns {place}", f"http://{place}.example.com:{port}/v1", {f"{place}.example.com": [address]})
    for name, addresses in {
        "ipv6 loopback": ["::1"], "ipv6 mapped": ["::ffff:127.0.0.1"], "ipv6 nat64": ["64:ff9b::7f00:1"],
        "ipv6 link local": ["fe80::1%lo"], "ipv6 unique local": ["fd00::1"], "ipv6 metadata": ["fd00:ec2::254"],
        "ipv6 6to4": ["2002:7f00:1::1"], "broadcast": ["255.255.255.255"], "multicast": ["224.0.0.1"],
        "both, public first": [PUBLIC, "127.0.0.1"], "both, private first": ["127.0.0.1", PUBLIC],
        "both, other family": [PUBLIC, "::1"],
    }.items():  # fmt: skip
        yield Payload(f"dns {name}", f"http://inner.example.com:{port}/v1", {"inner.example.com": addresses})
    yield Payload(
        "dns in an address", f"http://127.0.0.1.example.com:{port}/v1", {"127.0.0.1.example.com": ["127.0.0.1"]}
    )
    yield Payload("dns international", f"http://bücher.example:{port}/v1", {"xn--bcher-kva.example": ["127.0.0.1"]})
