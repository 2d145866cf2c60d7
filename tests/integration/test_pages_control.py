"""Pages: what people do with runs that are under way, wait, or have ended."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from crews.seed import seed_catalog
from executions import actions, events
from executions.errors import ErrorCode, Failure
from executions.models import Attempt, Execution, TaskRun, Worker
from executions.status import Status
from executions.views.shown import Gauge
from tests.factories.accounts import UserFactory
from tests.factories.crews import AgentFactory, CrewInputFactory, LLMModelFactory, TaskFactory, runnable_crew
from tests.factories.executions import LEASE, TaskRunFactory, execution_in

pytestmark = pytest.mark.django_db


@pytest.fixture
def mina(client):
    seed_catalog()
    user = UserFactory(username="mina")
    client.force_login(user)
    return user


@pytest.fixture
def crew(mina):
    """Two tasks, the second on the first; one input."""
    crew = runnable_crew(owner=mina, name="Tea tasters")
    TaskFactory(
        crew=crew,
        agent=AgentFactory(owner=mina, role="Editor"),
        name="Edit",
        description="Shorten it.",
        execution_order=30_000,
        context=[crew.tasks.get()],
    )
    return crew


@pytest.fixture
def finished(crew, mina):
    """A completed run of the crew."""
    run = actions.kickoff(crew=crew, inputs={"topic": "tea"}, by=mina)
    run.start(worker="box", lease=LEASE)
    finish(run, *run.task_runs.all())
    run.complete("Short.")
    return run


def finish(run, *tasks):
    now = timezone.now()
    for task in tasks:
        TaskRun.objects.filter(pk=task.pk).update(
            status="completed", attempt=run.attempt, started_at=now, ended_at=now, output=f"Output of {task.name}."
        )


def page(name, run):
    return reverse(f"executions:{name}", args=[run.pk])


class TestPausing:
    def test_a_running_run_is_paused_after_its_tasks(self, client, mina):
        run = execution_in("running", access__owner=mina)
        assert client.post(page("run-pause", run))["Location"] == page("run-detail", run)
        run.refresh_from_db()
        assert (run.is_pausing, run.pause_at_once, run.pause_requested_by) == (True, False, mina)
        text = client.get(page("run-detail", run)).text
        assert "Pausing…" in text
        assert "finished first" in text
        assert "Pause at once" in text

    def test_or_at_once(self, client, mina):
        run = execution_in("running", access__owner=mina)
        client.post(page("run-pause", run), {"at_once": "1"})
        run.refresh_from_db()
        assert run.pause_at_once
        assert "Pause at once" not in client.get(page("run-detail", run)).text

    def test_a_paused_run_goes_on(self, client, mina):
        run = execution_in("paused", access__owner=mina)
        assert "Resume" in client.get(page("run-detail", run)).text
        client.post(page("run-resume", run))
        run.refresh_from_db()
        assert run.status == Status.PENDING

    @pytest.mark.parametrize("name", ["run-pause", "run-resume", "run-retry"])
    def test_what_cannot_be_done_is_said(self, client, mina, name):
        run = execution_in("completed", access__owner=mina)
        answer = client.post(page(name, run), follow=True)
        assert answer.status_code == 200
        assert "Only a " in answer.text

    @pytest.mark.parametrize("name", ["run-pause", "run-resume", "run-retry", "run-budget", "run-models"])
    def test_who_may(self, client, mina, name):
        shared = execution_in("running", access__visibility="shared")
        assert client.post(page(name, shared)).status_code == 403
        assert client.post(page(name, execution_in("running"))).status_code == 404
        assert client.get(page(name, shared)).status_code == 405
        shown = client.get(page("run-detail", shared)).text
        assert page("run-pause", shared) not in shown
        assert page("run-stop", shared) not in shown


class TestComingAgain:
    def run_after(self, mina, *reasons, **fields):
        run = execution_in("pending", access__owner=mina, **fields)
        for reason in reasons:
            Execution.objects.filter(pk=run.pk).update(not_before=None)
            run.refresh_from_db()
            run.start(worker="box", lease=LEASE)
            run.recover(reason=reason)
        return run

    def test_why_and_from_where_an_attempt_came(self, client, mina):
        run = execution_in("running", access__owner=mina)
        finish(run, TaskRunFactory(execution=run, name="Research"))
        run.recover(reason="The worker box disappeared.")
        run.start(worker="other", lease=LEASE)
        text = client.get(page("run-detail", run)).text
        assert "Attempt 2" in text
        assert "The worker box disappeared. It goes on after “Research”." in text
        assert "not asked or paid for again" in text

    def test_a_worker_that_was_told_to_end_counts_for_nothing_but_is_told(self, client, mina):
        run = execution_in("running", access__owner=mina)
        run.recover(reason="The worker was told to end.", is_blameless=True)
        assert "The worker was told to end." in client.get(page("run-detail", run)).text
        run.start(worker="other", lease=LEASE)
        text = client.get(page("run-detail", run)).text
        assert "The worker was told to end. No task was finished before" in text
        assert "Cut off" in text

    def test_when_it_is_tried_again_is_the_servers_word(self, client, mina):
        run = self.run_after(mina, "It crashed.", "It crashed.")
        Worker.objects.create(name="w", started_at=timezone.now(), seen_at=timezone.now(), max_runs=1)
        Execution.objects.filter(pk=run.pk).update(not_before=timezone.now() + timedelta(seconds=30))
        text = client.get(page("run-state", run)).text
        assert "Attempt 3 comes by itself" in text
        assert "tries again in " in text
        assert 'hx-trigger="every 5s"' in text
        assert "Next in the queue" not in text
        Execution.objects.filter(pk=run.pk).update(not_before=timezone.now() - timedelta(seconds=1))
        assert "tries again now" in client.get(page("run-state", run)).text

    def test_quarantine_says_what_to_do(self, client, mina):
        run = self.run_after(mina, *["The engine ended."] * 4)
        assert run.quarantine_reason
        text = client.get(page("run-detail", run)).text
        assert "In quarantine" in text
        assert "Mend the cause" in text
        assert "Retry from the failed task" in text
        assert "in quarantine" in client.get("/runs").text

    def test_a_retry_is_told_from_a_recovery(self, client, mina):
        run = execution_in("failed", access__owner=mina)
        client.post(page("run-retry", run))
        run.refresh_from_db()
        assert run.status == Status.PENDING
        run.start(worker="box", lease=LEASE)
        assert "Somebody started it again." in client.get(page("run-detail", run)).text

    def test_replayed_answers_stand_among_the_calls(self, client, mina):
        run = self.run_after(mina, "It crashed.")
        run.start(worker="box", lease=LEASE)
        events.append(run.stream_id, [events.NewEvent("llm.replayed", {"model": "small"}, role="Writer")])
        text = client.get(page("run-detail", run)).text
        assert "From the journal" in text
        assert "from the journal, at no cost" in text

    def test_draining_workers_are_named(self, client, mina):
        now = timezone.now()
        Worker.objects.create(name="w", started_at=now, seen_at=now, max_runs=1, is_draining=True)
        run = execution_in("pending", access__owner=mina)
        assert "take nothing new" in client.get(page("run-detail", run)).text
        assert "take nothing new" in client.get("/runs").text
        assert "takes nothing new" in client.get("/").text


class TestLimits:
    def test_a_limit_is_set_changed_and_lifted(self, client, mina):
        run = execution_in("running", access__owner=mina)
        client.post(page("run-budget", run), {"budget_usd": "1.5", "budget_tokens": "5000"})
        run.refresh_from_db()
        assert (run.budget_usd, run.budget_tokens) == (Decimal("1.5"), 5000)
        assert 'value="1.5"' in client.get(page("run-detail", run)).text
        client.post(page("run-budget", run), {"budget_usd": "", "budget_tokens": ""})
        run.refresh_from_db()
        assert (run.budget_usd, run.budget_tokens) == (None, None)

    def test_a_wrong_limit_is_said_beside_its_field(self, client, mina):
        run = execution_in("running", access__owner=mina)
        answer = client.post(page("run-budget", run), {"budget_usd": "-1"})
        assert answer.status_code == 422
        assert "budget_usd" in answer.context["budget_form"].errors

    def test_a_run_that_waits_for_it_goes_on(self, client, mina):
        run = execution_in("running", access__owner=mina, budget_usd=Decimal("0.01"))
        run.wait_for_budget(sentence="The limit of US$ 0.01 is met.", usd=Decimal("0.02"), tokens=900)
        text = client.get(page("run-detail", run)).text
        assert "Waits for a larger budget" in text
        assert "The limit of US$ 0.01 is met." in text
        assert "$0.0200" in text
        assert "waits for a larger budget" in client.get("/runs?status=waiting").text
        client.post(page("run-budget", run), {"budget_usd": "1"})
        run.refresh_from_db()
        assert run.status == Status.PENDING

    def test_a_completed_run_is_limited_no_more(self, client, finished):
        answer = client.post(page("run-budget", finished), {"budget_tokens": "1"})
        assert answer.status_code == 422
        assert "has ended" in answer.text

    @pytest.mark.parametrize(
        ("spent", "reserved", "limit", "shares", "tone"),
        [
            (0, 0, 100, (0, 0), "accent"),
            (1, 0, 1000, (1, 0), "accent"),
            (50, 40, 100, (50, 40), "warning"),
            (90, 40, 100, (90, 10), "warning"),
            (120, 10, 100, (100, 0), "danger"),
            (0, 0, 0, (100, 0), "danger"),
            (5, 5, None, (0, 0), "accent"),
        ],
    )
    def test_the_bar(self, spent, reserved, limit, shares, tone):
        gauge = Gauge("tokens", spent, reserved, limit)
        assert (gauge.spent_percent, gauge.reserved_percent) == shares
        assert gauge.tone == tone


class TestModels:
    def test_a_role_gets_another_model(self, client, crew, mina):
        run = actions.kickoff(crew=crew, inputs={"topic": "tea"}, by=mina)
        run.start(worker="box", lease=LEASE)
        other = LLMModelFactory(id="other")
        rows = list(run.role_models.order_by("pk"))
        sent = {f"model_{row.key}": row.llm_model_id for row in rows} | {f"model_{rows[1].key}": other.pk}
        answer = client.post(page("run-models", run), sent)
        assert answer["Location"] == page("run-detail", run)
        assert [row.llm_model_id for row in run.role_models.order_by("pk")] == [rows[0].llm_model_id, "other"]

    def test_not_of_a_run_that_has_ended(self, client, finished):
        assert page("run-models", finished) not in client.get(page("run-detail", finished)).text
        rows = finished.role_models.all()
        other = LLMModelFactory()
        answer = client.post(page("run-models", finished), {f"model_{row.key}": other.pk for row in rows})
        assert answer.status_code == 422
        assert "has ended" in answer.text


class TestStoppingEverything:
    def test_it_asks_and_then_stops_the_persons_own(self, client, mina):
        own, theirs = execution_in("running", access__owner=mina), execution_in("running")
        assert "Stop 1 run" in client.get("/runs/stop-all").text
        assert not Execution.objects.exclude(stop_requested_at=None).exists()
        answer = client.post("/runs/stop-all", follow=True)
        assert "1 run was asked to stop." in answer.text
        assert Execution.objects.get(pk=own.pk).is_stopping
        assert not Execution.objects.get(pk=theirs.pk).is_stopping

    def test_admins_stop_everybodys(self, client, mina):
        execution_in("running")
        execution_in("paused")
        client.force_login(UserFactory(admin=True))
        assert "Stop every run of everybody?" in client.get("/runs/stop-all").text
        client.post("/runs/stop-all")
        assert Execution.objects.exclude(stop_requested_at=None).count() == 2

    def test_nothing_to_stop(self, client, mina):
        assert "Nothing is running" in client.get("/runs/stop-all").text
        assert "Stop everything" not in client.get("/runs").text

    def test_viewers_stop_nothing(self, client):
        client.force_login(UserFactory(viewer=True))
        assert client.post("/runs/stop-all").status_code == 403


class TestForking:
    def url(self, run, name="Write"):
        return f"{page('run-fork', run)}?task={run.task_runs.get(name=name).task}"

    def sent(self, form):
        return {name: form[name].value() or "" for name in form.fields}

    def test_the_form_shows_what_runs_again_and_what_is_kept(self, client, finished):
        assert self.url(finished) in client.get(page("run-detail", finished)).text
        answer = client.get(self.url(finished, "Edit"))
        assert [(row.name, again) for row, again in answer.context["rows"]] == [("Write", False), ("Edit", True)]
        assert "Shorten it." in answer.text
        assert "Write about {topic}." not in answer.text
        assert "Write about {topic}." in client.get(self.url(finished)).text

    def test_only_what_was_changed_is_an_edit(self, client, finished):
        form = client.get(self.url(finished, "Edit")).context["form"]
        client.post(self.url(finished, "Edit"), self.sent(form))
        made = Execution.objects.get(forked_from=finished)
        assert made.snapshot["spec"]["tasks"] == finished.snapshot["spec"]["tasks"]
        assert made.inputs == finished.inputs
        kept = made.task_runs.get(name="Write")
        assert (kept.is_inherited, kept.output) == (True, "Output of Write.")
        assert "Kept from the run it was forked from" in client.get(page("run-detail", made)).text

    def test_inputs_texts_models_and_limits_are_changed(self, client, finished):
        form = client.get(self.url(finished)).context["form"]
        task = finished.task_runs.get(name="Write").task
        role = finished.role_models.order_by("pk").first()
        other = LLMModelFactory(price_in=1, price_out=1)
        LLMModelFactory()
        finished.role_models.exclude(pk=role.pk).update(llm_model=other)
        changed = {
            "input_topic": "coffee",
            f"tasks.{task}.description": "Write a poem\r\nabout {topic}.",
            f"model_{role.key}": other.pk,
            "budget_usd": "2",
        }
        sent = self.sent(form) | {f"model_{row.key}": other.pk for row in finished.role_models.all()} | changed
        answer = client.post(self.url(finished), sent)
        made = Execution.objects.get(forked_from=finished)
        assert answer["Location"] == page("run-detail", made)
        spec = {task["key"]: task for task in made.snapshot["spec"]["tasks"]}
        assert spec[task]["description"] == "Write a poem\nabout coffee."
        assert (made.inputs, made.budget_usd) == ({"topic": "coffee"}, 2)
        assert made.role_models.get(key=role.key).llm_model == other

    def test_a_limit_of_the_earlier_run_is_kept_or_taken_away(self, client, finished):
        Execution.objects.filter(pk=finished.pk).update(budget_tokens=500)
        form = client.get(self.url(finished)).context["form"]
        made = []
        for sent in (self.sent(form), self.sent(form) | {"budget_tokens": ""}):
            client.post(self.url(finished), sent)
            made.append(finished.forks.latest("created_at").budget_tokens)
        assert made == [500, None]

    def test_faults_stand_beside_their_fields(self, client, finished):
        form = client.get(self.url(finished)).context["form"]
        task = finished.task_runs.get(name="Write").task
        sent = self.sent(form) | {f"tasks.{task}.description": "Write about {nonsense}."}
        answer = client.post(self.url(finished), sent)
        assert answer.status_code == 422
        assert f"tasks.{task}.description" in answer.context["form"].errors
        assert not Execution.objects.filter(forked_from=finished).exists()

    def test_a_file_is_taken_over(self, client, crew, mina):
        CrewInputFactory(crew=crew, field_name="sheet", field_type="file")
        sheet = SimpleUploadedFile("a.csv", b"1,2")
        sent = {"input_topic": "x", "input_sheet": sheet, "priority": 5}
        client.post(reverse("executions:crew-run", args=[crew.pk]), sent)
        run = Execution.objects.get()
        run.start(worker="box", lease=LEASE)
        finish(run, *run.task_runs.all())
        form = client.get(self.url(run)).context["form"]
        client.post(self.url(run), self.sent(form) | {"input_sheet": "", "input_topic": "y"})
        made = Execution.objects.get(forked_from=run)
        assert made.inputs == {"topic": "y", "sheet": "a.csv"}
        assert (actions.inputs_folder(made.pk) / "sheet" / "a.csv").read_bytes() == b"1,2"

    def test_only_from_a_finished_task(self, client, crew, mina):
        run = actions.kickoff(crew=crew, inputs={"topic": "tea"}, by=mina)
        assert client.get(self.url(run)).status_code == 404
        assert client.get(page("run-fork", run)).status_code == 404

    def test_who_may(self, client, finished):
        client.force_login(UserFactory())
        assert client.get(self.url(finished)).status_code == 404
        finished.access.visibility = "shared"
        finished.access.save()
        client.force_login(UserFactory(viewer=True))
        assert client.post(self.url(finished)).status_code == 403


class TestComparing:
    def test_two_runs_side_by_side(self, client, finished, crew, mina):
        other = actions.kickoff(crew=crew, inputs={"topic": "coffee"}, by=mina)
        text = client.get(f"/runs/compare?a={finished.pk}&b={other.pk}").text
        assert "<del>tea</del>" in text
        assert "<ins>coffee</ins>" in text
        assert "Short." in text

    def test_two_are_chosen_in_a_list(self, client, finished, crew, mina):
        other = actions.kickoff(crew=crew, inputs={"topic": "coffee"}, by=mina)
        elsewhere = execution_in("completed", access__owner=mina, name="Elsewhere")
        text = client.get("/runs/compare").text
        assert all(f'value="{run.pk}"' in text for run in (finished, other, elsewhere))
        answer = client.get(f"/runs/compare?run={other.pk}&run={finished.pk}")
        assert answer["Location"] == f"/runs/compare?a={finished.pk}&b={other.pk}"  # the older one on the left
        chosen = client.get(f"/runs/compare?b={finished.pk}").text
        assert f'value="{finished.pk}" checked' in chosen
        assert "Elsewhere" not in chosen
        three = client.get(f"/runs/compare?run={other.pk}&run={finished.pk}&run={elsewhere.pk}")
        assert "not more" in three.text

    def test_what_a_model_wrote_stays_text(self, client, mina):
        runs = [execution_in("running", access__owner=mina) for _ in range(2)]
        for n, run in enumerate(runs):
            run.complete(f"<script>alert({n})</script>")
        assert "<script>alert" not in client.get(f"/runs/compare?a={runs[0].pk}&b={runs[1].pk}").text

    @pytest.mark.parametrize("query", ["a={own}&b={theirs}", "run={own}&run={theirs}", "a={own}&b=nonsense", "a=x"])
    def test_only_what_one_may_see(self, client, finished, query):
        theirs = execution_in("completed")
        assert client.get("/runs/compare?" + query.format(own=finished.pk, theirs=theirs.pk)).status_code == 404

    def test_the_number_of_queries_does_not_grow(self, client, mina):
        runs = [execution_in("completed", access__owner=mina) for _ in range(2)]

        def queries():
            with CaptureQueriesContext(connection) as caught:
                client.get(f"/runs/compare?a={runs[0].pk}&b={runs[1].pk}")
            return len(caught)

        queries()
        before = queries()
        for run in runs:
            TaskRunFactory.create_batch(5, execution=run, output="x")
        assert queries() == before


class TestTheRunForm:
    def test_limits_are_set_at_the_start(self, client, crew):
        url = reverse("executions:crew-run", args=[crew.pk])
        client.post(url, {"input_topic": "x", "priority": 5, "budget_tokens": "900"})
        assert Execution.objects.get().budget_tokens == 900

    def test_an_unpriced_model_under_a_limit_of_money_is_refused(self, client, crew):
        url = reverse("executions:crew-run", args=[crew.pk])
        answer = client.post(url, {"input_topic": "x", "priority": 5, "budget_usd": "1"})
        assert answer.status_code == 422
        assert "price" in answer.text
        assert not Execution.objects.exists()

    def test_the_estimate(self, client, crew, mina):
        url = reverse("executions:crew-run", args=[crew.pk])
        assert "not known yet" in client.get(url).text
        now = timezone.now()
        for n in range(4):
            run = execution_in("completed", crew=crew, access__owner=mina)
            Execution.objects.filter(pk=run.pk).update(cost_usd=Decimal("0.02"), prompt_tokens=1000 * (n + 1))
            Attempt.objects.filter(execution=run).update(started_at=now - timedelta(seconds=40), ended_at=now)
        text = client.get(url).text
        assert "$0.0200" in text
        assert "40 s" in text
        assert "From the last 4 completed runs" in text


def test_a_failed_run_is_retried_from_its_failed_task(client, mina):
    run = execution_in("running", access__owner=mina)
    finish(run, TaskRunFactory(execution=run, name="Research"))
    TaskRunFactory(execution=run, name="Write", status="running")
    run.fail(Failure(ErrorCode.LLM_UNAVAILABLE))
    assert "Retry from the failed task" in client.get(page("run-detail", run)).text
    client.post(page("run-retry", run))
    assert list(run.task_runs.order_by("pk").values_list("status", flat=True)) == ["completed", "pending"]
