"""How often something may happen, counted in the database: it holds across processes, without Redis.

    hit("sign-in:ann", limit=10, seconds=600)       exact: one statement each time
    take("user:1", limit=1200, seconds=60)          for every request: places are taken in advance, a block at once

Neither ever lets more than `limit` through in a window, whatever the number of processes and threads; a
window begins with the first that is counted in it. Call both outside of transactions: the counter's row
stays locked until they end.
"""

import ipaddress
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import connection
from django.db.models import F
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import RateWindow
from portal.lib.problems import Problem


class TooMany(Problem):
    """The limit is reached; `wait` says for how many seconds."""

    status = 429
    code = "rate_limited"

    def __init__(self, wait: int) -> None:
        super().__init__(
            _("Too many requests."), hint=_("Wait %(seconds)d seconds, then try again.") % {"seconds": wait}
        )
        self.wait = wait


# How long places that were taken in advance are good: no process acts on what it knew longer ago.
BLOCK_SECONDS = 1.0
# The most that is taken at once, of the limit: so much may lie unused with each process.
BLOCK_SHARE = 20
# Keys a process has places of, at most; whoever comes above that is counted one by one.
MAX_BLOCKS = 10_000
KEEP = timedelta(days=2)  # above the longest window that anybody counts in


def network_of(address: str | None) -> str:
    """What is counted for a client's address: itself, or the /64 of an IPv6 address, which one client owns whole."""
    if not address:
        return "unknown"
    parsed = ipaddress.ip_address(address)
    if parsed.version == 4:
        return str(parsed)
    return str(ipaddress.ip_network((parsed.packed[:8] + bytes(8), 64)))


def count(key: str, *, seconds: int, by: int = 1) -> tuple[int, int]:
    """Count `by` more of `key`; (how many in its window now, seconds until the window ends). One atomic statement."""
    now = timezone.now()
    total, ends = _count(key, seconds, by, now)
    return total, max(1, round((ends - now).total_seconds()))


def _count(key: str, seconds: int, by: int, now: datetime) -> tuple[int, datetime]:
    """How many there are now, and when the window ends."""
    table = connection.ops.quote_name(RateWindow._meta.db_table)
    began = now - timedelta(seconds=seconds)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} AS w (key, started_at, count) VALUES (%s, %s, %s) "  # noqa: S608 - our own table
            "ON CONFLICT (key) DO UPDATE SET "
            "count = CASE WHEN w.started_at <= %s THEN excluded.count ELSE w.count + excluded.count END, "
            "started_at = CASE WHEN w.started_at <= %s THEN excluded.started_at ELSE w.started_at END "
            "RETURNING count, started_at",
            [key[:100], now, by, began, began],
        )
        total, started = cursor.fetchone()
    started = RateWindow._meta.get_field("started_at").to_python(started)
    if timezone.is_naive(started):
        started = timezone.make_aware(started, timezone.get_default_timezone())
    return total, started + timedelta(seconds=seconds)


def hit(key: str, *, limit: int, seconds: int) -> None:
    """Count one more of `key`. Raises `TooMany` when there were more than `limit` in `seconds`."""
    total, left = count(key, seconds=seconds)
    if total > limit:
        raise TooMany(left)


def give_back(key: str) -> None:
    """Take back one that was counted before it was known to be harmless."""
    RateWindow.objects.filter(key=key[:100], count__gt=0).update(count=F("count") - 1)


def forget(key: str) -> None:
    """Begin `key` anew."""
    RateWindow.objects.filter(key=key[:100]).delete()


def clean() -> int:
    """Remove counters of windows that are long over; how many those were."""
    return RateWindow.objects.filter(started_at__lt=timezone.now() - KEEP).delete()[0]


@dataclass
class _Block:
    """Places of one key that this process has taken and not given away yet. Guarded by `lock`."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    left: int = 0
    used: int = 0  # since it was last filled
    good_until: float = 0.0  # by the monotonic clock
    ends: datetime | None = None  # the window that the places belong to


_blocks: dict[str, _Block] = {}
_swept_at = 0.0


def take(key: str, *, limit: int, seconds: int) -> None:
    """Count one more of `key`, mostly without asking the database. Raises `TooMany` as `hit` does.

    A process takes a few places at once and gives them away within a second: as many as it used the
    second before, at most a twentieth of `limit`. What is left over stays counted to it and is taken on.
    A refusal is remembered as long.
    """
    block = _blocks.get(key) or _new_block(key)
    with block.lock:
        is_good = time.monotonic() < block.good_until
        if block.left <= 0 or not is_good:
            # Nothing was used of what is still good: it was a refusal.
            if not (is_good and block.used == 0):
                _fill(block, key, limit, seconds, was_quick=is_good)
            if block.left <= 0:
                raise TooMany(_seconds_until(block.ends))
        block.left -= 1
        block.used += 1


def _new_block(key: str) -> _Block:
    global _swept_at
    now = time.monotonic()
    if len(_blocks) >= MAX_BLOCKS and now - _swept_at > BLOCK_SECONDS:
        _swept_at = now
        for old, block in list(_blocks.items()):
            if block.good_until < now:
                _blocks.pop(old, None)
    return _Block() if len(_blocks) >= MAX_BLOCKS else _blocks.setdefault(key, _Block())


def _fill(block: _Block, key: str, limit: int, seconds: int, *, was_quick: bool) -> None:
    """Have the database count what the next second needs; `was_quick`: the last places went in less than one."""
    wanted = max(1, min(block.used * 2 if was_quick else block.used, limit // BLOCK_SHARE))
    now = timezone.now()
    # Places of a window that is over are worth nothing.
    left = block.left if block.ends and now < block.ends else 0
    asked = max(0, wanted - left)
    total, ends = _count(key, seconds, asked, now)
    if left and ends != block.ends:  # another process has begun a new window
        left = 0
        if not asked:
            asked = wanted
            total, ends = _count(key, seconds, asked, now)
    # Of the places up to `total`, the last `asked` are ours, as far as they are within the limit.
    block.left = left + min(asked, max(0, limit - (total - asked)))
    block.used, block.ends = 0, ends
    block.good_until = time.monotonic() + min(BLOCK_SECONDS, (ends - now).total_seconds())


def _seconds_until(moment: datetime | None) -> int:
    return max(1, round((moment - timezone.now()).total_seconds())) if moment else 1
