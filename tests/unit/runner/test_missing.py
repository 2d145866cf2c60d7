"""Runs whose engine this machine does not have."""

import asyncio

import pytest
from django.db.models.functions import Now

from executions.engines.registry import ENGINES
from executions.models import ExecutionEvent, Worker
from executions.runner import claims, missing
from executions.status import Status
from portal.lib.dbthreads import DatabaseThreads
from tests.deadlines import DEADLINE
from tests.factories.executions import LEASE, ExecutionFactory
from tests.fakes.small_engine import small_engine

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    monkeypatch.setenv("PORTAL_ENGINE_DIR", str(tmp_path / "engines"))
    engine = small_engine(tmp_path / "packages")
    monkeypatch.setitem(ENGINES, "small", engine)
    return engine


def other_machine(**fields):
    times = {"started_at": Now(), "seen_at": Now()}
    return Worker.objects.create(**{"name": "other", "max_runs": 4, "engines": {"small": "1.2.3"}, **times, **fields})


def logged(execution):
    found = ExecutionEvent.objects.filter(stream_id=execution.stream_id, type="log").order_by("seq")
    return [event.data["message"] for event in found if event.data["kind"] == missing.KIND]


def test_a_run_of_an_engine_that_is_not_here_is_not_taken_and_the_engine_is_to_be_installed():
    ExecutionFactory(engine="small")
    assert claims.take_one("machine", LEASE) is None
    assert missing.engines_to_install("machine") == ["small"]


def test_another_machine_that_has_it_is_left_to_carry_it():
    ExecutionFactory(engine="small")
    machine = other_machine()
    assert missing.engines_to_install("machine") == []
    machine.engines = {"small": None}
    machine.save()
    assert missing.engines_to_install("machine") == ["small"]


def test_a_machine_that_drains_installs_nothing_and_counts_for_nothing():
    ExecutionFactory(engine="small")
    other_machine(is_draining=True)
    assert missing.engines_to_install("machine") == ["small"]
    assert missing.engines_to_install("other") == []


def test_an_engine_that_nobody_runs_is_not_installed():
    ExecutionFactory()
    ExecutionFactory(engine="unheard-of")
    assert missing.engines_to_install("machine") == []


def test_runs_end_with_the_reason_and_the_command_when_it_cannot_be_had():
    waiting, unconcerned = ExecutionFactory(engine="small"), ExecutionFactory()
    assert missing.give_up("small", "machine", "there is no connection.") == 1
    waiting.refresh_from_db()
    unconcerned.refresh_from_db()
    assert (waiting.status, waiting.error_code) == (Status.FAILED, "engine_missing")
    assert waiting.error_message == (
        "The engine is not installed on this machine. Small could not be installed: there is no connection."
        " Command: manage.py engine install small"
    )
    assert unconcerned.status == Status.PENDING


def test_no_run_ends_while_another_machine_has_it():
    waiting = ExecutionFactory(engine="small")
    other_machine()
    assert missing.give_up("small", "machine", "no") == 0
    waiting.refresh_from_db()
    assert waiting.status == Status.PENDING


def _install(execution):
    """Let a runner look once, and wait for what it began."""
    db, woken = DatabaseThreads(2, name="test"), asyncio.Event()

    async def go():
        installer = missing.Installer("machine", db, woken.set)
        await installer.look()
        await installer.look()  # under way: not begun twice
        await asyncio.wait_for(woken.wait(), 4 * DEADLINE)
        await installer.end()

    asyncio.run(go())
    db.close()
    execution.refresh_from_db()


@pytest.mark.django_db(transaction=True)
def test_a_runner_fails_the_run_when_the_installation_fails(monkeypatch):
    execution = ExecutionFactory(engine="small")
    monkeypatch.setattr(missing, "manage", lambda *_: ["/bin/sh", "-c", "echo fetching; echo No way out.; exit 1"])
    _install(execution)
    assert execution.error_code == "engine_missing"
    assert "Small could not be installed: No way out. Command:" in execution.error_message
    assert logged(execution) == ["Installing Small, which a run needs for the first time."]


@pytest.mark.django_db(transaction=True)
def test_a_runner_tells_the_waiting_run_how_it_goes(monkeypatch, small):
    execution = ExecutionFactory(engine="small")
    said = "; ".join(f"echo '@progress [{n}000000, 2000000, \"installing\"]'" for n in (1, 2))
    done = f"mkdir -p {small.environment.folder}; touch {small.environment.folder}/complete"
    monkeypatch.setattr(missing, "manage", lambda *_: ["/bin/sh", "-c", f"{said}; {done}"])
    monkeypatch.setattr(missing, "TELL_EVERY", 0)
    _install(execution)
    assert execution.status == Status.PENDING
    assert logged(execution) == [
        "Installing Small, which a run needs for the first time.",
        "Installing Small: 1 of 2 MB.",
        "Installing Small: 2 of 2 MB.",
        "Small is installed.",
    ]
    assert claims.take_one("machine", LEASE) == execution
