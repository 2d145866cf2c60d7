"""The API of runs: kickoff, reading, stopping, deleting, and who may."""

import pytest
from rest_framework.test import APIClient

from crews.models import Crew
from executions.models import Execution, LLMCall
from executions.status import Status
from tests.factories.accounts import AccessListFactory, UserFactory
from tests.factories.crews import LLMModelFactory, runnable_crew
from tests.factories.executions import ExecutionFactory, LLMCallFactory, execution_in

pytestmark = pytest.mark.django_db


@pytest.fixture
def user():
    return UserFactory()


@pytest.fixture
def api(user):
    client = APIClient()
    client.force_authenticate(user)
    return client


@pytest.fixture
def crew(user):
    return runnable_crew(owner=user)


def as_user(user):
    client = APIClient()
    client.force_authenticate(user)
    return client


def run_of(crew, user, status=Status.PENDING):
    return execution_in(status, crew=crew, created_by=user, access=AccessListFactory(owner=user))


class TestKickoff:
    def test_answers_202_with_the_place_of_the_run(self, api, crew):
        answer = api.post(f"/api/crews/{crew.pk}/kickoff", {"inputs": {"topic": "bees"}}, format="json")
        assert answer.status_code == 202
        run = Execution.objects.get()
        assert answer.json() == {"execution_id": str(run.pk), "status": "pending", "url": f"/api/executions/{run.pk}"}
        assert answer.headers["Location"] == f"/api/executions/{run.pk}"
        assert run.snapshot["spec"]["tasks"][0]["description"] == "Write about bees."

    def test_a_later_edit_of_the_crew_changes_nothing(self, api, crew):
        api.post(f"/api/crews/{crew.pk}/kickoff", {"inputs": {"topic": "bees"}}, format="json")
        crew.tasks.update(description="Something else.")
        assert Execution.objects.get().snapshot["spec"]["tasks"][0]["description"] == "Write about bees."

    def test_a_model_takes_every_roles_place(self, api, crew):
        model = LLMModelFactory()
        api.post(f"/api/crews/{crew.pk}/kickoff", {"inputs": {"topic": "x"}, "model": model.pk}, format="json")
        assert [row.llm_model for row in Execution.objects.get().role_models.all()] == [model]

    def test_wrong_inputs_are_named_and_start_nothing(self, api, crew):
        answer = api.post(f"/api/crews/{crew.pk}/kickoff", {"inputs": {"topik": "bees"}}, format="json")
        assert answer.status_code == 400
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert "inputs.topik" in {error["field"] for error in answer.json()["errors"]}
        assert not Execution.objects.exists()

    def test_a_crew_that_cannot_run_says_why(self, api, crew):
        crew.tasks.all().delete()
        answer = api.post(f"/api/crews/{crew.pk}/kickoff", {"inputs": {"topic": "bees"}}, format="json")
        assert answer.status_code in {400, 409}
        assert answer.json()["errors"]
        assert not Execution.objects.exists()

    def test_the_same_key_and_body_start_one_run(self, api, crew):
        def kickoff(topic):
            return api.post(
                f"/api/crews/{crew.pk}/kickoff", {"inputs": {"topic": topic}}, format="json", HTTP_IDEMPOTENCY_KEY="k"
            )

        assert kickoff("bees").json() == kickoff("bees").json()
        assert kickoff("wasps").status_code == 409
        assert Execution.objects.count() == 1

    def test_a_viewer_may_see_a_shared_crew_and_not_run_it(self, crew):
        crew.access.visibility = "shared"
        crew.access.save()
        assert as_user(UserFactory(viewer=True)).post(f"/api/crews/{crew.pk}/kickoff").status_code == 403
        assert as_user(UserFactory()).post(f"/api/crews/{crew.pk}/kickoff", {}, format="json").status_code == 202

    def test_a_private_crew_is_not_there_for_others(self, crew):
        assert as_user(UserFactory()).post(f"/api/crews/{crew.pk}/kickoff").status_code == 404

    def test_a_stranger_is_asked_who_it_is(self, crew):
        assert APIClient().post(f"/api/crews/{crew.pk}/kickoff").status_code == 401


class TestReading:
    def test_a_run_is_read_whole(self, api, crew, user):
        run = run_of(crew, user, Status.COMPLETED)
        body = api.get(f"/api/executions/{run.pk}").json()
        assert (body["status"], body["final_output"], body["crew_id"]) == ("completed", "The result.", str(crew.pk))

    def test_others_do_not_see_it_and_admins_do(self, crew, user):
        run = run_of(crew, user)
        for path in (f"/api/executions/{run.pk}", f"/api/executions/{run.pk}/events"):
            assert as_user(UserFactory()).get(path).status_code == 404
            assert as_user(UserFactory(admin=True)).get(path).status_code == 200
        assert as_user(UserFactory()).get("/api/executions").json()["results"] == []

    def test_events_go_on_after_a_number(self, api, crew, user):
        run = run_of(crew, user, Status.COMPLETED)
        first = api.get(f"/api/executions/{run.pk}/events").json()
        assert [event["seq"] for event in first["results"]] == [1, 2]
        rest = api.get(f"/api/executions/{run.pk}/events?after=1").json()
        assert [event["seq"] for event in rest["results"]] == [2]
        assert api.get(f"/api/executions/{run.pk}/events?after=x").status_code == 400

    def test_status_is_the_newest_and_result_the_newest_completed(self, api, crew, user):
        assert api.get(f"/api/crews/{crew.pk}/result").status_code == 404
        done = run_of(crew, user, Status.COMPLETED)
        newest = run_of(crew, user)
        assert api.get(f"/api/crews/{crew.pk}/status").json()["id"] == str(newest.pk)
        assert api.get(f"/api/crews/{crew.pk}/result/").json()["id"] == str(done.pk)

    def test_lists_take_the_same_number_of_queries_however_long(self, api, user, django_assert_max_num_queries):
        for _ in range(12):
            ExecutionFactory(created_by=user, access=AccessListFactory(owner=user))
        with django_assert_max_num_queries(3):
            body = api.get("/api/executions?page_size=5&count=1").json()
        assert (len(body["results"]), body["count"]) == (5, 12)
        assert api.get(body["next"]).status_code == 200

    def test_llm_calls_are_paged(self, api, crew, user):
        run = run_of(crew, user, Status.RUNNING)
        LLMCallFactory.create_batch(3, execution=run)
        body = api.get(f"/api/executions/{run.pk}/llm-calls?page_size=2").json()
        assert [call["id"] for call in body["results"]] == sorted(
            [call["id"] for call in body["results"]], reverse=True
        )
        assert len(api.get(body["next"]).json()["results"]) == 1


class TestStopping:
    def test_a_run_that_waits_stops_at_once(self, api, crew, user):
        run = run_of(crew, user)
        assert api.post(f"/api/executions/{run.pk}/stop").json()["status"] == "stopped"

    def test_a_running_one_is_asked_to(self, api, crew, user):
        run = run_of(crew, user, Status.RUNNING)
        assert api.post(f"/api/executions/{run.pk}/stop").status_code == 202
        run.refresh_from_db()
        assert run.status == Status.RUNNING
        assert run.stop_requested_by == user

    def test_an_ended_one_says_so(self, api, crew, user):
        run = run_of(crew, user, Status.COMPLETED)
        answer = api.post(f"/api/executions/{run.pk}/stop")
        assert (answer.status_code, answer.json()["code"]) == (409, "invalid_transition")

    def test_all_of_a_crew(self, api, crew, user):
        run_of(crew, user, Status.COMPLETED)
        active = run_of(crew, user)
        assert api.post(f"/api/crews/{crew.pk}/stop").json()["stopped"] == [str(active.pk)]


class TestDeleting:
    def test_keeps_the_usage(self, api, crew, user):
        run = run_of(crew, user, Status.COMPLETED)
        call = LLMCallFactory(execution=run)
        assert api.delete(f"/api/crews/{crew.pk}/executions/{run.pk}").status_code == 204
        assert not Execution.objects.exists()
        assert LLMCall.objects.get(pk=call.pk).execution is None

    def test_not_while_it_is_active(self, api, crew, user):
        run = run_of(crew, user, Status.RUNNING)
        assert api.delete(f"/api/crews/{crew.pk}/executions/{run.pk}").status_code == 409

    def test_nor_its_crew(self, api, crew, user):
        run_of(crew, user, Status.RUNNING)
        assert api.delete(f"/api/crews/{crew.pk}").status_code == 409
        assert Crew.objects.filter(pk=crew.pk).exists()
