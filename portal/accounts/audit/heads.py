"""Where the chain ends, kept outside of the database and signed, so that its tail cannot be cut off unseen.

In PORTAL_DATA_DIR/audit: `head.json`, replaced at each sealing, and `heads.log`, to which a head is added
every hour or thousand entries, and whenever the database does not agree with what was kept. Each machine
that seals keeps its own. `manage.py verify_audit` holds all of them against the log; a head that was
exported can be held against it on any machine that has AUDIT_KEY.
"""

import contextlib
import fcntl
import json
import logging
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils import timezone

from portal.accounts.audit import sealing
from portal.accounts.models import AuditEntry, AuditHead

logger = logging.getLogger(__name__)

NOTED_EVERY = timedelta(hours=1)
NOTED_AFTER = 1000  # entries
TAIL = 8192  # bytes of the log's end in which its last line stands
SEALED, CONFLICT, ACCEPTED = "sealed", "conflict", "accepted"


class BadHead(Exception):
    """This is no head of an audit log that this AUDIT_KEY has signed."""


@dataclass(frozen=True)
class Head:
    """The end of a chain at a moment. `event`: why it was written down; `reason`: what a person said to it."""

    chain_id: uuid.UUID
    number: int
    digest: str
    at: datetime
    event: str = SEALED
    reason: str = ""

    def as_text(self) -> str:
        """One line of JSON with its signature."""
        facts = self._facts()
        return json.dumps({**facts, "signature": sealing.sign("head", facts)}, ensure_ascii=False)

    def _facts(self) -> dict[str, Any]:
        return {
            "v": sealing.VERSION,
            "chain": str(self.chain_id),
            "number": self.number,
            "digest": self.digest,
            "at": self.at.isoformat(),
            "event": self.event,
            "reason": self.reason,
            "key": sealing.key_id(),
        }

    @classmethod
    def from_text(cls, text: str) -> "Head":
        """The head in a line of JSON. Raises `BadHead`."""
        try:
            facts = json.loads(text)
            signature = facts.pop("signature")
            key = facts["key"]
            head = cls(
                uuid.UUID(facts["chain"]),
                int(facts["number"]),
                str(facts["digest"]),
                datetime.fromisoformat(facts["at"]),
                str(facts["event"]),
                str(facts["reason"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise BadHead("It is not the head of an audit log.") from exc
        if key != sealing.key_id():
            raise BadHead("It was signed with another AUDIT_KEY than the one that is set here.")
        if not sealing.same(signature, sealing.sign("head", facts)):
            raise BadHead("Its signature is wrong: it was changed.")
        return head


def folder() -> Path:
    return Path(settings.PORTAL_DATA_DIR) / "audit"


def stored() -> Head | None:
    """Where the database says that the chain ends; None before its first row."""
    row = AuditHead.objects.filter(pk=1).first()
    return Head(row.chain_id, row.number, row.digest, timezone.now()) if row else None


def kept() -> Head | None:
    """The newest head that this machine has kept; None when it has none. Raises `BadHead`."""
    try:
        return Head.from_text((folder() / "head.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def noted() -> Iterator[Head | BadHead]:
    """The lines of `heads.log`, from the first."""
    with contextlib.suppress(FileNotFoundError), (folder() / "heads.log").open(encoding="utf-8") as lines:
        for line in lines:
            try:
                yield Head.from_text(line)
            except BadHead as exc:
                yield exc


def agrees(head: Head) -> bool:
    """Whether the log still holds the row in which `head` ended."""
    now = AuditHead.objects.filter(pk=1, chain_id=head.chain_id)
    if head.number == 0:
        return now.exists()
    found = AuditEntry.objects.filter(number=head.number).values_list("digest", flat=True).first()
    return now.exists() and sealing.same(found, head.digest)


def keep() -> Head | None:
    """Write down where the chain ends now, unless that is written already; the head.

    What was kept before and the log does not hold any more is never overwritten: it is noted in
    `heads.log` first, where `verify_audit` finds it.
    """
    with _lock():
        head = stored()
        if head is None:
            return None
        try:
            old = kept()
        except BadHead as exc:
            logger.error("audit: the head that was kept cannot be used: %s", exc)
            (folder() / "head.json").replace(folder() / f"head-{timezone.now():%Y%m%dT%H%M%S%f}.bad")
            old = None
        if old is not None and (old.chain_id, old.number, old.digest) == (head.chain_id, head.number, head.digest):
            return head
        if old is not None and (old.number > head.number or not agrees(old)):
            logger.error(
                "audit: the log does not hold entry %d any more, with which it ended at %s", old.number, old.at
            )
            _note(Head(old.chain_id, old.number, old.digest, old.at, CONFLICT))
        _replace(head)
        if _is_due(head):
            _note(head)
            logger.info("audit: entry %d ends in %s", head.number, head.digest)
        return head


def accept(reason: str) -> Head | None:
    """Go on from where the log ends now, whatever was kept before: after a backup was put back. Says so for good."""
    with _lock():
        head = stored()
        if head is None:
            return None
        _note(Head(head.chain_id, head.number, head.digest, head.at, ACCEPTED, reason))
        _replace(head)
        return head


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """One writer at a time on this machine, so that no older head replaces a newer one."""
    folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(folder() / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _replace(head: Head) -> None:
    fresh = folder() / "head.json.new"
    fresh.write_text(head.as_text() + "\n", encoding="utf-8")
    fresh.chmod(0o600)
    fresh.replace(folder() / "head.json")


def note_conflict(row: AuditHead) -> None:
    """Note a head of the database that does not fit to its rows."""
    with _lock():
        _note(Head(row.chain_id, row.number, row.digest, timezone.now(), CONFLICT))


def _note(head: Head) -> None:
    fd = os.open(folder() / "heads.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, (head.as_text() + "\n").encode())
    finally:
        os.close(fd)


def _is_due(head: Head) -> bool:
    try:
        with (folder() / "heads.log").open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - TAIL))
            last = Head.from_text(log.read().splitlines()[-1].decode())
    except (FileNotFoundError, IndexError, BadHead, UnicodeDecodeError):
        return True
    return head.number - last.number >= NOTED_AFTER or head.at - last.at >= NOTED_EVERY or head.number < last.number
