"""Where a request comes from."""

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from django.conf import settings


def client_address(peer: str | None, forwarded: str = "") -> str | None:
    """The address of the client, as far as it can be known; None when there is none (a Unix socket).

    `peer` is the other end of the connection. `forwarded`, the header X-Forwarded-For, is believed
    from the right for as long as the hop that wrote it is one of PORTAL_TRUSTED_PROXIES: what a client
    claims about itself never counts.
    """
    hops = [part.strip() for part in forwarded.split(",") if part.strip()]
    address = _parsed(peer)
    while address is not None and hops and _is_trusted(address):
        before = _parsed(hops.pop())
        if before is None:
            break
        address = before
    return str(address) if address else None


def address_of(meta: Mapping[str, Any]) -> str | None:
    """The client's address of a Django request, from its `META`."""
    return client_address(meta.get("REMOTE_ADDR"), meta.get("HTTP_X_FORWARDED_FOR", ""))


def _parsed(text: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text or "")
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def _is_trusted(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    networks: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network] = settings.TRUSTED_PROXIES
    return any(address in network for network in networks)
