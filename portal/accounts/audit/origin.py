"""From where, and with what, the current request came: known to whoever records, without being handed down."""

from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from portal.accounts.models import User


@dataclass(frozen=True)
class Origin:
    """`credential` is `Credential.label`, or `command` of a management command, or `link` of a signed link.

    `actor` is who asks, for what is recorded without being told (`following`).
    """

    actor: User | None = None
    address: str | None = None
    user_agent: str = ""
    credential: str = ""


_UNKNOWN = Origin()
_origin: ContextVar[Origin] = ContextVar("audit_origin", default=_UNKNOWN)


def current_origin() -> Origin:
    return _origin.get()


def set_origin(**facts: Any) -> None:
    """Add to what is known of the current request: `actor`, `address`, `user_agent`, `credential`."""
    _origin.set(replace(_origin.get(), **facts))
