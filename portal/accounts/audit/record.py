"""Writing an entry."""

import ipaddress
from collections.abc import Mapping
from typing import Any

from django.contrib.auth.models import AnonymousUser
from django.db import models, transaction

from portal.accounts.audit import keeper, masks, sealing
from portal.accounts.audit.origin import current_origin
from portal.accounts.models import AuditEntry, User
from portal.lib import rows


def record(
    action: str,
    *,
    by: User | AnonymousUser | None,
    target: models.Model | None = None,
    outcome: AuditEntry.Outcome = AuditEntry.Outcome.DONE,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    name: str = "",
    target_kind: str = "",
) -> AuditEntry:
    """Say that `by` did `action` (`crew.deleted`, `user.signed_in`) to `target`. One INSERT, no lock.

    Belongs in the transaction of the change, so that neither is there without the other. `before` and
    `after` hold the fields that changed, as `masks.state` and `masks.changes` give them; secrets are
    masked by name and long texts cut. `name` names the target where its text does not (or there is no
    row, then with `target_kind`).
    """
    entry = made(
        action,
        by=by,
        target=target,
        outcome=outcome,
        before=before,
        after=after,
        name=name,
        target_kind=target_kind,
    )
    rows.insert([entry])
    if keeper.is_on():
        transaction.on_commit(keeper.wake, robust=True)
    return entry


def made(
    action: str,
    *,
    by: User | AnonymousUser | None,
    target: models.Model | None = None,
    outcome: AuditEntry.Outcome = AuditEntry.Outcome.DONE,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    name: str = "",
    target_kind: str = "",
    address: str | None = None,
) -> AuditEntry:
    """An entry as `record` writes it, with its `mac`, not stored yet."""
    origin = current_origin()
    actor = by if isinstance(by, User) else None
    entry = AuditEntry(
        action=action,
        outcome=AuditEntry.Outcome(outcome).value,
        actor_id=actor.pk if actor else None,
        actor_name=masks.text(actor.get_username(), 120) if actor else "",
        credential=masks.text(origin.credential, 70),
        address=plain_address(address or origin.address),
        user_agent=masks.text(origin.user_agent[:270], 270),
        target_kind=target_kind or (target._meta.model_name or "" if target is not None else ""),
        target_id=str(target.pk)[:100] if target is not None else "",
        target_name=masks.text(name or (str(target) if target is not None else ""), 170),
        before=masks.cleaned(before or {}),
        after=masks.cleaned(after or {}),
    )
    entry.mac = sealing.mac_of(entry)
    return entry


def plain_address(address: str | None) -> str | None:
    """An address in the one form in which every database gives it back; None for what is none."""
    try:
        found = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return None
    return str(getattr(found, "ipv4_mapped", None) or found)
