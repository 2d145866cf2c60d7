"""Which addresses a request may go to.

Explicit rather than `ipaddress.is_global`, which changed its mind between releases of Python. After
IANA's registries of special-purpose addresses (RFC 6890 and its successors): what is not listed there
is public.
"""

import enum
import ipaddress
from collections.abc import Iterable
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class Reach(enum.Enum):
    """How far away an address is."""

    PUBLIC = "public"
    PRIVATE = "private"  # in the operator's own networks: where an admin allows it
    NEVER = "never"  # nobody is there whom a person could mean: cloud metadata, multicast, reserved…


def _networks(names: Iterable[str]) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(name) for name in names)


# Read from the first to the last; what stands in none of them is public (IPv4) or nowhere (IPv6).
_RULES: tuple[tuple[Reach, tuple[Network, ...]], ...] = (
    (
        Reach.NEVER,
        _networks(
            [
                # What clouds tell their machines, keys included: AWS, Google, Azure and others; Azure's wire
                # server; Alibaba; AWS and Google over IPv6.
                *("169.254.0.0/16", "168.63.129.16/32", "100.100.100.200/32", "fd00:ec2::/32", "fd20:ce::/32"),
                *("0.0.0.0/8", "192.0.0.0/24", "192.88.99.0/24", "192.31.196.0/24", "192.52.193.0/24"),
                *("192.175.48.0/24", "224.0.0.0/4", "240.0.0.0/4"),
            ]
        ),
    ),
    (
        Reach.PRIVATE,
        _networks(
            [
                *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
                "100.64.0.0/10",  # of carriers, and of overlay networks
                "198.18.0.0/15",  # for measurements, and what some VPNs answer for every name
                # For documentation, and what people number networks with that nobody is to reach.
                *("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20"),
                *("::1/128", "fc00::/7"),
            ]
        ),
    ),
    (
        Reach.NEVER,
        _networks(
            [
                # Teredo, benchmarks, ORCHID and other protocols; 6to4; segment routing; AS112.
                *("2001::/23", "2002::/16", "5f00::/16", "2620:4f:8000::/48"),
            ]
        ),
    ),
    (Reach.PUBLIC, _networks(["0.0.0.0/0", "2000::/3"])),
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address, as a network without IPv4 says it


def reach(address: Address) -> Reach:
    """How far away `address` is; an IPv6 address that carries an IPv4 one is judged by it or refused."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return Reach.NEVER
        if address in _NAT64:
            return reach(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    for verdict, networks in _RULES:
        if any(address in network for network in networks if network.version == address.version):
            return verdict
    return Reach.NEVER
