"""The API of control: pause, resume, retry, fork, compare, questions, models, limits; and who may."""

import uuid
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from executions import actions, approvals
from executions.models import Approval, Execution, JournalEntry, TaskRun
from executions.status import Status
from portal.accounts.models import AccessGrant, Visibility
from tests.factories.accounts import AccessListFactory, UserFactory
from tests.factories.crews import LLMModelFactory, runnable_crew
from tests.factories.executions import LEASE, ApprovalFactory, ExecutionFactory, TaskRunFactory, execution_in

pytestmark = pytest.mark.django_db


@pytest.fixture
def user():
    return UserFactory()


@pytest.fixture
def api(user):
    return as_user(user)


def as_user(user):
    client = APIClient()
    if user is not None:
        client.force_authenticate(user)
    return client


def run_of(user, status=Status.RUNNING, **fields):
    return execution_in(status, access=AccessListFactory(owner=user), created_by=user, **fields)


def started(user, *, finished=True, **fields):
    """A run of a crew with one task, which has finished."""
    run = actions.kickoff(crew=runnable_crew(owner=user), inputs={"topic": "tea"}, by=user, **fields)
    run.start(worker="machine", lease=LEASE)
    if finished:
        run.task_runs.update(status=TaskRun.Status.COMPLETED, output="The text.")
        run.complete("The text.")
    return run


def asking(user):
    run = run_of(user)
    task = TaskRunFactory(execution=run)
    question = ApprovalFactory(execution=run, task=task.task, name=task.name, attempt=1)
    run.wait_for_people()
    return run, question


# --- Who may ------------------------------------------------------------------------------------------

PEOPLE = ["owner", "admin", "editor", "granted viewer", "another user", "viewer as editor", "stranger"]
SEEN_BY = {"owner", "admin", "editor", "granted viewer", "viewer as editor"}
DONE_BY = {"owner", "admin", "editor"}
READS = ["", "/approvals", "/role-llm-mapping"]
WRITES = {
    "/stop": {},
    "/pause": {},
    "/resume": {},
    "/retry": {},
    "/role-llm-mapping": {"mappings": []},
    "PATCH": {"priority": 3},
}


def person(who, run):
    if who == "owner":
        return run.owner
    if who == "stranger":
        return None
    found = UserFactory(admin=who == "admin", viewer=who == "viewer as editor")
    level = {"editor": "editor", "viewer as editor": "editor", "granted viewer": "viewer"}.get(who)
    if level:
        AccessGrant.objects.create(access=run.access, user=found, level=level)
    return found


def refused(who, *, may):
    """The status of an answer to whoever may not do something; None for whoever may."""
    if who == "stranger":
        return 401
    if may:
        return None
    if who == "viewer as editor":
        return 403  # a viewer changes nothing, wherever
    return 403 if who in SEEN_BY else 404


def expect(answer, status):
    if status is None:
        assert answer.status_code not in {401, 403, 404, 405}, answer.content
    else:
        assert answer.status_code == status, answer.content


@pytest.mark.parametrize("who", PEOPLE)
class TestWhoMay:
    def test_with_a_run(self, who):
        run = run_of(UserFactory())
        client = as_user(person(who, run))
        for path in READS:
            answer = client.get(f"/api/executions/{run.pk}{path}")
            expect(answer, None if who in SEEN_BY else refused(who, may=False))
        for path, body in WRITES.items():
            method, url = (client.patch, "") if path == "PATCH" else (client.post, path)
            answer = method(f"/api/executions/{run.pk}{url}", body, format="json")
            expect(answer, refused(who, may=who in DONE_BY))

    def test_fork_and_compare(self, who):
        run = started(UserFactory())
        client = as_user(person(who, run))
        answer = client.post(f"/api/executions/{run.pk}/fork", {"task_id": run.task_runs.get().task}, format="json")
        expect(answer, refused(who, may=who in DONE_BY | {"granted viewer"}))
        answer = client.get(f"/api/executions/compare?a={run.pk}&b={run.pk}")
        expect(answer, None if who in SEEN_BY else refused(who, may=False))

    def test_with_a_question(self, who):
        run, question = asking(UserFactory())
        client = as_user(person(who, run))
        path = f"/api/approvals/{question.pk}"
        expect(client.get(path), None if who in SEEN_BY else refused(who, may=False))
        expect(client.post(f"{path}/link"), refused(who, may=who in DONE_BY))
        answer = client.get("/api/approvals")
        if who == "stranger":
            assert answer.status_code == 401
        else:
            assert [row["id"] for row in answer.json()["results"]] == [str(question.pk)] * (who in DONE_BY)
        answer = client.post(f"{path}/answer", {"decision": "approve"}, format="json")
        expect(answer, refused(who, may=who in DONE_BY))
        question.refresh_from_db()
        assert (question.status == Approval.Status.APPROVED) == (who in DONE_BY)

    def test_everything_is_stopped_that_one_may_stop(self, who):
        run = run_of(UserFactory())
        answer = as_user(person(who, run)).post("/api/executions/stop")
        if who in {"stranger", "viewer as editor"}:
            assert answer.status_code == (401 if who == "stranger" else 403)
            return
        assert answer.status_code == 202
        assert answer.json()["stopped"] == [str(run.pk)] * (who in DONE_BY)


def test_a_shared_run_is_forked_by_users_and_compared_by_viewers():
    run = started(UserFactory())
    run.access.visibility = Visibility.SHARED
    run.access.save()
    body = {"task_id": run.task_runs.get().task}
    for role, status in (({}, 202), ({"viewer": True}, 403)):
        client = as_user(UserFactory(**role))
        assert client.post(f"/api/executions/{run.pk}/fork", body, format="json").status_code == status
        assert client.get(f"/api/executions/compare?a={run.pk}&b={run.pk}").status_code == 200
        assert client.post(f"/api/executions/{run.pk}/stop").status_code == 403


# --- What it does ---------------------------------------------------------------------------------------


class TestControl:
    def test_pause_at_once_is_seen_in_the_run(self, api, user):
        run = run_of(user)
        answer = api.post(f"/api/executions/{run.pk}/pause", {"at_once": True}, format="json")
        assert (answer.status_code, answer.json()["pause_requested_at"] is not None) == (202, True)
        run.refresh_from_db()
        assert run.pause_at_once

    @pytest.mark.parametrize(
        ("path", "status"), [("pause", Status.PENDING), ("resume", Status.FAILED), ("retry", Status.PAUSED)]
    )
    def test_what_cannot_be_done_now_is_a_conflict_with_a_hint(self, api, user, path, status):
        answer = api.post(f"/api/executions/{run_of(user, status).pk}/{path}")
        assert (answer.status_code, answer.json()["code"]) == (409, "invalid_transition")
        assert answer.json()["hint"]

    def test_resume_and_retry(self, api, user):
        for path, status in (("resume", Status.PAUSED), ("retry", Status.FAILED)):
            answer = api.post(f"/api/executions/{run_of(user, status).pk}/{path}")
            assert (answer.status_code, answer.json()["status"]) == (202, "pending")

    def test_limits_and_priority(self, api, user):
        run = run_of(user, Status.PENDING)
        answer = api.patch(f"/api/executions/{run.pk}", {"budget_tokens": 5, "priority": 9}, format="json")
        assert (answer.json()["budget_tokens"], answer.json()["priority"]) == (5, 9)
        answer = api.patch(f"/api/executions/{run.pk}", {"budget_tokens": None}, format="json")
        assert (answer.json()["budget_tokens"], answer.json()["priority"]) == (None, 9)
        for wrong in ({"priority": 10}, {"budget_usd": -1}, {"budget_tokens": "many"}):
            assert api.patch(f"/api/executions/{run.pk}", wrong, format="json").status_code == 400
        assert api.put(f"/api/executions/{run.pk}", {"priority": 1}, format="json").status_code == 405

    def test_a_run_that_waits_says_for_what(self, api, user):
        run = run_of(user, budget_tokens=10)
        run.wait_for_budget(sentence="It is used up.", tokens=100)
        body = api.get(f"/api/executions/{run.pk}").json()
        assert (body["waiting_for"], body["needs_tokens"], body["needs_usd"]) == ("budget", 100, None)
        assert [(attempt["number"], attempt["reason"]) for attempt in body["attempts"]] == [(1, "It is used up.")]
        assert (
            api.patch(f"/api/executions/{run.pk}", {"budget_tokens": 1000}, format="json").json()["status"] == "pending"
        )

    def test_kickoff_takes_a_limit_of_tokens(self, api, user):
        crew = runnable_crew(owner=user)
        answer = api.post(f"/api/crews/{crew.pk}/kickoff", {"inputs": {}, "budget_tokens": 77}, format="json")
        assert api.get(answer.json()["url"]).json()["budget_tokens"] == 77

    def test_role_models(self, api, user):
        run, model = started(user, finished=False), LLMModelFactory()
        path = f"/api/executions/{run.pk}/role-llm-mapping"
        [row] = api.get(path).json()["mappings"]
        row["llm_model"] = model.pk
        assert api.post(path, {"mappings": [row]}, format="json").json() == {"mappings": [row]}
        for wrong in ([], [{"role_name": "Nobody", "llm_model": model.pk}], [{**row, "llm_model": "none"}]):
            assert api.post(path, {"mappings": wrong}, format="json").status_code == 400

    def test_crews_keep_how_long_questions_wait(self, api):
        body = {"name": "C", "approval_timeout_seconds": 90, "approval_reminder_seconds": 60}
        made = api.post("/api/crews", body, format="json").json()
        assert (made["approval_timeout_seconds"], made["approval_reminder_seconds"]) == (90, 60)
        assert api.post("/api/crews", {**body, "approval_reminder_seconds": 5}, format="json").status_code == 400


class TestForking:
    def test_a_fork_says_where_it_is(self, api, user):
        run = started(user)
        task, model = run.task_runs.get().task, LLMModelFactory(price_in=Decimal(1), price_out=Decimal(1))
        agent = run.snapshot["spec"]["agents"][0]
        body = {
            "task_id": task,
            "inputs": {"topic": "bees"},
            "tasks": [{"task_id": task, "description": "Sing of {topic}."}],
            "agents": [{"agent_id": agent["key"], "goal": "Sing.", "llm_config": {"temperature": 1}}],
            "mappings": [{"role_name": agent["role"], "llm_model": model.pk}],
            "budget_usd": "0.5",
            "priority": 2,
        }
        answer = api.post(f"/api/executions/{run.pk}/fork", body, format="json")
        assert answer.status_code == 202, answer.content
        made = Execution.objects.get(pk=answer.json()["execution_id"])
        assert answer.headers["Location"] == f"/api/executions/{made.pk}"
        spec = made.snapshot["spec"]
        assert spec["tasks"][0]["description"] == "Sing of bees."
        assert (spec["agents"][0]["goal"], spec["agents"][0]["llm"]) == ("Sing.", {"temperature": 1})
        assert (made.budget_usd, made.priority, made.trigger) == (Decimal("0.5"), 2, "api")
        assert made.role_models.get().llm_model == model
        seen = api.get(answer.json()["url"]).json()
        assert (seen["forked_from_id"], seen["forked_task_id"]) == (str(run.pk), task)
        assert [row["is_inherited"] for row in seen["tasks"]] == [False]

    def test_what_is_wrong_is_named(self, api, user):
        run = started(user)
        task = run.task_runs.get().task
        for body, status in (
            ({}, 400),
            ({"task_id": "x"}, 400),
            ({"task_id": task, "inputs": {"x": 1}}, 400),
            ({"task_id": task, "budget_usd": "1"}, 400),
            ({"task_id": task, "model": "none"}, 400),
        ):
            answer = api.post(f"/api/executions/{run.pk}/fork", body, format="json")
            assert answer.status_code == status
            assert answer.json()["errors"]
        running = started(user, finished=False)
        body = {"task_id": running.task_runs.get().task}
        answer = api.post(f"/api/executions/{running.pk}/fork", body, format="json")
        assert (answer.status_code, answer.json()["code"]) == (409, "task_not_finished")

    def test_the_same_key_and_body_make_one_fork(self, api, user):
        run = started(user)
        body = {"task_id": run.task_runs.get().task}

        def fork(**more):
            answer = api.post(
                f"/api/executions/{run.pk}/fork", {**body, **more}, format="json", HTTP_IDEMPOTENCY_KEY="k"
            )
            return answer.status_code, answer.json().get("execution_id")

        assert fork() == fork()
        assert fork(priority=3)[0] == 409
        assert run.forks.count() == 1

    def test_two_runs_side_by_side(self, api, user):
        left, right = started(user), started(user)
        right.task_runs.update(output="The other text.")
        body = api.get(f"/api/executions/compare?a={left.pk}&b={right.pk}").json()
        assert (body["left_id"], body["right_id"], body["is_same"]) == (str(left.pk), str(right.pk), False)
        assert {pair["name"] for pair in body["inputs"]} == {"topic"}
        for query in ("", "?a=x&b=y", f"?a={left.pk}"):
            assert api.get(f"/api/executions/compare{query}").status_code == 400
        other = started(UserFactory())
        assert api.get(f"/api/executions/compare?a={left.pk}&b={other.pk}").status_code == 404


class TestQuestions:
    def test_a_run_shows_what_it_asks(self, api, user):
        run, question = asking(user)
        body = api.get(f"/api/executions/{run.pk}").json()
        assert (body["status"], body["waiting_for"]) == ("waiting", "approval")
        assert [row["id"] for row in body["open_approvals"]] == [str(question.pk)]
        [row] = api.get(f"/api/executions/{run.pk}/approvals").json()["results"]
        assert (row["task_id"], row["round"], row["output"], row["status"]) == (question.task, 1, "A draft.", "open")

    def test_the_list_is_of_open_ones_unless_others_are_asked_for(self, api, user):
        _, first = asking(user)
        _, second = asking(user)
        api.post(f"/api/approvals/{first.pk}/answer", {"decision": "approve"}, format="json")

        def listed(query):
            return [row["id"] for row in api.get(f"/api/approvals{query}").json()["results"]]

        assert listed("") == [str(second.pk)]
        assert listed("?status=approved") == [str(first.pk)]
        assert listed("?status=approved&status=open") == [str(second.pk), str(first.pk)]
        assert listed(f"?execution_id={first.execution_id}") == []
        assert api.get("/api/approvals?status=maybe").status_code == 400

    def test_lists_take_the_same_number_of_queries_however_long(self, api, user, django_assert_max_num_queries):
        for _ in range(6):
            asking(user)
        with django_assert_max_num_queries(2):
            assert len(api.get("/api/approvals").json()["results"]) == 6

    def test_an_answer_is_taken_once(self, api, user):
        run, question = asking(user)
        path = f"/api/approvals/{question.pk}/answer"
        body = {"decision": "edit", "text": " Better. "}
        for _ in range(2):
            answer = api.post(path, body, format="json")
            assert (answer.status_code, answer.json()["status"]) == (200, "edited")
        answer = api.post(path, {"decision": "approve"}, format="json")
        assert (answer.status_code, answer.json()["code"]) == (409, "already_answered")
        question.refresh_from_db()
        assert (question.answered_via, question.text) == ("api", " Better. ")
        assert run.task_runs.get().output == " Better. "

    def test_what_is_wrong_is_named(self, api, user):
        _, question = asking(user)
        path = f"/api/approvals/{question.pk}/answer"
        for body in ({}, {"decision": "maybe"}, {"decision": "edit"}, {"decision": "reject", "feedback": " "}):
            answer = api.post(path, body, format="json")
            assert answer.status_code == 400
            assert answer.json()["errors"]
        assert api.get(f"/api/approvals/{uuid.uuid4()}").status_code == 404
        assert api.get("/api/approvals/x").status_code == 404

    def test_a_link_is_ones_own_and_dies_with_the_answer(self, api, user):
        _, question = asking(user)
        answer = api.post(f"/api/approvals/{question.pk}/link")
        assert answer.json()["days"] == 7
        token = urlsplit(answer.json()["url"]).path.rsplit("/", 1)[1]
        assert approvals.from_token(token) == (question, user)
        approvals.answer(question, user, "approve")
        assert api.post(f"/api/approvals/{question.pk}/link").status_code == 409

    def test_a_link_decides_when_it_is_sent_and_not_when_it_is_read(self, user):
        run, question = asking(user)
        path = urlsplit(approvals.make_link(question, user)).path
        strict = Client(enforce_csrf_checks=True)
        assert strict.get(path).status_code == 200
        assert strict.head(path).status_code in {200, 405}
        assert strict.post(path, {"decision": "approve"}).status_code == 403, "a forged form"
        question.refresh_from_db()
        assert question.status == Approval.Status.OPEN
        form = {"decision": "reject", "feedback": "Shorter."}
        token = strict.cookies["csrftoken"].value
        assert strict.post(path, {**form, "csrfmiddlewaretoken": token}).status_code in {200, 302}
        question.refresh_from_db()
        assert (question.status, question.answered_by, question.answered_via) == ("rejected", user, "link")
        run.refresh_from_db()
        assert run.status == Status.PENDING


def test_what_a_run_had_goes_with_it(user):
    run, question = asking(user)
    JournalEntry.objects.create(
        execution=run, request_hash="0" * 64, holder="g", attempt=1, opened_at=timezone.now(), state="lost"
    )
    fork = ExecutionFactory(forked_from=run, forked_task=question.task)
    kept = f"workspaces/{run.pk}/1-task/work.tar"
    default_storage.save(kept, ContentFile(b"packed"))
    actions.stop(run, user)
    actions.delete(execution=run, by=user)
    assert not Approval.objects.filter(pk=question.pk).exists()
    assert not JournalEntry.objects.exists()
    assert not default_storage.exists(kept)
    assert not (Path(settings.MEDIA_ROOT) / "workspaces" / str(run.pk)).exists()
    fork.refresh_from_db()
    assert fork.forked_from is None
