"""Storing what engines write."""

import json

import pytest

from executions import events
from executions.models import Attempt, Execution, TaskRun
from executions.runner.intake import BadLine, Intake, LeaseLost
from executions.status import Status
from tests.factories.executions import TaskRunFactory, execution_in

pytestmark = pytest.mark.django_db


@pytest.fixture
def execution():
    return execution_in(Status.RUNNING)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.jsonl"


def write(path, *lines, end="\n"):
    with path.open("a") as file:
        file.write("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + end)


def event(type_, task="t1", **data):
    return {"kind": "event", "type": type_, "task": task, "role": "Writer", "data": data}


def stored(execution):
    return [
        (row["type"], row["data"]) for row in events.read(execution.stream_id) if row["type"] != "execution.started"
    ]


def test_events_are_stored_in_order_and_once(execution, path):
    intake = Intake(execution, path)
    write(path, event("log", n=1), event("log", n=2))
    intake.read()
    write(path, event("log", n=3))
    intake.read()
    intake.read()
    assert [data["n"] for _, data in stored(execution)] == [1, 2, 3]


def test_a_torn_last_line_waits_until_it_is_whole(execution, path):
    intake = Intake(execution, path)
    write(path, event("log", n=1), '{"kind": "eve', end="")
    intake.read()
    assert [data["n"] for _, data in stored(execution)] == [1]
    write(path, 'nt", "type": "log", "data": {"n": 2}}')
    intake.read()
    assert [data["n"] for _, data in stored(execution)] == [1, 2]


def test_another_runner_goes_on_where_the_last_one_stopped_reading(execution, path):
    write(path, event("log", n=1))
    Intake(execution, path).read()
    write(path, event("log", n=2))
    Intake(execution, path).read()
    assert [data["n"] for _, data in stored(execution)] == [1, 2]


def test_a_runner_that_read_the_same_lines_later_stores_nothing(execution, path):
    late, early = Intake(execution, path), Intake(execution, path)
    write(path, event("log", n=1))
    early.read()
    with pytest.raises(LeaseLost):
        late.read()
    assert len(stored(execution)) == 1


def test_a_runner_without_the_lease_stores_nothing(execution, path):
    intake = Intake(execution, path)
    write(path, event("log", n=1))
    Execution.objects.filter(pk=execution.pk).update(lease_worker="another")
    with pytest.raises(LeaseLost):
        intake.read()
    assert stored(execution) == []
    assert Attempt.objects.get(execution=execution).events_offset == 0


def test_task_events_move_the_task(execution, path):
    run = TaskRunFactory(execution=execution, task="t1")
    intake = Intake(execution, path)
    write(path, event("task.started", name="Write"))
    intake.read()
    run.refresh_from_db()
    assert (run.status, run.attempt) == (TaskRun.Status.RUNNING, 1)
    assert set(intake.running) == {"t1"}
    write(path, event("task.completed", output="A text."))
    intake.read()
    run.refresh_from_db()
    assert (run.status, run.output) == (TaskRun.Status.COMPLETED, "A text.")
    assert not intake.running


def test_the_closing_line_is_handed_back(execution, path):
    write(path, event("log"), {"kind": "result", "output": "done"})
    assert Intake(execution, path).read().closing == {"kind": "result", "output": "done"}


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "[1]",
        {"kind": "other"},
        {"kind": "event", "type": "llm.completed", "data": {}},
        {"kind": "event", "type": "execution.completed", "data": {}},
    ],
)
def test_what_an_engine_may_not_write_is_refused_whole(execution, path, line):
    write(path, event("log", n=1), line)
    with pytest.raises(BadLine):
        Intake(execution, path).read()
    assert stored(execution) == []


def test_a_line_without_end_is_refused(execution, path):
    path.write_bytes(b"x" * (1 << 20))
    with pytest.raises(BadLine):
        Intake(execution, path).read()
