"""The one appender: gives the entries that wait their numbers, and chains them.

Whoever holds the lock of the head row appends; however many processes want to, one does, and the others
find less to do. Numbers are given in the order of sealing: an entry whose transaction ended late gets a
later number than its id suggests, and none is left out. A crash in between leaves nothing half done,
since numbers and head are written in one transaction.
"""

import logging
from datetime import timedelta

from django.db import connection, transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from portal.accounts.audit import heads, sealing
from portal.accounts.models import AuditEntry, AuditHead

logger = logging.getLogger(__name__)

# Rows of one transaction: on SQLite nobody else writes meanwhile, so it must be short (some 10 ms).
BATCH = 200
# Refusals are summed up for a minute, so they wait until it is over everywhere.
SUMMED_UP_FOR = timedelta(seconds=75)


def waiting() -> "QuerySet[AuditEntry]":
    """The entries that can be sealed now, in the order in which they are."""
    is_complete = Q(alike=None) | Q(at__lt=timezone.now() - SUMMED_UP_FOR)
    return AuditEntry.objects.filter(is_complete, number=None).order_by("id")


def seal(batch: int = BATCH) -> int:
    """Seal all that waits, in short transactions of its own; how many entries that were.

    Belongs outside of any transaction. Then the head is kept outside of the database, also when
    others have moved it on.
    """
    total = 0
    while waiting().exists():  # asked apart: nobody takes the lock to find nothing
        done = _seal_batch(batch)
        total += done
        if not done:
            break
    heads.keep()
    return total


def _seal_batch(size: int) -> int:
    with transaction.atomic():
        head = _locked_head()
        # Whoever adds to a sum of refusals holds its row: that one has its turn later.
        entries = list(
            waiting().select_for_update(skip_locked=connection.features.has_select_for_update_skip_locked)[:size]
        )
        for entry in entries:
            if not sealing.same(entry.mac, sealing.mac_of(entry)):
                logger.error("audit: entry with id %s was changed before it was sealed", entry.pk)
            entry.number = head.number = head.number + 1
            head.digest = entry.digest = sealing.digest_of(entry, chain_id=head.chain_id, previous=head.digest)
        table = connection.ops.quote_name(AuditEntry._meta.db_table)
        with connection.cursor() as cursor:
            cursor.executemany(
                f"UPDATE {table} SET number = %s, digest = %s WHERE id = %s",  # noqa: S608 - our own table
                [(entry.number, entry.digest, entry.pk) for entry in entries],
            )
        head.save()
    return len(entries)


def _locked_head() -> AuditHead:
    """The head, locked. One that does not fit to the rows is put right from them, and the fault noted.

    What was done to it stays to be seen: the head that was kept outside tells where it stood.
    """
    rows = AuditHead.objects.select_for_update().filter(pk=1)
    head = rows.first()
    if head is None:
        AuditHead.objects.bulk_create([AuditHead()], ignore_conflicts=True)  # another process may be as quick
        head = rows.get()
    last = AuditEntry.objects.exclude(number=None).order_by("-number").only("number", "digest").first()
    number, digest = (last.number or 0, last.digest) if last else (0, "")
    if (head.number, head.digest) != (number, digest):
        logger.error("audit: the head in the database says %d, the rows end with %d", head.number, number)
        heads.note_conflict(head)
        head.number, head.digest = number, digest
    return head
