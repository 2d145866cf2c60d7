"""What the queue carries: short calls with ids for arguments, safe to run twice or not at all."""

import functools
import logging
import os
from pathlib import Path

from django.conf import settings
from django.db import DatabaseError, transaction
from django_q.brokers import get_broker
from django_q.tasks import async_task
from redis.exceptions import RedisError

from portal.lib.processes import tell

logger = logging.getLogger(__name__)

HEARTBEAT = b"heartbeat"  # to the runner: no work, but the queue is alive


def runner_socket() -> Path:
    """Where the runner of this machine hears rings: a Unix datagram socket, any datagram means *there may be work*."""
    return Path(settings.RUN_DIR) / "runner.sock"


def worker_socket() -> Path:
    """Where the worker of this machine hears that its queue cluster is at work (`cluster_at_work`)."""
    return Path(settings.RUN_DIR) / "worker.sock"


def ring() -> None:
    """Queue task: there may be work for the runner of whichever machine this is run on. Done at once."""
    tell(runner_socket(), b"ring")


def heartbeat() -> None:
    """Queue task without work: that it is carried out is the cluster's sign of life."""
    tell(runner_socket(), HEARTBEAT)


def ring_soon() -> None:
    """Ring for a runner once the current transaction has committed (at once without one).

    A ring carries no obligation: runners look for work by themselves too, so a queue that is away
    delays a run and fails nothing.
    """
    transaction.on_commit(_enqueue_ring)


# One for all rings of this process: django-q2 would open a connection to Redis for each.
_broker = functools.cache(get_broker)


def _enqueue_ring() -> None:
    try:
        async_task("executions.tasks.ring", broker=_broker())
    except (DatabaseError, RedisError, OSError) as exc:
        logger.warning("no ring for the runner: %s", exc)


def tell_worker_at_work(**_: object) -> None:
    """The cluster takes up a task: signal receiver in its workers."""
    tell(worker_socket(), b"+%d" % os.getpid())


def tell_worker_done(**_: object) -> None:
    """The cluster has finished a task: signal receiver in its workers."""
    tell(worker_socket(), b"-%d" % os.getpid())
