"""What holds the audit log together: HMACs over its rows, with keys that are not in the database.

A row gets two. `mac` stands on it from the moment it is written and covers all that it says, so that
nobody without the key can change an entry that waits for its number, or slip one in. `digest` is given
with the number and covers the row whole, its `mac`, and the digest of the row before it: sealed rows
can be neither changed, taken away, added, moved nor renumbered unseen. Where the chain ends is kept
outside of the database (`portal.accounts.audit.heads`), so that its tail cannot be cut off unseen.

What this does not show: an entry that was deleted within the second or so before it got its number,
and a refusal of the running minute whose count was put back to an earlier one. Whoever has AUDIT_KEY
can write any history they like.

All keys are derived from AUDIT_KEY by HKDF-SHA256 (RFC 5869), one for each use. What is signed is JSON
with sorted names and without blanks, so that it is the same whatever the database makes of it.
"""

import functools
import hashlib
import hmac
import json
import uuid
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

from portal.accounts.models import AuditEntry

VERSION = 1
_TEXTS = (
    "action", "outcome", "actor_name", "credential", "user_agent", "target_kind", "target_id", "target_name", "alike",
)  # fmt: skip


@functools.lru_cache(maxsize=32)
def _derived(secret: str, use: str) -> bytes:
    derive = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=f"agent-portal audit {use} v{VERSION}".encode())
    return derive.derive(secret.encode())


def sign(use: str, facts: Any) -> str:
    """HMAC-SHA256 of `facts` (JSON values), in hex, with the key for this `use`."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return hmac.new(_derived(settings.AUDIT_KEY, use), text.encode(), hashlib.sha256).hexdigest()


def key_id() -> str:
    """Names the key without telling it, so that a wrong AUDIT_KEY is not taken for a forged log."""
    return sign("key id", "")[:16]


def said(entry: AuditEntry) -> dict[str, Any]:
    """All that an entry says, whether it is sealed yet or not. `at` in UTC, to the microsecond."""
    at = entry.at.astimezone(UTC).isoformat(timespec="microseconds") if isinstance(entry.at, datetime) else entry.at
    return {
        "v": VERSION,
        "uid": str(entry.uid),
        "at": at,
        "count": entry.count,
        "actor_id": str(entry.actor_id) if entry.actor_id else None,
        "address": entry.address,
        "before": entry.before,
        "after": entry.after,
        **{name: getattr(entry, name) for name in _TEXTS},
    }


def mac_of(entry: AuditEntry) -> str:
    """What stands on an entry from the moment it is written."""
    return sign("entry", said(entry))


def digest_of(entry: AuditEntry, *, chain_id: uuid.UUID, previous: str) -> str:
    """What seals an entry that has its number, after the row whose digest is `previous`."""
    place = {"chain": str(chain_id), "previous": previous, "number": entry.number, "id": entry.pk, "mac": entry.mac}
    return sign("chain", {**said(entry), **place})


def same(one: Any, other: str) -> bool:
    """Whether two digests are equal, in a time that does not tell where they differ."""
    return isinstance(one, str) and hmac.compare_digest(one.encode(), other.encode())
