"""Storing what engines write."""

import json
import os
from datetime import timedelta

import pytest
from django.core.files.storage import default_storage
from django.db import DataError
from django.utils import timezone

from executions import events, workspace
from executions.engines.registry import Engine
from executions.models import Approval, Attempt, Execution, TaskRun
from executions.runner.intake import BadLine, Intake, LeaseLost
from executions.status import Status
from tests.factories.executions import ApprovalFactory, TaskRunFactory, execution_in

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
        "[" * 100_000,
        {"kind": "other"},
        {"kind": "event", "type": "llm.completed", "data": {}},
        {"kind": "event", "type": "execution.completed", "data": {}},
        {"kind": "event", "type": "log", "data": ["no object"]},
        {"kind": "event", "type": "approval.requested", "task": "unknown", "data": {}},
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


def test_odd_times_and_characters_of_an_engine_harm_nothing(execution, path):
    run = TaskRunFactory(execution=execution, task="t1")
    odd = [event("log", task="t\0", n=n) | {"at": at} for n, at in enumerate(["2025-13-01T00:00:00Z", "1", 7, None])]
    write(path, *odd, event("task.completed", output="half \ud800 and\0 none"))
    Intake(execution, path).read()
    run.refresh_from_db()
    assert run.output == "half ? and none"
    assert len(stored(execution)) == 5


# --- Questions to people --------------------------------------------------------------------------------


@pytest.fixture
def asking(execution):
    execution.snapshot = {"spec": {}, "limits": {"approval_timeout_seconds": 3600, "approval_reminder_seconds": 60}}
    execution.save(update_fields=["snapshot"])
    TaskRunFactory(execution=execution, task="t1", name="Draft", status=TaskRun.Status.RUNNING)
    return execution


def test_a_question_is_stored_and_its_event_names_it(asking, path):
    write(path, event("task.started"), event("approval.requested", output="A draft."))
    batch = Intake(asking, path).read()
    approval = asking.approvals.get()
    assert batch.asked == (approval,)
    assert (approval.name, approval.role, approval.round, approval.output) == ("Draft", "Writer", 1, "A draft.")
    assert approval.expires_at - approval.requested_at == timedelta(hours=1)
    assert approval.remind_at - approval.requested_at == timedelta(minutes=1)
    assert asking.task_runs.get().status == TaskRun.Status.PENDING
    assert stored(asking)[-1][1] == {"output": "A draft.", "approval_id": str(approval.pk), "round": 1}


def test_the_next_question_about_a_task_is_the_next_round(asking, path):
    ApprovalFactory(execution=asking, task="t1", status=Approval.Status.REJECTED, answered_at=timezone.now())
    write(path, event("approval.requested", output="A better draft."))
    Intake(asking, path).read()
    assert [approval.round for approval in asking.approvals.order_by("round")] == [1, 2]


def test_without_limits_a_question_stands_for_ever(asking, path):
    Execution.objects.filter(pk=asking.pk).update(snapshot={"limits": {"approval_timeout_seconds": None}})
    asking.refresh_from_db()
    write(path, event("approval.requested", output="A draft."))
    Intake(asking, path).read()
    approval = asking.approvals.get()
    assert (approval.expires_at, approval.remind_at) == (None, None)


def test_the_same_question_twice_is_refused(asking, path):
    write(path, event("approval.requested", output="A draft."), event("approval.requested", output="A draft."))
    with pytest.raises(BadLine):
        Intake(asking, path).read()
    assert not asking.approvals.exists()


# --- Files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def work(path, settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "files"
    folder = path.parent / "work"
    folder.mkdir()
    return folder


def packed(task="t1"):
    return event("task.completed", task=task, output="Done.", workspace="portal-workspace-1.tar.gz")


def test_the_files_of_a_finished_task_are_in_storage_before_its_event(execution, path, work):
    (work / "portal-workspace-1.tar.gz").write_bytes(b"files")
    write(path, packed())
    Intake(execution, path).read()
    name = stored(execution)[-1][1]["workspace"]
    with default_storage.open(name) as file:
        assert file.read() == b"files"
    assert list(work.iterdir()) == []
    workspace.forget(execution.pk)
    assert not default_storage.exists(name)
    assert not default_storage.exists(f"workspaces/{execution.pk}")
    workspace.forget(execution.pk)


def test_a_runner_that_died_in_between_is_followed_by_one_that_keeps_them_again(execution, path, work):
    (work / "portal-workspace-1.tar.gz").write_bytes(b"files")
    write(path, packed())
    first = workspace.keep(execution.pk, 1, "t1", work, "portal-workspace-1.tar.gz")
    Intake(execution, path).read()
    assert stored(execution)[-1][1]["workspace"] == first


@pytest.mark.parametrize("name", ["../events.jsonl", "missing.tar.gz", "", ".", 7, "link", "folder", "pipe", "large"])
def test_what_is_no_plain_file_of_the_work_folder_is_refused(execution, path, work, name, monkeypatch):
    (work / "link").symlink_to(path)
    (work / "folder").mkdir()
    os.mkfifo(work / "pipe")
    (work / "large").write_bytes(b"x" * 100)
    monkeypatch.setattr(workspace, "MAX_BYTES", 99)
    with pytest.raises(workspace.Unusable):
        workspace.keep(execution.pk, 1, "t1", work, name)
    with pytest.raises(workspace.Unusable):
        workspace.keep(execution.pk, 1, "../../t1", work, "large")


def test_the_next_attempt_is_given_the_newest_files(execution, path, work, tmp_path, monkeypatch):
    keeper = Engine("keeper", "Keeper", "none", "pytest", keeps_files=True)
    monkeypatch.setitem(workspace.ENGINES, "keeper", keeper)
    execution.engine = "keeper"
    target = tmp_path / "next"
    assert workspace.place(execution, target) is None
    for number, task in enumerate(("t1", "t2")):
        (work / "portal-workspace-1.tar.gz").write_bytes(b"files %d" % number)
        write(path, packed(task))
        Intake(execution, path).read()
    assert workspace.place(execution, target) == "portal-workspace-1.tar.gz"
    assert (target / "portal-workspace-1.tar.gz").read_bytes() == b"files 1"


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "soon", 7])
def test_a_moment_that_no_calendar_has_is_now(execution, path, at):
    write(path, {**event("task.started"), "at": at})
    TaskRunFactory(execution=execution, task="t1")
    Intake(execution, path).read()
    assert timezone.now() - execution.task_runs.get().started_at < timedelta(minutes=1)


def test_what_the_database_refuses_is_a_bad_line(execution, path, monkeypatch):
    def refuses(*_):
        raise DataError("out of range")

    monkeypatch.setattr(events, "append", refuses)
    write(path, event("log", n=1))
    with pytest.raises(BadLine):
        Intake(execution, path).read()


def test_the_deliverables_of_a_task_are_stored_whole(execution, path):
    TaskRunFactory(execution=execution, task="t1")
    code = {
        "type": "code",
        "title": "Code",
        "content": "",
        "files": [{"path": "main.py", "content": "x = 1\n" * 50_000}],
    }
    write(path, event("task.completed", output="Done.", deliverables=[code]))
    Intake(execution, path).read()
    assert stored(execution) == [("task.completed", {"output": "Done.", "deliverables": [code]})]
    assert execution.task_runs.get().output == "Done."
