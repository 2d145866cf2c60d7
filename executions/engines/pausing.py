"""Being asked to pause, which an adapter looks up between two tasks.

The signal is blocked in the host and its runs and never delivered: that it is pending is the request. So no
handler runs in the middle of a framework's work, no system call is interrupted, and no moment is too early.
"""

import signal

from executions.engines.protocol import PAUSE_SIGNAL


def hold_back() -> None:
    """Block the signal for this thread, and for the threads and processes that it starts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {PAUSE_SIGNAL})


def is_asked() -> bool:
    """Whether the run has been asked to start no further task."""
    return PAUSE_SIGNAL in signal.sigpending()
