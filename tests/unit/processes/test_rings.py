"""Rings reach the runner of this machine, after the commit, and never fail what rings."""

from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, transaction
from django_q.models import OrmQ

from executions import tasks
from portal.lib.processes import listen


@pytest.fixture
def run_dir(tmp_path: Path, settings: Any) -> Path:
    settings.RUN_DIR = tmp_path
    return tmp_path


def test_a_ring_is_heard_by_the_runner(run_dir: Path) -> None:
    ear = listen(run_dir / "runner.sock")

    tasks.ring()
    tasks.heartbeat()

    assert (ear.recv(64), ear.recv(64)) == (b"ring", b"heartbeat")
    ear.close()


def test_a_ring_without_a_runner_is_nothing(run_dir: Path) -> None:
    tasks.ring()


@pytest.mark.django_db(transaction=True)
def test_rings_wait_for_the_commit(settings: Any) -> None:
    if settings.REDIS_URL:
        pytest.skip("looks into the database's queue")
    with transaction.atomic():
        tasks.ring_soon()
        before = OrmQ.objects.count()

    assert (before, [entry.func() for entry in OrmQ.objects.all()]) == (0, ["executions.tasks.ring"])


@pytest.mark.django_db
def test_a_broker_that_is_away_fails_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, django_capture_on_commit_callbacks: Any
) -> None:
    def away(*_: object, **__: object) -> None:
        raise OperationalError("the broker is away")

    monkeypatch.setattr(tasks, "async_task", away)

    with django_capture_on_commit_callbacks(execute=True):
        tasks.ring_soon()

    assert "no ring for the runner: the broker is away" in caplog.text
