"""The thread of a process that serves people: seals what was recorded and writes down what was refused.

It is apart from the requests, so that none of them waits for the one appender, and looks at most once a
second, so that a flood costs no more than a moment of quiet. A process that serves nobody (a command, a
test) has none: the runner's chore seals what it recorded.
"""

import atexit
import logging
import os
import threading
import time

from django.conf import settings
from django.db import DatabaseError, close_old_connections

logger = logging.getLogger(__name__)

SERVING = {"web", "gateway", "runner", "queue", "runserver"}
PAUSE = 1.0  # seconds between two looks


class _Keeper:
    def __init__(self) -> None:
        self._start = threading.Lock()
        self._woken = threading.Event()
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        if self._thread is None:
            with self._start:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._keep, name="audit", daemon=True)
                    self._thread.start()
        self._woken.set()

    def _keep(self) -> None:
        while True:
            self._woken.wait()
            self._woken.clear()
            if not look():
                self._woken.set()
            time.sleep(PAUSE)


_keeper = _Keeper()


def is_on() -> bool:
    """Whether this process has such a thread."""
    return settings.PORTAL_PROCESS in SERVING


def wake() -> None:
    """There is something to seal or to write down. Returns at once."""
    if is_on():
        _keeper.wake()


def look() -> bool:
    """Write down what was refused and seal what waits; False when that failed, which is logged, and tried again."""
    from portal.accounts.audit import appender, refusals

    close_old_connections()
    try:
        refusals.flush()
        appender.seal()
        return True
    except (DatabaseError, OSError) as exc:
        logger.warning("the audit log was not sealed, it is tried again: %s", exc)
    except Exception:
        logger.exception("the audit log was not sealed")
    finally:
        close_old_connections()
    return False


def _at_the_end() -> None:
    from portal.accounts.audit import refusals

    if is_on() and refusals.are_waiting():
        look()


def _after_fork() -> None:
    global _keeper
    _keeper = _Keeper()


# A fork has the thread's variables and not the thread.
os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_the_end)
