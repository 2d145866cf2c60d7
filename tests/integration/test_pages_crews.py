"""Pages of crews: list, page, editing in place; models and providers."""

import json
from unittest.mock import patch

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from crews import providers
from crews.models import Agent, Crew, CrewInput, LLMModel, LLMProvider, Task
from crews.seed import seed_catalog
from portal.accounts.models import Visibility
from tests.factories.accounts import UserFactory
from tests.factories.crews import (
    AgentFactory,
    CrewFactory,
    CrewInputFactory,
    CrewMemberFactory,
    LLMModelFactory,
    LLMProviderFactory,
    TaskFactory,
    runnable_crew,
)
from tests.factories.executions import execution_in

pytestmark = pytest.mark.django_db

XSS = "<img src=x onerror=alert(1)>{topic}"


@pytest.fixture
def mina(client):
    seed_catalog()
    user = UserFactory(username="mina")
    client.force_login(user)
    return user


@pytest.fixture
def crew(mina):
    return runnable_crew(owner=mina, name="Tea tasters")


def url(name, crew, *args):
    return reverse(f"crews:{name}", args=[crew.pk, *args])


class TestTheList:
    def test_it_shows_what_a_person_may_see(self, client, mina):
        own, shared = CrewFactory(owner=mina), CrewFactory(shared=True)
        hidden = CrewFactory()
        text = client.get("/crews").text
        assert own.name in text
        assert shared.name in text
        assert hidden.name not in text

    @pytest.mark.parametrize(
        ("whose", "seen"), [("own", {"Mine"}), ("shared", {"Theirs"}), ("all", {"Mine", "Theirs"})]
    )
    def test_it_narrows(self, client, mina, whose, seen):
        CrewFactory(owner=mina, name="Mine")
        CrewFactory(shared=True, name="Theirs")
        rows = client.get(f"/crews?whose={whose}").context["page"].rows
        assert {row.name for row in rows} == seen

    def test_it_searches_and_answers_htmx_with_the_rows_alone(self, client, mina):
        CrewFactory(owner=mina, name="Coffee")
        CrewFactory(owner=mina, name="Tea")
        answer = client.get("/crews?q=cof", headers={"HX-Request": "true", "HX-Target": "crew-rows"})
        assert "Coffee" in answer.text
        assert "Tea" not in answer.text
        assert "<html" not in answer.text
        assert "HX-Target" in answer["Vary"]

    def test_it_pages(self, client, mina):
        for number in range(30):
            CrewFactory(owner=mina, name=f"Crew {number:02}")
        first = client.get("/crews").context["page"]
        second = client.get(f"/crews{first.next}").context["page"]
        assert [row.name for row in first.rows + second.rows] == [f"Crew {n:02}" for n in range(30)]
        assert client.get(f"/crews{second.previous}").context["page"].rows == first.rows

    def test_a_foreign_cursor_is_not_found(self, client, mina):
        assert client.get("/crews?cursor=abc").status_code == 404

    def test_the_newest_run_stands_beside_its_crew(self, client, mina, crew):
        execution_in("failed", crew=crew, access__owner=mina)
        execution_in("completed", crew=crew, access__owner=mina)
        execution_in("stopped", crew=crew)  # of somebody else
        text = client.get("/crews").text
        assert "Completed" in text
        assert "Failed" not in text
        assert "Stopped" not in text


class TestThePage:
    def test_it_shows_the_crew(self, client, crew):
        text = client.get(url("crew-detail", crew)).text
        assert "Tea tasters" in text
        assert '<span class="placeholder">{topic}</span>' in text
        assert reverse("executions:crew-run", args=[crew.pk]) in text

    def test_what_keeps_it_from_running_is_named(self, client, crew):
        LLMModel.objects.update(enabled=False)
        text = client.get(url("crew-detail", crew)).text
        assert "One thing keeps this crew from running" in text
        assert "This model is switched off." in text
        assert f'href="#agent-{crew.members.get().agent_id}"' in text

    def test_who_may_do_what(self, client, crew):
        stranger = UserFactory()
        client.force_login(stranger)
        assert client.get(url("crew-detail", crew)).status_code == 404
        crew.access.visibility = Visibility.SHARED
        crew.access.save()
        answer = client.get(url("crew-detail", crew))
        assert answer.status_code == 200
        assert "Copy to change it" in answer.text
        assert url("crew-settings", crew) not in answer.text
        task = crew.tasks.get()
        for name, *args in [("crew-settings",), ("task-add",), ("task-edit", task.pk), ("agent-add",), ("input-add",)]:
            assert client.get(url(name, crew, *args)).status_code == 403
            assert client.post(url(name, crew, *args)).status_code == 403
        for name in ["task-remove", "task-move"]:
            assert client.post(url(name, crew, task.pk)).status_code == 403
        assert client.post(url("crew-delete", crew)).status_code == 403

    def test_names_are_text(self, client, mina):
        crew = CrewFactory(owner=mina, name=XSS, description=XSS)
        CrewInputFactory(crew=crew, field_name="topic", field_label=XSS, default=XSS)
        agent = AgentFactory(owner=mina, role=XSS, goal=XSS, backstory=XSS)
        task = TaskFactory(crew=crew, agent=agent, name=XSS, description=XSS, expected_output=XSS)
        TaskFactory(crew=crew, agent=agent, context=[task])
        for page in ["/crews", "/", url("crew-detail", crew), url("crew-delete", crew), f"/crews/{crew.pk}/run"]:
            text = client.get(page).text
            assert "<img" not in text
            assert "&lt;img src=x" in text

    def test_the_number_of_queries_does_not_grow(self, client, crew):
        def queries():
            with CaptureQueriesContext(connection) as caught:
                client.get(url("crew-detail", crew))
            return len(caught)

        def more():
            for _ in range(4):
                TaskFactory(crew=crew, context=list(crew.tasks.all()))
                CrewInputFactory(crew=crew)
                execution_in("completed", crew=crew, access__owner=crew.owner)

        more()
        before = queries()
        more()
        assert queries() == before

    def test_a_crew_of_somebody_else_can_be_copied(self, client, mina):
        theirs = runnable_crew(shared=True)
        answer = client.post(url("crew-copy", theirs))
        copy = Crew.objects.get(access__owner=mina)
        assert answer["Location"] == url("crew-detail", copy)


class TestMaking:
    def test_a_crew_is_made_and_its_page_follows(self, client, mina):
        answer = client.post("/crews/new", {"name": "Fresh", "process": "parallel"})
        crew = Crew.objects.get(name="Fresh")
        assert answer["Location"] == url("crew-detail", crew)
        assert (crew.access.owner, crew.access.visibility, crew.process) == (mina, Visibility.PRIVATE, "parallel")

    def test_faults_are_shown(self, client, mina):
        answer = client.post("/crews/new", {"name": "", "process": "hierarchical"})
        assert answer.status_code == 422
        assert "This field is required." in answer.text
        assert "A crew that is led needs a manager" in answer.text
        assert not Crew.objects.exists()

    def test_a_viewer_makes_none(self, client):
        client.force_login(UserFactory(viewer=True))
        assert client.get("/crews/new").status_code == 403


class TestEditing:
    def test_the_settings_are_saved(self, client, crew):
        sent = {
            "name": "Renamed", "process": "sequential", "max_duration_seconds": 600, "task_timeout_seconds": 60,
            "max_llm_calls": 9, "is_active": "on",
        }  # fmt: skip
        assert client.post(url("crew-settings", crew), sent).status_code == 302
        crew.refresh_from_db()
        assert (crew.name, crew.max_llm_calls) == ("Renamed", 9)

    def test_a_form_stands_in_the_place_of_its_card(self, client, crew):
        task = crew.tasks.get()
        answer = client.get(url("task-edit", crew, task.pk), headers={"HX-Request": "true", "HX-Target": "editor"})
        assert "<html" not in answer.text
        assert answer.text.count(f'id="task-{task.pk}"') == 1
        assert 'name="expected_output"' in answer.text

    def test_a_task_is_saved(self, client, crew):
        task, agent = crew.tasks.get(), crew.members.get().agent
        sent = {"name": "Taste", "agent": agent.pk, "description": "Taste {topic}.", "expected_output": "A note"}
        answer = client.post(url("task-edit", crew, task.pk), sent)
        assert answer["Location"] == url("crew-detail", crew) + f"#task-{task.pk}"
        task.refresh_from_db()
        assert (task.name, task.description) == ("Taste", "Taste {topic}.")

    def test_an_unknown_placeholder_is_named_before_a_run(self, client, crew):
        task, agent = crew.tasks.get(), crew.members.get().agent
        sent = {"name": "Taste", "agent": agent.pk, "description": "Taste {colour}.", "expected_output": "A note"}
        answer = client.post(url("task-edit", crew, task.pk), sent)
        assert answer.status_code == 422
        assert "{colour} is no input of the crew." in answer.text
        assert "Taste {colour}." in answer.text
        task.refresh_from_db()
        assert task.name == "Write"

    def test_tasks_that_wait_for_each_other_are_refused(self, client, crew):
        first, agent = crew.tasks.get(), crew.members.get().agent
        second = TaskFactory(crew=crew, agent=agent, context=[first])
        sent = {
            "name": first.name, "agent": agent.pk, "description": "x", "expected_output": "y", "context": [second.pk]
        }  # fmt: skip
        answer = client.post(url("task-edit", crew, first.pk), sent)
        assert answer.status_code == 422
        assert "These tasks wait for each other" in answer.text

    def test_a_task_is_added_at_the_end_moved_and_deleted(self, client, crew):
        agent = crew.members.get().agent
        sent = {"name": "Last", "agent": agent.pk, "description": "x", "expected_output": "y"}
        client.post(url("task-add", crew), sent)
        assert [task.name for task in crew.tasks.all()] == ["Write", "Last"]
        last = crew.tasks.get(name="Last")
        client.post(url("task-move", crew, last.pk), {"direction": "up"})
        assert [task.name for task in crew.tasks.all()] == ["Last", "Write"]
        client.post(url("task-move", crew, last.pk), {"direction": "up"})  # it is the first: nothing happens
        client.post(url("task-remove", crew, last.pk))
        assert [task.name for task in crew.tasks.all()] == ["Write"]

    def test_parts_of_other_crews_are_not_reached(self, client, mina, crew):
        other = runnable_crew(owner=mina)
        task = other.tasks.get()
        assert client.get(url("task-edit", crew, task.pk)).status_code == 404
        assert client.post(url("task-remove", crew, task.pk)).status_code == 404
        assert client.post(url("agent-move", crew, other.members.get().agent_id)).status_code == 404
        assert client.post(url("input-remove", crew, other.inputs.get().pk)).status_code == 404
        assert Task.objects.filter(pk=task.pk).exists()

    def test_an_agent_is_made_in_the_crew(self, client, mina, crew):
        sent = {
            "role": "Poet", "goal": "Rhyme about {topic}.", "llm_model": "embedded", "max_iterations": 3,
            "temperature": "0.7", "max_tokens": "300",
        }  # fmt: skip
        assert client.post(url("agent-add", crew), sent).status_code == 302
        agent = Agent.objects.get(role="Poet")
        assert agent.llm_config == {"temperature": 0.7, "max_tokens": 300}
        assert agent.access.owner == mina
        assert [member.agent.role for member in crew.members.all()][-1] == "Poet"

    def test_an_agent_that_does_not_fit_is_not_made(self, client, crew):
        sent = {"role": "Poet", "goal": "Rhyme about {colour}.", "llm_model": "embedded", "max_iterations": 3}
        answer = client.post(url("agent-add", crew), sent)
        assert answer.status_code == 422
        assert "{colour} is no input of the crew." in answer.text
        assert not Agent.objects.filter(role="Poet").exists()

    def test_an_agent_that_exists_joins(self, client, mina, crew):
        mine, shared, hidden = AgentFactory(owner=mina), AgentFactory(shared=True), AgentFactory()
        for agent in (mine, shared):
            assert client.post(url("agent-add", crew), {"agent": agent.pk}).status_code == 302
        assert client.post(url("agent-add", crew), {"agent": hidden.pk}).status_code == 404
        assert {member.agent for member in crew.members.all()} >= {mine, shared}

    def test_an_agent_of_somebody_else_is_not_changed(self, client, crew):
        agent = AgentFactory(shared=True)
        CrewMemberFactory(crew=crew, agent=agent)
        assert client.get(url("agent-edit", crew, agent.pk)).status_code == 403
        text = client.get(url("crew-detail", crew)).text
        assert f'href="{url("agent-edit", crew, agent.pk)}"' not in text
        assert f'href="{url("agent-edit", crew, crew.tasks.get().agent_id)}"' in text

    def test_changing_an_agent_keeps_its_other_parameters(self, client, mina, crew):
        agent = crew.tasks.get().agent
        Agent.objects.filter(pk=agent.pk).update(llm_config={"top_p": 0.9, "temperature": 1})
        sent = {"role": "New", "goal": "g", "llm_model": agent.llm_model_id, "max_iterations": 2, "max_tokens": 5}
        assert client.post(url("agent-edit", crew, agent.pk), sent).status_code == 302
        agent.refresh_from_db()
        assert (agent.role, agent.llm_config) == ("New", {"top_p": 0.9, "max_tokens": 5})

    def test_an_agent_with_tasks_stays(self, client, crew):
        agent = crew.tasks.get().agent
        answer = client.post(url("agent-remove", crew, agent.pk), follow=True)
        assert "still has the task" in answer.text
        assert crew.members.count() == 1

    def test_inputs_come_and_go(self, client, crew):
        sent = {"field_name": "depth", "field_type": "select", "choices": "short\n\nlong", "default": "short"}
        assert client.post(url("input-add", crew), sent).status_code == 302
        made = crew.inputs.get(field_name="depth")
        assert (made.options, made.is_required) == (["short", "long"], False)
        client.post(url("input-move", crew, made.pk), {"direction": "up"})
        assert [field.field_name for field in crew.inputs.all()] == ["depth", "topic"]
        client.post(url("input-remove", crew, made.pk))
        assert [field.field_name for field in crew.inputs.all()] == ["topic"]

    def test_faults_of_an_input_are_shown(self, client, crew):
        answer = client.post(url("input-add", crew), {"field_name": "Bad Name", "field_type": "select", "choices": ""})
        assert answer.status_code == 422
        assert "Like this: target_audience" in answer.text
        assert set(answer.context["open"].form.errors) == {"field_name", "choices"}

    def test_an_input_that_is_used_stays(self, client, crew):
        answer = client.post(url("input-remove", crew, crew.inputs.get().pk), follow=True)
        assert "is still used in" in answer.text
        assert CrewInput.objects.filter(crew=crew).exists()

    def test_deleting_asks_first(self, client, crew):
        assert "Delete “Tea tasters”?" in client.get(url("crew-delete", crew)).text
        assert Crew.objects.filter(pk=crew.pk).exists()
        assert client.post(url("crew-delete", crew))["Location"] == "/crews"
        assert not Crew.objects.filter(pk=crew.pk).exists()

    def test_a_crew_that_runs_is_not_deleted(self, client, crew):
        execution_in("running", crew=crew)
        client.post(url("crew-delete", crew))
        assert Crew.objects.filter(pk=crew.pk).exists()


class TestModels:
    def test_each_says_whether_it_can_be_used(self, client, mina):
        LLMModelFactory(id="house-model")
        context = client.get("/models").context
        assert [model.pk for model in context["usable"]] == ["house-model"]
        assert "gpt-4o" in [model.pk for model in context["others"]]

    def test_the_embedded_model_names_its_source(self, client, mina):
        text = client.get("/models").text
        spec = client.get("/models").context["embedded"].spec
        for fact in (spec.licence, spec.sha256, spec.hub_repository):
            assert fact in text

    def test_an_admin_changes_a_model(self, client, mina):
        client.force_login(UserFactory(admin=True))
        sent = {
            "name": "GPT-4o", "context_window": 1000, "max_concurrency": 2, "price_in": "1", "price_out": "",
            "enabled": "on",
        }  # fmt: skip
        assert client.post("/settings/models/gpt-4o", sent).status_code == 422
        assert client.post("/settings/models/gpt-4o", sent | {"price_out": "2"}).status_code == 302
        assert LLMModel.objects.get(pk="gpt-4o").max_concurrency == 2

    def test_only_an_admin_does(self, client, mina):
        assert client.post("/settings/models/gpt-4o", {}).status_code == 403


class TestProviders:
    @pytest.fixture
    def boss(self, client, mina):
        boss = UserFactory(admin=True)
        client.force_login(boss)
        return boss

    def test_a_key_is_written_and_never_shown(self, client, boss):
        sent = {
            "name": "House", "kind": "openai_compatible", "api_base": "http://127.0.0.1:9/v1", "needs_key": "on",
            "enabled": "on", "api_key": "sk-very-secret", "allow_private": "on",
        }  # fmt: skip
        client.post("/settings/providers/new", sent)
        provider = LLMProvider.objects.get(name="House")
        assert provider.api_key == "sk-very-secret"
        for page in ["/settings/providers", f"/settings/providers/{provider.pk}"]:
            assert "sk-very-secret" not in client.get(page).text
        client.post(f"/settings/providers/{provider.pk}", sent | {"api_key": "", "name": "Home"})
        provider.refresh_from_db()
        assert (provider.name, provider.api_key) == ("Home", "sk-very-secret")

    def test_a_key_does_not_follow_to_another_host(self, client, boss):
        provider = LLMProviderFactory(api_key="sk-1", needs_key=True)
        sent = {"name": "X", "kind": "openai_compatible", "api_base": "http://elsewhere.example/v1", "api_key": ""}
        answer = client.post(f"/settings/providers/{provider.pk}", sent, follow=True)
        provider.refresh_from_db()
        assert provider.api_key == ""
        assert "the stored key was dropped" in answer.text

    def test_faults_are_shown(self, client, boss):
        answer = client.post("/settings/providers/new", {"name": "X", "kind": "openai_compatible"})
        assert answer.status_code == 422
        assert set(answer.context["form"].errors) == {"api_base"}

    def test_testing_says_what_was_found(self, client, boss):
        provider = LLMProviderFactory(api_base="http://127.0.0.1:9/v1")
        with patch.object(providers.outgoing, "get") as get:
            get.return_value = providers.outgoing.Answer(200, json.dumps({"data": [{"id": "m"}]}).encode())
            answer = client.post(f"/settings/providers/{provider.pk}/test", follow=True)
        assert "it serves 1 models" in answer.text

    def test_one_that_serves_models_stays(self, client, boss):
        model = LLMModelFactory()
        answer = client.post(f"/settings/providers/{model.provider_id}/delete", follow=True)
        assert "still serves" in answer.text
        spare = LLMProviderFactory()
        client.post(f"/settings/providers/{spare.pk}/delete")
        assert not LLMProvider.objects.filter(pk=spare.pk).exists()

    @pytest.mark.parametrize("verb", ["test", "delete"])
    def test_users_are_refused(self, client, mina, verb):
        provider = LLMProviderFactory()
        assert client.post(f"/settings/providers/{provider.pk}/{verb}").status_code == 403
