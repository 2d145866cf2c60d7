"""The API of definitions: reading and changing them, who may, and what is refused."""

import uuid

import pytest
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from crews.models import Agent, Crew, CrewInput, LLMModel, LLMProvider, Task
from crews.seed import seed_catalog
from executions.status import Status
from portal.accounts.models import AccessGrant, AccessList, Role
from tests.factories.accounts import AccessListFactory, UserFactory
from tests.factories.crews import (
    AgentFactory,
    CrewFactory,
    CrewInputFactory,
    CrewMemberFactory,
    LLMModelFactory,
    LLMProviderFactory,
    TaskFactory,
    ToolFactory,
    runnable_crew,
)
from tests.factories.executions import execution_in

pytestmark = pytest.mark.django_db


def client_of(user):
    client = APIClient()
    client.force_authenticate(user)
    return client


@pytest.fixture
def user():
    return UserFactory()


@pytest.fixture
def api(user):
    return client_of(user)


@pytest.fixture
def admin():
    return client_of(UserFactory(admin=True))


@pytest.fixture
def viewer():
    return client_of(UserFactory(viewer=True))


def send(client, method, path, body=None):
    return getattr(client, method)(f"/api/{path}", body, format="json")


def faults(answer):
    """(field, code) of each error of a problem document."""
    assert answer.headers["Content-Type"] == "application/problem+json"
    return [(error["field"], error["code"]) for error in answer.json().get("errors", [])]


class TestAgents:
    def test_create_read_replace_update_delete(self, api, user):
        tool = ToolFactory()
        LLMModelFactory(id="embedded")
        body = {"role": "Editor", "goal": "Edit.", "tools": [str(tool.pk)], "llm_config": {"temperature": 0.2}}

        made = send(api, "post", "agents", body)
        assert made.status_code == 201
        agent = made.json()
        assert agent["owner_id"] == str(user.pk)
        assert (agent["llm_model"], agent["visibility"], agent["tools"]) == ("embedded", "private", [str(tool.pk)])

        path = f"agents/{agent['id']}"
        assert send(api, "get", path).json() == agent
        assert send(api, "patch", path, {"goal": "Cut."}).json()["goal"] == "Cut."
        replaced = send(api, "put", path, {"role": "Chief", "goal": "Lead."}).json()
        assert (replaced["role"], replaced["tools"], replaced["llm_config"]) == ("Chief", [], {})
        assert send(api, "delete", path).status_code == 204
        assert not Agent.objects.exists()
        assert not AccessList.objects.exists()

    @pytest.mark.parametrize(
        ("config", "code"),
        [({"temperature": 3}, "bad_parameter"), ({"api_key": "x"}, "bad_parameter"), ([], "not_an_object")],
    )
    def test_parameters_of_calls_are_checked(self, api, config, code):
        agent = AgentFactory(owner=UserFactory())
        api = client_of(agent.owner)
        assert faults(send(api, "patch", f"agents/{agent.pk}", {"llm_config": config})) == [("llm_config", code)]

    def test_an_unknown_name_in_a_goal_is_refused_where_the_agent_works(self, api, user):
        crew = runnable_crew(owner=user)
        agent = crew.agents.get()
        answer = send(api, "patch", f"agents/{agent.pk}", {"goal": 'Serve {topic} and {colour}, as {"a": 1}'})
        assert faults(answer) == [("goal", "unknown_placeholder")]
        assert "{colour}" in answer.json()["errors"][0]["detail"]

    def test_one_that_has_tasks_is_not_deleted(self, api, user):
        crew = runnable_crew(owner=user, name="Tea room")
        answer = send(api, "delete", f"agents/{crew.agents.get().pk}")
        assert answer.status_code == 409
        assert "Tea room" in answer.json()["detail"]

    def test_the_names_of_other_peoples_crews_stay_private(self, user):
        agent = AgentFactory(owner=user, shared=True)
        CrewMemberFactory(crew=CrewFactory(name="Secret plan"), agent=agent)
        answer = send(client_of(user), "delete", f"agents/{agent.pk}")
        assert answer.status_code == 409
        assert "Secret" not in answer.json()["detail"]


class TestCrews:
    def test_create_read_replace_update_delete(self, api, user):
        first, second = AgentFactory(owner=user), AgentFactory(owner=user)
        body = {"name": "Tea", "process": "parallel", "agent_ids": [str(second.pk), str(first.pk)]}

        made = send(api, "post", "crews", body)
        assert made.status_code == 201
        crew = made.json()
        assert crew["agent_ids"] == [str(second.pk), str(first.pk)]
        assert (crew["engine"], crew["status"], crew["owner_id"]) == ("crewai", "active", str(user.pk))

        path = f"crews/{crew['id']}"
        assert send(api, "get", path).json() == crew
        assert send(api, "patch", path, {"agent_ids": [str(first.pk)]}).json()["agent_ids"] == [str(first.pk)]
        replaced = send(api, "put", path, {"name": "Coffee"}).json()
        assert (replaced["name"], replaced["process"]) == ("Coffee", "sequential")
        assert replaced["agent_ids"] == [str(first.pk)]
        assert send(api, "delete", path).status_code == 204
        assert not Crew.objects.exists()
        assert Agent.objects.count() == 2

    def test_a_crew_that_is_led_needs_a_manager(self, api, user):
        answer = send(api, "post", "crews", {"name": "Led", "process": "hierarchical"})
        assert faults(answer) == [("manager_agent_id", "manager_missing")]
        manager = AgentFactory(owner=user)
        body = {"name": "Led", "process": "hierarchical", "manager_agent_id": str(manager.pk)}
        assert send(api, "post", "crews", body).status_code == 201

    def test_another_persons_private_agent_cannot_join(self, api):
        answer = send(api, "post", "crews", {"name": "Tea", "agent_ids": [str(AgentFactory().pk)]})
        assert faults(answer) == [("agent_ids", "does_not_exist")]
        assert not Crew.objects.exists()

    def test_a_member_with_tasks_cannot_leave(self, api, user):
        crew = runnable_crew(owner=user)
        answer = send(api, "patch", f"crews/{crew.pk}", {"agent_ids": []})
        assert faults(answer) == [("agent_ids", "agent_has_tasks")]
        assert crew.members.count() == 1

    def test_one_that_runs_is_not_deleted(self, api, user):
        crew = runnable_crew(owner=user)
        execution_in(Status.PENDING, crew=crew)
        answer = send(api, "delete", f"crews/{crew.pk}")
        assert (answer.status_code, answer.json()["code"]) == (409, "run_active")
        assert Crew.objects.exists()

    def test_a_copy_is_private_and_stands_alone(self, user):
        crew = runnable_crew(shared=True)
        answer = send(client_of(user), "post", f"crews/{crew.pk}/copy")
        assert answer.status_code == 201
        copied = Crew.objects.get(pk=answer.json()["id"])
        assert (copied.owner, copied.visibility) == (user, "private")
        assert copied.agents.get().owner == user
        assert copied.tasks.get().agent == copied.agents.get()
        assert copied.inputs.get().field_name == "topic"


class TestTasks:
    def body(self, crew, **fields):
        return {
            "crew_id": str(crew.pk),
            "agent_id": str(crew.agents.get().pk),
            "name": "Brew",
            "description": "Brew {topic}.",
            "expected_output": "Tea.",
            **fields,
        }

    def test_create_read_replace_update_delete(self, api, user):
        crew = runnable_crew(owner=user)
        other = crew.tasks.get()

        made = send(api, "post", "tasks", self.body(crew, context=[str(other.pk)], execution_order=2))
        assert made.status_code == 201
        task = made.json()
        assert (task["context"], task["status"], task["crew_id"]) == ([str(other.pk)], None, str(crew.pk))

        path = f"tasks/{task['id']}"
        assert send(api, "get", path).json() == task
        assert send(api, "patch", path, {"name": "Boil"}).json()["name"] == "Boil"
        assert send(api, "put", path, self.body(crew)).json()["context"] == []
        assert send(api, "delete", path).status_code == 204
        assert list(crew.tasks.all()) == [other]

    def test_the_status_is_that_of_the_latest_run_that_one_may_see(self, api, user):
        crew = runnable_crew(owner=user)
        task = crew.tasks.get()
        for owner, status in ((user, "failed"), (user, "running"), (UserFactory(), "completed")):
            run = execution_in(Status.PENDING, crew=crew, access=AccessListFactory(owner=owner))
            run.task_runs.create(task=str(task.pk), name="x", status=status)
        assert send(api, "get", f"tasks/{task.pk}").json()["status"] == "running"
        assert send(api, "get", "tasks").json()["results"][0]["status"] == "running"

    @pytest.mark.parametrize("field", ["description", "expected_output"])
    def test_an_unknown_name_is_refused(self, api, user, field):
        crew = runnable_crew(owner=user)
        answer = send(api, "post", "tasks", self.body(crew, **{field: "Brew {colour}."}))
        assert faults(answer) == [(field, "unknown_placeholder")]

    def test_braces_of_json_are_left_alone(self, api, user):
        body = self.body(runnable_crew(owner=user), description='Answer {"a": {}} or { x }')
        assert send(api, "post", "tasks", body).status_code == 201

    def test_who_is_no_member_gets_no_task(self, api, user):
        crew = runnable_crew(owner=user)
        answer = send(api, "post", "tasks", self.body(crew, agent_id=str(AgentFactory(owner=user).pk)))
        assert faults(answer) == [("agent_id", "not_a_member")]

    def test_a_circle_is_named(self, api, user):
        crew = runnable_crew(owner=user)
        first = crew.tasks.get()
        second = TaskFactory(crew=crew, agent=crew.agents.get(), name="Pour", context=[first])
        answer = send(api, "patch", f"tasks/{first.pk}", {"context": [str(second.pk)]})
        assert faults(answer) == [("context", "cyclic_context")]
        detail = answer.json()["errors"][0]["detail"]
        assert "Write" in detail
        assert "Pour" in detail
        assert not first.context.exists()

    def test_context_of_another_crew_is_refused(self, api, user):
        crew, other = runnable_crew(owner=user), runnable_crew(owner=user)
        answer = send(api, "post", "tasks", self.body(crew, context=[str(other.tasks.get().pk)]))
        assert faults(answer) == [("context", "context_of_another_crew")]

    def test_two_of_one_name_are_refused(self, api, user):
        answer = send(api, "post", "tasks", self.body(runnable_crew(owner=user), name="Write"))
        assert answer.status_code == 400
        assert Task.objects.count() == 1

    def test_it_stays_in_its_crew(self, api, user):
        crew, other = runnable_crew(owner=user), runnable_crew(owner=user)
        answer = send(api, "patch", f"tasks/{crew.tasks.get().pk}", {"crew_id": str(other.pk)})
        assert faults(answer) == [("crew_id", "immutable")]


class TestInputs:
    def test_create_read_replace_update_delete(self, api, user):
        crew = CrewFactory(owner=user)
        made = send(api, "post", f"crews/{crew.pk}/inputs", {"field_name": "size", "field_type": "number"})
        assert made.status_code == 201
        path = f"crews/{crew.pk}/inputs/{made.json()['id']}"
        assert send(api, "get", path).json() == made.json()
        assert send(api, "patch", path, {"default": "3"}).json()["default"] == "3"
        assert send(api, "put", path, {"field_name": "weight"}).json()["field_type"] == "text"
        assert [row["field_name"] for row in send(api, "get", f"crews/{crew.pk}/inputs").json()["results"]] == [
            "weight"
        ]
        assert send(api, "delete", path).status_code == 204
        assert not CrewInput.objects.exists()

    def test_the_whole_list_at_once(self, api, user):
        crew = runnable_crew(owner=user)
        topic = crew.inputs.get()
        body = [
            {"field_name": "topic", "field_label": "Subject"},
            {"field_name": "tone", "field_type": "select", "options": ["calm", "loud"]},
        ]
        answer = send(api, "put", f"crews/{crew.pk}/inputs", body)
        assert answer.status_code == 200
        assert answer.json()["results"][0]["id"] == str(topic.pk)
        assert crew.inputs.count() == 2
        refused = send(api, "put", f"crews/{crew.pk}/inputs", body[1:])
        assert (refused.status_code, refused.json()["code"]) == (409, "input_in_use")
        assert crew.inputs.count() == 2
        assert faults(send(api, "put", f"crews/{crew.pk}/inputs", [body[0], body[0]])) == [("1.field_name", "repeated")]

    def test_one_that_texts_use_neither_goes_nor_changes_its_name(self, api, user):
        crew = runnable_crew(owner=user)
        path = f"crews/{crew.pk}/inputs/{crew.inputs.get().pk}"
        gone = send(api, "delete", path)
        assert gone.status_code == 409
        assert "Write" in gone.json()["detail"]
        assert faults(send(api, "patch", path, {"field_name": "subject"})) == [("field_name", "in_use")]

    @pytest.mark.parametrize(
        ("fields", "fault"),
        [
            ({"field_type": "select"}, ("options", "required")),
            ({"field_type": "select", "options": ["a"], "default": "b"}, ("default", "invalid")),
            ({"field_type": "number", "default": "many"}, ("default", "invalid")),
            ({"field_type": "file", "default": "x"}, ("default", "invalid")),
            ({"field_name": "No Name"}, ("field_name", "invalid")),
        ],
    )
    def test_what_cannot_be_is_refused(self, api, user, fields, fault):
        crew = CrewFactory(owner=user)
        answer = send(api, "post", f"crews/{crew.pk}/inputs", {"field_name": "size", **fields})
        assert faults(answer) == [fault]


class TestTools:
    def test_admins_switch_them(self, admin, api):
        tool = ToolFactory()
        assert send(api, "get", f"tools/{tool.pk}").json()["name"] == tool.name
        assert send(api, "patch", f"tools/{tool.pk}", {"enabled": False}).status_code == 403
        assert send(admin, "patch", f"tools/{tool.pk}", {"enabled": False}).json()["enabled"] is False
        assert send(admin, "patch", f"tools/{tool.pk}", {"name": "other"}).json()["name"] == tool.name
        assert send(admin, "post", "tools", {"name": "mine"}).status_code == 405


class TestCatalog:
    def test_providers_are_changed_by_admins_and_show_no_key(self, admin, api, viewer):
        body = {"name": "Mine", "kind": "openai_compatible", "api_base": "https://a.example/v1", "api_key": "sk-secret"}
        made = send(admin, "post", "llm/providers", body)
        assert made.status_code == 201
        path = f"llm/providers/{made.json()['id']}"
        read = send(admin, "get", path)
        assert read.json()["has_key"] is True
        assert "sk-secret" not in read.content.decode()
        assert [send(client, "get", path).status_code for client in (api, viewer)] == [403, 403]
        assert send(api, "patch", path, {"enabled": False}).status_code == 403
        assert send(admin, "patch", path, {"name": "Ours"}).json()["has_key"] is True
        assert LLMProvider.objects.get().api_key == "sk-secret"
        replaced = send(admin, "put", path, {"name": "Ours", "api_base": "https://a.example/v2"})
        assert (replaced.json()["has_key"], replaced.json()["notice"]) == (True, "")
        assert send(admin, "patch", path, {"api_key": ""}).json()["has_key"] is False
        assert send(admin, "delete", path).status_code == 204

    def test_a_key_does_not_follow_to_another_host(self, admin):
        provider = LLMProviderFactory(api_base="https://a.example/v1", api_key="sk-secret")
        path = f"llm/providers/{provider.pk}"
        moved = send(admin, "patch", path, {"api_base": "https://b.example/v1"}).json()
        assert moved["has_key"] is False
        assert "dropped" in moved["notice"]
        both = send(admin, "patch", path, {"api_base": "https://c.example/v1", "api_key": "sk-new"}).json()
        assert (both["has_key"], both["notice"]) == (True, "")

    def test_an_address_is_needed(self, admin):
        answer = send(admin, "post", "llm/providers", {"name": "Mine", "kind": "openai_compatible"})
        assert faults(answer) == [("api_base", "required")]

    def test_models_are_changed_by_admins(self, admin, api):
        provider, spare = LLMProviderFactory(), LLMModelFactory()
        body = {"id": "tea-1.5b", "name": "Tea", "provider_id": str(provider.pk), "route": "openai/tea"}
        assert send(api, "post", "llm/models", body).status_code == 403
        made = send(admin, "post", "llm/models", {**body, "fallbacks": [spare.pk], "price_in": "1", "price_out": "2"})
        assert made.status_code == 201
        assert (made.json()["fallbacks"], made.json()["is_runnable"]) == ([spare.pk], True)
        assert send(api, "get", "llm/models/tea-1.5b").json() == made.json()
        assert faults(send(admin, "patch", "llm/models/tea-1.5b", {"price_in": None})) == [("price_in", "one_price")]
        assert faults(send(admin, "patch", "llm/models/tea-1.5b", {"id": "other"})) == [("id", "immutable")]
        assert faults(send(admin, "patch", "llm/models/tea-1.5b", {"route": "tea"})) == [("route", "bad_route")]
        assert faults(send(admin, "post", "llm/models", body)) == [("id", "unique")]
        assert send(admin, "put", "llm/models/tea-1.5b", body).json()["price_in"] is None
        assert send(admin, "delete", "llm/models/tea-1.5b").status_code == 204

    def test_what_is_in_use_stays(self, admin):
        agent = AgentFactory()
        model = agent.llm_model
        assert send(admin, "delete", f"llm/models/{model.pk}").json()["code"] == "model_in_use"
        assert send(admin, "delete", f"llm/providers/{model.provider_id}").json()["code"] == "provider_in_use"
        assert LLMModel.objects.filter(pk=model.pk).exists()

    def test_without_a_key_a_model_says_so(self, api):
        seed_catalog()
        models = {row["id"]: row for row in send(api, "get", "llm/models?page_size=100").json()["results"]}
        assert len(models) == 13
        assert models["embedded"]["is_runnable"] is True
        assert "key" in models["gpt-4o"]["why_not_runnable"]


class TestWhoMay:
    paths = ("agents/{agent}", "crews/{crew}", "tasks/{task}", "crews/{crew}/inputs", "crews/{crew}/inputs/{input}")

    def addresses(self, crew):
        parts = {
            "agent": crew.agents.get().pk,
            "crew": crew.pk,
            "task": crew.tasks.get().pk,
            "input": crew.inputs.get().pk,
        }
        return [path.format(**parts) for path in self.paths]

    def test_a_stranger_gets_401(self):
        crew = runnable_crew()
        for path in [*self.addresses(crew), "agents", "crews", "tasks", "tools", "llm/providers", "llm/models", "nope"]:
            answer = send(APIClient(), "get", path)
            assert answer.status_code == 401, path
            assert answer.json()["code"] == "not_authenticated"
            assert answer.headers["WWW-Authenticate"]

    def test_what_is_private_is_not_there_for_others(self, api):
        for path in self.addresses(runnable_crew()):
            for method in ("get", "patch", "delete"):
                if not (path.endswith("inputs") and method != "get"):
                    assert send(api, method, path, {}).status_code == 404, (method, path)

    def test_private_rows_are_in_no_list_count_or_search(self, api):
        runnable_crew(name="Hidden")
        for path in ("agents", "crews", "tasks"):
            for query in ("?count=1", "?count=1&search=e"):
                answer = send(api, "get", path + query).json()
                assert (answer["results"], answer["count"]) == ([], 0)

    def test_what_is_shared_is_seen_and_not_changed(self, api):
        crew = runnable_crew(shared=True)
        agent = crew.agents.get()
        agent.access.visibility = "shared"
        agent.access.save()
        for path in self.addresses(crew):
            assert send(api, "get", path).status_code == 200, path
            if not path.endswith("inputs"):
                assert send(api, "patch", path, {}).status_code == 403, path
                assert send(api, "delete", path).status_code == 403, path
        assert send(api, "post", f"crews/{crew.pk}/inputs", {"field_name": "x"}).status_code == 403
        body = {"crew_id": str(crew.pk), "name": "x", "description": "x", "expected_output": "x"}
        assert send(api, "post", "tasks", body).status_code == 403

    def test_an_editor_changes_but_neither_shares_nor_deletes(self, api, user):
        crew = runnable_crew()
        AccessGrant.objects.create(access=crew.access, user=user, level="editor")
        assert send(api, "patch", f"crews/{crew.pk}", {"name": "New"}).status_code == 200
        assert send(api, "patch", f"tasks/{crew.tasks.get().pk}", {"name": "New"}).status_code == 200
        assert send(api, "patch", f"crews/{crew.pk}", {"visibility": "shared"}).status_code == 403
        assert send(api, "delete", f"crews/{crew.pk}").status_code == 403

    def test_a_viewer_sees_and_makes_nothing(self, viewer):
        LLMModelFactory(id="embedded")
        assert send(viewer, "get", f"crews/{runnable_crew(shared=True).pk}").status_code == 200
        assert send(viewer, "post", "crews", {"name": "Tea"}).status_code == 403
        assert send(viewer, "post", "agents", {"role": "x", "goal": "y"}).status_code == 403

    def test_an_admin_sees_and_changes_everything(self, admin):
        crew = runnable_crew()
        assert send(admin, "patch", f"crews/{crew.pk}", {"name": "New"}).status_code == 200


class TestLists:
    def test_pages_lead_forth_and_back(self, api, user):
        for number in range(5):
            CrewFactory(owner=user, name=f"Crew {number}", process="parallel")
        first = send(api, "get", "crews?page_size=2&ordering=process&count=1").json()
        assert first["count"] == 5
        assert first["previous"] is None
        second = api.get(first["next"]).json()
        third = api.get(second["next"]).json()
        seen = [row["id"] for page in (first, second, third) for row in page["results"]]
        assert len(set(seen)) == 5
        assert third["next"] is None
        assert api.get(third["previous"]).json()["results"] == second["results"]
        assert api.get(second["previous"]).json()["results"] == first["results"]

    def test_rows_without_a_value_are_paged_too(self, api):
        prices = [None, "1", None, "3", "2"]
        for number, price in enumerate(prices):
            LLMModelFactory(id=f"m{number}", price_in=price, price_out=price)
        for ordering in ("price_in", "-price_in"):
            seen, back = [], []
            page = send(api, "get", f"llm/models?page_size=2&ordering={ordering}").json()
            while True:
                seen += [row["id"] for row in page["results"]]
                if not page["next"]:
                    break
                page = api.get(page["next"]).json()
            while True:
                back = [row["id"] for row in page["results"]] + back
                if not page["previous"]:
                    break
                page = api.get(page["previous"]).json()
            assert sorted(seen) == ["m0", "m1", "m2", "m3", "m4"]
            assert set(seen[3:]) == {"m0", "m2"}
            assert back == seen

    @pytest.mark.parametrize(
        "query", ["ordering=api_key", "cursor=nonsense", "page_size=0", "page_size=x", "cursor=W10"]
    )
    def test_a_wrong_parameter_is_named(self, api, query):
        assert faults(send(api, "get", f"crews?{query}")) == [(query.partition("=")[0], "invalid")]

    def test_filters_and_search(self, api, user):
        crew = runnable_crew(owner=user, name="Tea")
        runnable_crew(owner=user, name="Coffee")
        agent = crew.agents.get()
        for query in (f"agent_id={agent.pk}", "search=tea", "name=Tea"):
            assert [row["name"] for row in send(api, "get", f"crews?{query}").json()["results"]] == ["Tea"]
        assert [row["id"] for row in send(api, "get", f"agents?crew_id={crew.pk}").json()["results"]] == [str(agent.pk)]
        assert len(send(api, "get", f"tasks?crew_id={crew.pk}").json()["results"]) == 1
        assert faults(send(api, "get", "tasks?crew_id=x")) == [("crew_id", "invalid")]

    @pytest.mark.parametrize("path", ["agents", "crews", "tasks", "tools", "llm/providers", "llm/models", "inputs"])
    def test_the_number_of_queries_does_not_grow(self, api, user, path):
        def fill(number):
            for _ in range(number):
                crew = runnable_crew(owner=user)
                crew.agents.get().tools.add(ToolFactory())
                crew.tasks.get().tools.add(ToolFactory(name=f"tool_{uuid.uuid4().hex[:8]}"))
                TaskFactory(crew=crew, agent=crew.agents.get(), context=crew.tasks.all())
                CrewInputFactory(crew=crew)
                CrewInputFactory(crew=Crew.objects.earliest("created_at"))

        def queries():
            address = f"crews/{Crew.objects.earliest('created_at').pk}/inputs" if path == "inputs" else path
            with CaptureQueriesContext(
                connection,
            ) as captured:
                answer = send(api, "get", address)
            return len(answer.json()["results"]), len(captured)

        if path == "llm/providers":
            user.role = Role.ADMIN
            user.save()
        fill(1)
        few, before = queries()
        fill(4)
        many, after = queries()
        assert many > few
        assert after == before


class TestProblems:
    def test_what_is_not_there_says_so_as_a_problem(self, api):
        for path in ("nope", f"crews/{uuid.uuid4()}", "crews/not-an-id", "llm/models/none"):
            for method in ("get", "delete"):
                answer = send(api, method, path)
                if answer.status_code != 403:
                    assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path

    def test_every_address_takes_a_slash_at_the_end(self, api, user):
        crew = CrewFactory(owner=user)
        assert send(api, "get", f"crews/{crew.pk}/").json() == send(api, "get", f"crews/{crew.pk}").json()

    def test_other_refusals_are_problems_too(self, api):
        wrong = send(api, "delete", "crews")
        assert (wrong.status_code, wrong.json()["status"], wrong.headers["Content-Type"]) == (
            405,
            405,
            "application/problem+json",
        )
        broken = api.post("/api/crews", "{", content_type="application/json")
        assert (broken.status_code, broken.json()["code"]) == (400, "parse_error")
        assert api.post("/api/crews", "x", content_type="text/plain").status_code == 415

    def test_a_bug_is_a_problem_too_and_tells_nothing(self, user, monkeypatch):
        def fails(self):
            raise RuntimeError("a secret of the house")

        monkeypatch.setattr("crews.api.views.CrewViewSet.get_queryset", fails)
        client = APIClient(raise_request_exception=False)
        client.force_authenticate(user)
        answer = send(client, "get", "crews")
        assert (answer.status_code, answer.json()["code"]) == (500, "internal")
        assert "secret" not in answer.content.decode()

    def test_each_field_is_named(self, api):
        assert set(faults(send(api, "post", "crews", {"process": "chaos"}))) == {
            ("name", "required"),
            ("process", "invalid_choice"),
        }


class TestDescription:
    def test_the_schema_is_valid_and_free_of_warnings(self, tmp_path):
        call_command("spectacular", "--validate", "--fail-on-warn", "--file", str(tmp_path / "schema.yml"))

    def test_schema_and_documentation_are_served(self, user):
        client = APIClient()
        assert client.get("/api/schema/").status_code == 401
        assert client.get("/api/docs/").status_code == 302
        client.force_login(user)
        assert client.get("/api/schema/").status_code == 200
        for path in ("docs", "redoc"):
            page = client.get(f"/api/{path}/")
            assert page.status_code == 200
            assert b"//cdn" not in page.content
            assert b"https://" not in page.content
