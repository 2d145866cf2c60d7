"""Which pending execution a runner takes next: the best of the queue, fair between users, within the limits.

Everybody's first in line is compared by its place in the queue (`queue_rank`), moved back by one step of
priority for each run that its user has going. A place in the queue never changes, and who has come
later stands further back, so whoever waits is first one day.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Count, Min

from executions.engines import registry
from executions.errors import TransitionLost
from executions.models import Execution, Worker
from executions.models.execution import PRIORITY_STEP, ExecutionQuerySet
from executions.status import Status

# Any number that nothing else in this database takes for an advisory lock.
_LOCK = 0x706F7274616C  # "portal"


def take_one(worker: str, lease: timedelta) -> Execution | None:
    """Start the next execution for this runner, under a lease; None when there is none that may start now."""
    with _one_at_a_time():
        while True:
            best = _best(worker)
            if best is None:
                return None
            try:
                best.start(worker=worker, lease=lease)
            except TransitionLost:
                continue  # another runner was faster: look for the next
            return best


def is_draining(worker: str) -> bool:
    """Whether this runner was told to take nothing new."""
    return Worker.objects.filter(name=worker, is_draining=True).exists()


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Where there are limits, runners count and claim one after the other, or together they would pass them."""
    if not (settings.PORTAL_MAX_RUNS_PER_USER or settings.PORTAL_MAX_RUNS_TOTAL):
        yield
        return
    with transaction.atomic():  # SQLite has one writer at a time anyway
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        yield


def _best(worker: str) -> Execution | None:
    waiting = _due().order_by().values_list("created_by").annotate(first=Min("queue_rank"))
    first: dict[Any, Any] = dict(waiting)
    if not first or is_draining(worker):
        return None
    running: dict[Any, int] = dict(
        Execution.objects.filter(status=Status.RUNNING).order_by().values_list("created_by").annotate(count=Count("pk"))
    )
    most, in_all = settings.PORTAL_MAX_RUNS_PER_USER, settings.PORTAL_MAX_RUNS_TOTAL
    if in_all and sum(running.values()) >= in_all:
        return None
    places = {
        user: rank + running.get(user, 0) * PRIORITY_STEP
        for user, rank in first.items()
        if not most or running.get(user, 0) < most
    }
    if not places:
        return None
    return _due().filter(created_by=min(places, key=lambda user: places[user])).first()


def _due() -> ExecutionQuerySet:
    """What this machine could start now; `missing` looks after runs whose engine no machine has."""
    return Execution.objects.queued().filter(stop_requested_at=None, engine__in=registry.installed())
