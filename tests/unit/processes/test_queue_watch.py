"""When a silent queue cluster counts as hanging."""

import os

import pytest

from executions.worker.queue_watch import QueueWatch

GONE = 2**22 + 1  # above the kernel's largest pid


@pytest.fixture
def watch() -> QueueWatch:
    watch = QueueWatch(lambda: None, beat=10, patience=120)
    watch._asked_at = 1000.0
    return watch


def test_silence_within_the_patience_is_no_hang(watch: QueueWatch) -> None:
    assert not watch.is_hanging(1119)


def test_silence_beyond_the_patience_is_a_hang(watch: QueueWatch) -> None:
    assert watch.is_hanging(1121)


def test_a_sign_of_life_ends_the_silence(watch: QueueWatch) -> None:
    watch.hear(b"-%d" % os.getpid(), 1050)

    assert not watch.is_hanging(1121)


def test_workers_that_are_all_at_work_may_be_silent(watch: QueueWatch) -> None:
    for pid in (os.getpid(), os.getppid()):
        watch.hear(b"+%d" % pid, 1000)
    watch._asked_at = 1000.0

    assert not watch.is_hanging(1121)
    assert watch.is_hanging(1000 + 300 + 121), "their task must have timed out by then"


def test_a_worker_that_was_killed_at_work_is_not_waited_for(watch: QueueWatch) -> None:
    watch.hear(b"+%d" % os.getpid(), 1000)
    watch.hear(b"+%d" % GONE, 1000)
    watch._asked_at = 1000.0

    assert watch.is_hanging(1121)


def test_a_worker_that_has_finished_should_answer(watch: QueueWatch) -> None:
    for sign in (b"+%d", b"-%d"):
        watch.hear(sign % os.getpid(), 1000)
    watch.hear(b"nonsense", 1000)
    watch._asked_at = 1000.0

    assert watch.is_hanging(1121)
