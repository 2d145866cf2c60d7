"""Pages of runs: the run form, the list, the page of one."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from crews.seed import seed_catalog
from executions import actions, budgets, events
from executions.errors import ErrorCode, Failure
from executions.models import Budget, Execution, TaskRun, Worker
from executions.status import Status
from tests.factories.accounts import AccessListFactory, UserFactory
from tests.factories.crews import CrewInputFactory, runnable_crew
from tests.factories.executions import LLMCallFactory, TaskRunFactory, execution_in

pytestmark = pytest.mark.django_db

EVIL = "# Title\n\n<script>alert(1)</script> **bold** [x](javascript:alert(1)) ![p](https://evil.example/p.png)"


@pytest.fixture
def mina(client):
    seed_catalog()
    user = UserFactory(username="mina")
    client.force_login(user)
    return user


@pytest.fixture
def crew(mina):
    return runnable_crew(owner=mina, name="Tea tasters")


@pytest.fixture
def worker():
    now = timezone.now()
    return Worker.objects.create(name="box", started_at=now, seen_at=now, max_runs=4)


def run_url(crew):
    return reverse("executions:crew-run", args=[crew.pk])


def page(name, run):
    return reverse(f"executions:{name}", args=[run.pk])


class TestTheRunForm:
    def test_it_is_made_of_the_inputs(self, client, crew):
        for kind in ("textarea", "number", "boolean", "file"):
            CrewInputFactory(crew=crew, field_name=kind, field_type=kind, is_required=False)
        CrewInputFactory(crew=crew, field_name="depth", field_type="select", options=["short", "long"])
        text = client.get(run_url(crew)).text
        for name in ("topic", "textarea", "number", "boolean", "file", "depth"):
            assert f'name="input_{name}"' in text
        assert 'value="tea"' in text

    def test_it_starts_a_run(self, client, mina, crew):
        answer = client.post(run_url(crew), {"input_topic": "green tea", "priority": 7})
        run = Execution.objects.get()
        assert answer["Location"] == page("run-detail", run)
        assert (run.inputs, run.priority, run.created_by) == ({"topic": "green tea"}, 7, mina)

    def test_every_kind_of_input_arrives_typed(self, client, crew):
        CrewInputFactory(crew=crew, field_name="cups", field_type="number")
        CrewInputFactory(crew=crew, field_name="iced", field_type="boolean", default="true")
        CrewInputFactory(crew=crew, field_name="sheet", field_type="file")
        sent = {
            "input_topic": "x",
            "input_cups": "3",
            "input_sheet": SimpleUploadedFile("a.csv", b"1,2"),
            "priority": 5,
        }
        client.post(run_url(crew), sent)
        run = Execution.objects.get()
        assert run.inputs == {"topic": "x", "cups": 3, "iced": False, "sheet": "a.csv"}
        assert (actions.inputs_folder(run.pk) / "sheet" / "a.csv").read_bytes() == b"1,2"

    def test_faults_stand_beside_their_fields(self, client, crew):
        CrewInputFactory(crew=crew, field_name="cups", field_type="number")
        answer = client.post(run_url(crew), {"input_topic": "x", "input_cups": "many", "priority": 5})
        assert answer.status_code == 422
        assert answer.context["form"].errors == {"input_cups": ["Give a number."]}
        assert not Execution.objects.exists()

    def test_a_crew_that_cannot_run_says_why(self, client, crew):
        crew.tasks.all().delete()
        assert "This crew cannot run yet" in client.get(run_url(crew)).text
        answer = client.post(run_url(crew), {"input_topic": "x", "priority": 5})
        assert answer.status_code == 422
        assert "The crew has no tasks." in answer.text

    def test_a_model_takes_every_agents_place(self, client, crew):
        client.post(run_url(crew), {"input_topic": "x", "priority": 5, "model": "embedded"})
        assert [row.llm_model_id for row in Execution.objects.get().role_models.all()] == ["embedded"]

    def test_again_with_the_same_inputs(self, client, mina, crew):
        CrewInputFactory(crew=crew, field_name="sheet", field_type="file")
        sent = {"input_topic": "oolong", "input_sheet": SimpleUploadedFile("a.csv", b"1,2"), "priority": 5}
        client.post(run_url(crew), sent)
        first = Execution.objects.get()
        again = f"{run_url(crew)}?from={first.pk}"
        text = client.get(again).text
        assert 'value="oolong"' in text
        assert "a.csv" in text
        client.post(again, {"input_topic": "oolong", "priority": 5})
        second = Execution.objects.exclude(pk=first.pk).get()
        assert second.inputs == first.inputs
        assert (actions.inputs_folder(second.pk) / "sheet" / "a.csv").read_bytes() == b"1,2"

    def test_inputs_of_other_peoples_runs_are_not_taken(self, client, crew):
        theirs = execution_in("completed", crew=crew, inputs={"topic": "secret"})
        assert "secret" not in client.get(f"{run_url(crew)}?from={theirs.pk}").text
        assert client.get(f"{run_url(crew)}?from=nonsense").status_code == 200

    def test_who_may_run(self, client, crew):
        client.force_login(UserFactory(viewer=True))
        assert client.get(run_url(crew)).status_code == 403
        client.force_login(UserFactory())
        assert client.post(run_url(crew), {"input_topic": "x"}).status_code == 404


class TestTheList:
    def test_it_shows_the_persons_own(self, client, mina):
        own = execution_in("completed", access__owner=mina, name="Mine")
        theirs = execution_in("completed", name="Theirs")
        text = client.get("/runs").text
        assert page("run-detail", own) in text
        assert page("run-detail", theirs) not in text

    def test_it_narrows(self, client, mina, crew):
        for status in ("pending", "running", "completed", "failed"):
            execution_in(status, access__owner=mina, name=status)
        execution_in("stopped", access__owner=mina, name="of crew", crew=crew)

        def names(query):
            return {run.name for run in client.get(f"/runs?{query}").context["page"].rows}

        assert names("status=active") == {"pending", "running"}
        assert names("status=failed") == {"failed"}
        assert names(f"crew={crew.pk}") == {"of crew"}
        assert len(names("status=nonsense&crew=nonsense")) == 5


class TestThePage:
    def test_a_pending_run_without_a_worker_says_what_to_do(self, client, mina):
        run = execution_in("pending", access__owner=mina)
        text = client.get(page("run-detail", run)).text
        assert "No worker is running" in text
        assert "manage.py worker" in text

    def test_a_pending_run_shows_its_place(self, client, mina, worker):
        execution_in("pending")
        run = execution_in("pending", access__owner=mina)
        assert "Number 2 in the queue" in client.get(page("run-detail", run)).text

    def test_a_running_run_shows_what_is_stored_so_far(self, client, mina):
        run = execution_in("running", access__owner=mina)
        task = TaskRunFactory(execution=run, name="Taste", role="Taster", status=TaskRun.Status.RUNNING)
        TaskRun.objects.filter(pk=task.pk).update(started_at=timezone.now() - timedelta(seconds=5))
        LLMCallFactory(execution=run, task=task.task, text="So far <b>so good")
        text = client.get(page("run-detail", run)).text
        assert "So far &lt;b&gt;so good" in text
        assert "data-active" in text
        assert f'data-socket="/ws/executions/{run.pk}"' in text

    def test_what_a_model_wrote_is_sanitized(self, client, mina):
        run = execution_in("running", access__owner=mina)
        task = TaskRunFactory(execution=run, name=EVIL, role=EVIL, status=TaskRun.Status.COMPLETED, output=EVIL)
        events.append(run.stream_id, [events.NewEvent("log", {"message": EVIL}, task=task.task, role=EVIL)])
        run.complete(EVIL)
        for name in ("run-detail", "run-live", "run-events"):
            text = client.get(page(name, run)).text
            assert "<script>alert" not in text
            assert 'href="javascript:' not in text
            assert "<img" not in text
        assert "<strong>bold</strong>" in client.get(page("run-detail", run)).text

    def test_a_failed_run_says_why_and_what_to_do(self, client, mina):
        run = execution_in("running", access__owner=mina)
        run.fail(Failure(ErrorCode.LLM_AUTH), partial_output="half")
        text = client.get(page("run-detail", run)).text
        assert "did not accept the key" in text
        assert "Ask an admin to check" in text
        assert "Partial result" in text

    def test_cost_is_told_apart(self, client, mina):
        run = execution_in("completed", access__owner=mina)
        Execution.objects.filter(pk=run.pk).update(unpriced_calls=1)
        closed = {"status": "completed", "closed_at": timezone.now()}
        LLMCallFactory(execution=run, cost_usd=None, **closed)
        LLMCallFactory(execution=run, cost_usd=0, **closed)
        LLMCallFactory(execution=run, cost_usd="0.0125", **closed)
        text = client.get(page("run-detail", run)).text
        assert text.count("Unpriced") == 2
        assert "$0.0125" in text
        assert "Free" in text

    def test_the_fragments_bring_the_events_after_a_number(self, client, mina):
        run = execution_in("completed", access__owner=mina)
        text = client.get(f"{page('run-live', run)}?after=1").text
        assert '<li class="event" data-seq="1"' not in text
        assert '<li class="event" data-seq="2"' in text
        assert 'id="event-cursor" data-seq="2"' in text

    def test_events_narrow_and_page(self, client, mina):
        run = execution_in("running", access__owner=mina)
        events.append(run.stream_id, [events.NewEvent("log", {"message": f"line {n}"}) for n in range(300)])
        shown = client.get(page("run-detail", run)).context["log"]
        assert len(shown.rows) == 200
        assert shown.has_earlier
        earlier = client.get(f"{page('run-events', run)}?before={shown.first_seq}").context["log"]
        assert earlier.rows[-1].seq == shown.first_seq - 1
        only = client.get(f"{page('run-events', run)}?group=runs").context["log"]
        assert {event.type.partition(".")[0] for event in only.rows} == {"execution"}

    def test_who_may_see_it(self, client, mina):
        run = execution_in("running")
        for name in ("run-detail", "run-live", "run-events", "run-result"):
            assert client.get(page(name, run)).status_code == 404
        assert client.post(page("run-stop", run)).status_code == 404

    def test_the_number_of_queries_does_not_grow(self, client, mina, crew):
        run = execution_in("running", access__owner=mina, crew=crew)

        def queries(name):
            with CaptureQueriesContext(connection) as caught:
                client.get(page(name, run))
            return len(caught)

        def more():
            for _ in range(5):
                task = TaskRunFactory(execution=run, status=TaskRun.Status.RUNNING)
                for _ in range(3):
                    LLMCallFactory(execution=run, task=task.task, role="R")
                events.append(run.stream_id, [events.NewEvent("log", {"message": "x"})] * 5)

        more()
        client.get("/")
        before = queries("run-detail"), queries("run-live")
        more()
        assert (queries("run-detail"), queries("run-live")) == before


class TestDoing:
    def test_a_run_is_stopped(self, client, mina):
        run = execution_in("pending", access__owner=mina)
        assert client.post(page("run-stop", run))["Location"] == page("run-detail", run)
        run.refresh_from_db()
        assert (run.status, run.stop_requested_by) == ("stopped", mina)
        assert "Stopped by mina" in client.get(page("run-detail", run)).text

    def test_a_running_run_shows_that_it_is_stopping(self, client, mina):
        run = execution_in("running", access__owner=mina)
        client.post(page("run-stop", run))
        assert "Stopping…" in client.get(page("run-detail", run)).text

    def test_stopping_what_has_ended_is_no_error(self, client, mina):
        run = execution_in("completed", access__owner=mina)
        answer = client.post(page("run-stop", run), follow=True)
        assert "had ended already" in answer.text

    def test_stopping_takes_a_post(self, client, mina):
        assert client.get(page("run-stop", execution_in("running", access__owner=mina))).status_code == 405

    def test_the_result_is_downloaded_as_it_was_written(self, client, mina):
        run = execution_in("running", access__owner=mina, name="Tea & more")
        run.complete(EVIL)
        answer = client.get(page("run-result", run))
        assert answer.text == EVIL
        assert answer["Content-Disposition"].startswith("attachment")
        assert answer["Content-Type"] == "text/markdown; charset=utf-8"

    def test_deleting_asks_first_and_only_when_it_has_ended(self, client, mina):
        run = execution_in("running", access__owner=mina)
        answer = client.post(page("run-delete", run), follow=True)
        assert "still active" in answer.text
        run.complete("x")
        assert client.get(page("run-delete", run)).status_code == 200
        client.post(page("run-delete", run))
        assert not Execution.objects.filter(pk=run.pk).exists()


class TestRunsOfNoCrew:
    """As projects start them: an agent, a task, and deliverables in the event of its end."""

    @pytest.fixture
    def run(self, mina):
        spec = {
            "name": "Shop: Plan",
            "process": "sequential",
            "agents": [{"key": "planner", "role": "Planner", "goal": "Plan.", "backstory": "", "llm": {}}],
            "tasks": [
                {"key": "planning", "name": "Plan", "description": "Plan it.", "expected_output": "A plan",
                 "agent": "planner", "context": [], "async_execution": False},
            ],
        }  # fmt: skip
        access = AccessListFactory(owner=mina)
        run = execution_in(
            Status.COMPLETED,
            access=access,
            created_by=mina,
            trigger=Execution.Trigger.PROJECT,
            snapshot={"spec": spec, "limits": {}},
        )
        TaskRunFactory(execution=run, task="planning", name="Plan", status=TaskRun.Status.COMPLETED, output="The plan.")
        file = {"path": "src/main.py", "content": "SECRETLY_LONG = 1\n" * 40_000}
        made = {"type": "code", "title": "The code", "content": "", "files": [file]}
        data = {"name": "Plan", "output": "The plan.", "deliverables": [made], "notes": "n" * 9000}
        events.append(run.stream_id, [events.NewEvent("task.completed", task="planning", data=data)])
        return run

    @pytest.mark.parametrize("name", ["run-detail", "run-live", "run-state", "run-events", "run-delete"])
    def test_its_pages_stand(self, client, run, name):
        answer = client.get(page(name, run))
        assert answer.status_code == 200

    def test_its_events_name_deliverables_without_their_contents(self, client, run):
        text = client.get(page("run-detail", run)).text
        assert "Plan · The code" in text
        assert "src/main.py" in text
        assert "SECRETLY_LONG" not in text
        assert "n" * 5000 in text
        assert "n" * 5001 not in text
        assert len(text) < 100_000

    def test_the_budget_of_its_project_stands_beside_its_own(self, client, run):
        assert "All runs of the project together" not in client.get(page("run-detail", run)).text
        budgets.set_for_access(run.access_id, limit_usd=7, by=None)
        Budget.objects.update(spent_usd=Decimal("1.75"))
        text = client.get(page("run-detail", run)).text
        assert "All runs of the project together" in text
        assert "25 % spent" in text

    def test_it_can_be_forked_and_stands_in_lists(self, client, run):
        assert client.get(page("run-fork", run) + "?task=planning").status_code == 200
        assert run.name in client.get(reverse("executions:run-list")).text
        assert client.get(reverse("executions:run-compare") + f"?a={run.pk}&b={run.pk}").status_code == 200
