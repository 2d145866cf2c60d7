"""Answers: one decision, one branch, once, whoever else decides in the same moment."""

import threading
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
import time_machine
from django.core.exceptions import PermissionDenied
from django.db import connection
from django.utils import timezone

from executions import approvals, events
from executions.models import Approval, Execution, TaskRun
from executions.status import Status
from portal.accounts.models import AccessGrant, Role
from portal.lib.problems import InvalidValues, Problem
from tests.deadlines import DEADLINE
from tests.factories.accounts import AccessListFactory, UserFactory
from tests.factories.executions import ApprovalFactory, TaskRunFactory, execution_in

APPROVED, EDITED, REJECTED = Approval.Status.APPROVED, Approval.Status.EDITED, Approval.Status.REJECTED


def asking(status: Status = Status.WAITING, questions: int = 1, **fields: object) -> tuple[Execution, list[Approval]]:
    """An execution in `status` with open questions, each about a task of its own."""
    execution = execution_in(Status.RUNNING, **fields)
    found = []
    for _ in range(questions):
        task = TaskRunFactory(execution=execution)
        found.append(ApprovalFactory(execution=execution, task=task.task, name=task.name, attempt=execution.attempt))
    if status == Status.WAITING:
        execution.wait_for_people()
    elif status == Status.PAUSED:
        execution.request_pause(by=execution.created_by)
        execution.pause()
    return execution, found


def types(execution: Execution) -> list[str]:
    return [event["type"] for event in events.read(execution.stream_id)]


def task_of(question: Approval) -> TaskRun:
    return TaskRun.objects.get(execution=question.execution_id, task=question.task)


@pytest.mark.django_db
class TestDecisions:
    def test_approved_work_is_the_tasks_output_and_the_run_goes_on(self):
        execution, [question] = asking()
        approvals.answer(question, execution.owner, "approve", text="left in the form", feedback="as well")
        execution.refresh_from_db()
        task = task_of(question)
        assert (task.status, task.output) == (TaskRun.Status.COMPLETED, "A draft.")
        assert (question.status, question.text, question.feedback) == (APPROVED, "", "")
        assert (question.answered_by, question.answered_via) == (execution.owner, "portal")
        assert execution.status == Status.PENDING
        assert types(execution)[-3:] == ["approval.answered", "task.completed", "execution.resumed"]

    def test_an_edited_text_takes_the_works_place(self):
        execution, [question] = asking()
        approvals.answer(question, execution.owner, "edit", text="Better.\r\nMuch.", via="api")
        assert (question.status, task_of(question).output) == (EDITED, "Better.\nMuch.")
        done = events.read(execution.stream_id)[-2]
        assert (done["type"], done["task"], done["data"]["output"]) == (
            "task.completed",
            question.task,
            "Better.\nMuch.",
        )

    def test_a_rejection_sends_the_task_back_to_work(self):
        execution, [question] = asking()
        approvals.answer(question, execution.owner, "reject", feedback="Shorter.")
        execution.refresh_from_db()
        assert (task_of(question).status, execution.status) == (TaskRun.Status.PENDING, Status.PENDING)
        assert types(execution)[-2:] == ["approval.answered", "execution.resumed"]
        answered = events.read(execution.stream_id)[-2]["data"]
        assert (answered["decision"], answered["feedback"]) == ("rejected", "Shorter.")

    @pytest.mark.parametrize("status", [Status.RUNNING, Status.PAUSED])
    def test_a_run_that_does_not_wait_stays_as_it_is(self, status):
        execution, [question] = asking(status)
        approvals.answer(question, execution.owner, "approve")
        execution.refresh_from_db()
        assert (execution.status, task_of(question).status) == (status, TaskRun.Status.COMPLETED)

    def test_an_answer_while_the_attempt_still_runs_is_not_waited_for(self):
        execution, [question] = asking(Status.RUNNING)
        approvals.answer(question, execution.owner, "approve")
        execution.wait_for_people()
        assert execution.status == Status.PENDING

    def test_of_two_questions_each_is_answered_by_itself(self):
        execution, [first, second] = asking(questions=2)
        approvals.answer(first, execution.owner, "approve")
        second.refresh_from_db()
        assert (second.status, task_of(second).status) == (Approval.Status.OPEN, TaskRun.Status.PENDING)
        execution.refresh_from_db()
        assert execution.status == Status.PENDING  # what needs only the first may go on
        approvals.answer(second, execution.owner, "reject", feedback="Again.")
        assert task_of(second).status == TaskRun.Status.PENDING
        assert types(execution).count("approval.answered") == 2

    @pytest.mark.parametrize(
        ("decision", "given", "field", "code"),
        [
            ("edit", {}, "text", "required"),
            ("edit", {"text": " \n"}, "text", "required"),
            ("edit", {"text": "x" * (approvals.MAX_TEXT + 1)}, "text", "too_long"),
            ("edit", {"text": "a\x00b"}, "text", "not_text"),
            ("reject", {"feedback": " "}, "feedback", "required"),
            ("reject", {"feedback": "x" * (approvals.MAX_FEEDBACK + 1)}, "feedback", "too_long"),
            ("maybe", {}, "decision", "invalid"),
        ],
    )
    def test_what_a_decision_needs(self, decision, given, field, code):
        execution, [question] = asking()
        with pytest.raises(InvalidValues) as refused:
            approvals.answer(question, execution.owner, decision, **given)
        assert [(error.field, error.code) for error in refused.value.errors] == [(field, code)]
        question.refresh_from_db()
        assert question.status == Approval.Status.OPEN


@pytest.mark.django_db
class TestOnce:
    def test_the_same_answer_again_by_the_same_person_changes_nothing(self):
        execution, [question] = asking()
        for _ in range(2):
            approvals.answer(Approval.objects.get(pk=question.pk), execution.owner, "reject", feedback="Shorter.")
        assert types(execution).count("approval.answered") == 1
        assert types(execution).count("execution.resumed") == 1

    @pytest.mark.parametrize(("decision", "given"), [("approve", {}), ("reject", {"feedback": "Longer."})])
    def test_another_answer_is_too_late(self, decision, given):
        execution, [question] = asking()
        approvals.answer(question, execution.owner, "reject", feedback="Shorter.")
        with pytest.raises(approvals.AlreadyAnswered) as refused:
            approvals.answer(question, execution.owner, decision, **given)
        assert (refused.value.status, refused.value.code) == (409, "already_answered")
        assert execution.owner.username in refused.value.detail

    def test_the_same_answer_of_somebody_else_is_too_late(self):
        execution, [question] = asking()
        approvals.answer(question, execution.owner, "approve")
        with pytest.raises(approvals.AlreadyAnswered):
            approvals.answer(question, UserFactory(admin=True), "approve")

    def test_a_question_of_a_run_that_was_stopped_is_closed(self):
        execution, [question] = asking()
        execution.request_stop(by=execution.owner)
        with pytest.raises(approvals.AlreadyAnswered, match="has ended"):
            approvals.answer(question, execution.owner, "approve")
        assert task_of(question).status != TaskRun.Status.COMPLETED

    def test_after_its_time_a_question_is_closed(self):
        execution, [question] = asking()
        Approval.objects.filter(pk=question.pk).update(expires_at=timezone.now() - timedelta(seconds=5))
        with pytest.raises(approvals.AlreadyAnswered) as refused:
            approvals.answer(question, execution.owner, "approve")
        assert refused.value.code == "expired"
        assert task_of(question).status == TaskRun.Status.PENDING

    def test_nothing_is_decided_when_what_follows_cannot_be_written(self, monkeypatch):
        execution, [question] = asking()

        def broken(*_):
            raise OSError("disk full")

        monkeypatch.setattr(events, "append", broken)
        with pytest.raises(OSError, match="disk full"):
            approvals.answer(question, execution.owner, "approve")
        question.refresh_from_db()
        assert (question.status, task_of(question).status) == (Approval.Status.OPEN, TaskRun.Status.PENDING)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("status", [Status.WAITING, Status.RUNNING])
def test_of_twenty_who_answer_at_once_one_decides(status):
    execution, [question] = asking(status)
    owner = execution.owner
    answers = [("approve", {}), ("edit", {"text": "Mine."}), ("reject", {"feedback": "No."})]
    ready, won, lost = threading.Barrier(21), [], []

    def decide(number: int) -> None:
        decision, given = answers[number % 3]
        given = {name: f"{value} {number}" for name, value in given.items()}
        person = owner if number < 3 else UserFactory(admin=True)
        copy = Approval.objects.get(pk=question.pk)
        try:
            ready.wait(DEADLINE)
            won.append(approvals.answer(copy, person, decision, **given).status)
        except approvals.AlreadyAnswered as refused:
            lost.append((refused.status, refused.code))
        finally:
            connection.close()

    def run_on() -> None:
        """The runner of the attempt, which ends in the same moment."""
        copy = Execution.objects.get(pk=execution.pk)
        try:
            ready.wait(DEADLINE)
            if status == Status.RUNNING:
                copy.wait_for_people()
        finally:
            connection.close()

    threads = [threading.Thread(target=decide, args=(number,)) for number in range(20)]
    threads.append(threading.Thread(target=run_on))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert (len(won), lost) == (1, [(409, "already_answered")] * 19)
    question.refresh_from_db()
    execution.refresh_from_db()
    task, told = task_of(question), types(execution)
    assert question.status == won[0]
    assert (task.status == TaskRun.Status.COMPLETED) == (question.status != REJECTED)
    assert task.output == ("" if question.status == REJECTED else question.result)
    assert (told.count("approval.answered"), told.count("execution.resumed")) == (1, 1)
    assert told.count("task.completed") == (question.status != REJECTED)
    assert execution.status == Status.PENDING


@pytest.mark.django_db(transaction=True)
def test_two_questions_answered_at_once_are_both_decided():
    execution, questions = asking(questions=2)
    ready, failed = threading.Barrier(2), []

    def decide(question: Approval) -> None:
        try:
            ready.wait(DEADLINE)
            approvals.answer(question, execution.owner, "approve")
        except Problem as problem:
            failed.append(problem)
        finally:
            connection.close()

    threads = [threading.Thread(target=decide, args=(question,)) for question in questions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert failed == []
    assert set(execution.task_runs.values_list("status", flat=True)) == {TaskRun.Status.COMPLETED}
    assert types(execution).count("execution.resumed") == 1


@pytest.mark.django_db
class TestWho:
    @pytest.mark.parametrize(
        ("who", "may"),
        [
            ("owner", True),
            ("editor", True),
            ("admin", True),
            ("granted viewer", False),
            ("another user", False),
            ("viewer as editor", False),
            ("owner who became a viewer", False),
            ("owner who left", False),
        ],
    )
    def test_who_may_answer(self, who, may):
        execution, [question] = asking(access=AccessListFactory())
        person = self.person(who, execution)
        assert (question in approvals.to_answer(person)) is may
        if may:
            approvals.answer(question, person, "approve")
        else:
            with pytest.raises(PermissionDenied):
                approvals.answer(question, person, "approve")
            with pytest.raises(approvals.LinkDead):
                approvals.from_token(token_of(question, person))
        question.refresh_from_db()
        assert (question.status == APPROVED) is may

    @staticmethod
    def person(who, execution):
        owner = execution.owner
        if who == "owner":
            return owner
        if who == "owner who became a viewer":
            owner.role = Role.VIEWER
        elif who == "owner who left":
            owner.is_active = False
        else:
            owner = UserFactory(admin=who == "admin", viewer=who == "viewer as editor")
            level = {"editor": "editor", "viewer as editor": "editor", "granted viewer": "viewer"}.get(who)
            if level:
                AccessGrant.objects.create(access=execution.access, user=owner, level=level)
        owner.save()
        return owner


def token_of(question: Approval, person) -> str:
    address = urlsplit(approvals.make_link(question, person))
    assert f"{address.scheme}://{address.netloc}" == "http://localhost:8000"
    prefix, token = address.path.rsplit("/", 1)
    assert prefix == "/approvals/link"
    return token


@pytest.mark.django_db
class TestLinks:
    def test_a_link_is_for_one_question_and_one_person(self):
        execution, [question, _] = asking(questions=2)
        found, person = approvals.from_token(token_of(question, execution.owner))
        assert (found, person) == (question, execution.owner)

    def test_a_link_still_takes_the_same_answer(self):
        execution, [question] = asking()
        token = token_of(question, execution.owner)
        approvals.answer(question, execution.owner, "approve", via="link")
        again, person = approvals.from_token(token)
        assert approvals.answer(again, person, "approve").status == APPROVED

    def test_a_link_grows_old(self):
        execution, [question] = asking()
        now = timezone.now()
        with time_machine.travel(now, tick=False):
            token = token_of(question, execution.owner)
        with time_machine.travel(now + timedelta(days=6, hours=23), tick=False):
            approvals.from_token(token)
        with (
            time_machine.travel(now + timedelta(days=7, seconds=2), tick=False),
            pytest.raises(approvals.LinkDead, match="too old"),
        ):
            approvals.from_token(token)

    @pytest.mark.parametrize(
        "mangle", [lambda token: token[:-1], lambda token: "x" + token, lambda _: "", lambda _: "a:b:c"]
    )
    def test_a_link_that_is_not_ours_opens_nothing(self, mangle):
        execution, [question] = asking()
        with pytest.raises(approvals.LinkDead, match="not valid"):
            approvals.from_token(mangle(token_of(question, execution.owner)))

    def test_a_link_to_what_is_gone_opens_nothing(self):
        execution, [question] = asking()
        token = token_of(question, execution.owner)
        question.delete()
        with pytest.raises(approvals.LinkDead):
            approvals.from_token(token)

    def test_after_its_time_a_question_is_not_opened(self):
        _execution, [question] = asking()
        Approval.objects.filter(pk=question.pk).update(expires_at=timezone.now() - timedelta(seconds=5))
        with pytest.raises(approvals.AlreadyAnswered, match="time to answer is over"):
            approvals.require_open(question)
