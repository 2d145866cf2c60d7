"""Django admin: who enters, that every page opens, and that it checks what everything else checks."""

import pytest
from django.contrib import admin
from django.urls import reverse

from crews.models import Agent, Crew, LLMModel, LLMProvider, Task
from crews.seed import seed_catalog, seed_demo
from executions.status import Status
from portal.accounts.models import AccessList, Role, User
from projects import actions as projects
from tests.factories import project_runs
from tests.factories.accounts import UserFactory
from tests.factories.crews import (
    AgentFactory,
    CrewFactory,
    LLMModelFactory,
    LLMProviderFactory,
    TaskFactory,
    runnable_crew,
)
from tests.factories.executions import LLMCallFactory, execution_in

pytestmark = pytest.mark.django_db


@pytest.fixture
def boss():
    return UserFactory(role=Role.ADMIN)


@pytest.fixture
def site(client, boss):
    client.force_login(boss)
    return client


def page(model, view, *args):
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{view}", args=args)


def fields_of(answer, **changes):
    """What the forms of a page would send, with `changes`."""
    forms = [answer.context["adminform"].form]
    for formset in answer.context["inline_admin_formsets"]:
        forms += [formset.formset.management_form, *formset.formset.forms]
    sent = {}
    for form in forms:
        for bound in form:
            value = bound.value()
            if value is not None and value is not False:
                sent[bound.html_name] = value
    return {**sent, **changes}


class TestWhoEnters:
    def test_a_stranger_is_led_to_the_sign_in(self, client):
        answer = client.get("/admin/", follow=True)
        assert answer.redirect_chain[-1][0].startswith(reverse("accounts:sign-in"))

    @pytest.mark.parametrize("role", [Role.USER, Role.VIEWER])
    @pytest.mark.parametrize("flags", [{}, {"is_staff": True, "is_superuser": True}])
    def test_the_role_decides_and_no_flag(self, client, role, flags):
        client.force_login(UserFactory(role=role, **flags))
        assert client.get("/admin/", follow=True).status_code == 403
        assert client.get(page(Crew, "changelist"), follow=True).status_code == 403

    def test_an_admin_needs_no_flag(self, site):
        assert site.get("/admin/").status_code == 200


def test_every_page_opens(site, boss):
    seed_catalog()
    for crew in seed_demo(boss):
        LLMCallFactory(execution=execution_in(Status.COMPLETED, crew=crew))
    project = project_runs.project_of(boss)
    projects.start(project, boss)
    project_runs.through(project, "requirement")
    for model in admin.site._registry:
        assert site.get(page(model, "changelist")).status_code == 200, model
        assert site.get(page(model, "changelist"), {"q": "a"}).status_code == 200, model
        assert site.get(page(model, "add")).status_code in {200, 403}, model
        if row := model._default_manager.first():
            assert site.get(page(model, "change", row.pk)).status_code == 200, model


def test_a_run_leads_to_its_events_and_calls(site):
    call = LLMCallFactory(execution=execution_in(Status.COMPLETED))
    text = site.get(page(type(call.execution), "change", call.execution.pk)).content.decode()
    for model in ("executionevent", "llmcall", "toolcall"):
        start = text.index(f"/admin/executions/{model}/?")
        address = text[start : text.index('"', start)].replace("&amp;", "&")
        assert site.get(address).status_code == 200


def test_runs_are_only_looked_at(site):
    execution = execution_in(Status.COMPLETED)
    assert site.post(page(type(execution), "delete", execution.pk), {"post": "yes"}).status_code == 403
    assert site.post(page(type(execution), "change", execution.pk), {"name": "x"}).status_code == 403


class TestOwners:
    def test_what_is_made_here_has_an_owner(self, site, boss):
        LLMModelFactory(id="embedded")
        sent = fields_of(site.get(page(Agent, "add")), role="Cook", goal="Cook.", llm_config="{}", visibility="shared")
        answer = site.post(page(Agent, "add"), sent)
        assert answer.status_code == 302, answer.context["errors"]
        agent = Agent.objects.get()
        assert (agent.owner, agent.visibility) == (boss, "shared")

    def test_an_owner_can_be_changed(self, site):
        crew, other = runnable_crew(), UserFactory()
        sent = fields_of(site.get(page(Crew, "change", crew.pk)), owner=str(other.pk))
        answer = site.post(page(Crew, "change", crew.pk), sent)
        assert answer.status_code == 302, answer.context["errors"]
        crew = Crew.objects.get()
        assert crew.owner == other
        assert crew.tasks.count() == 1


class TestChecks:
    def test_a_circle_of_tasks_is_refused(self, site):
        crew = runnable_crew()
        first = crew.tasks.get()
        second = TaskFactory(crew=crew, agent=first.agent, context=[first])
        sent = fields_of(site.get(page(Task, "change", first.pk)), context=[str(second.pk)])
        answer = site.post(page(Task, "change", first.pk), sent)
        assert answer.status_code == 200
        assert "context" in answer.context["adminform"].form.errors
        assert not first.context.exists()

    def test_an_unknown_name_is_refused(self, site):
        task = runnable_crew().tasks.get()
        sent = fields_of(site.get(page(Task, "change", task.pk)), description="{colour}")
        answer = site.post(page(Task, "change", task.pk), sent)
        assert "description" in answer.context["adminform"].form.errors

    def test_what_stands_in_the_way_of_a_run_is_said(self, site):
        crew = CrewFactory()
        sent = fields_of(site.get(page(Crew, "change", crew.pk)))
        answer = site.post(page(Crew, "change", crew.pk), sent, follow=True)
        assert "The crew has no agents." in [str(message) for message in answer.context["messages"]]


class TestDeleting:
    def delete(self, site, thing):
        return site.post(page(type(thing), "delete", thing.pk), {"post": "yes"})

    def test_a_crew_goes_with_its_access_list(self, site):
        crew = CrewFactory()
        assert self.delete(site, crew).status_code == 302
        assert not Crew.objects.exists()
        assert not AccessList.objects.exists()

    def test_one_that_runs_stays(self, site):
        crew = runnable_crew()
        execution_in(Status.PENDING, crew=crew)
        answer = self.delete(site, crew)
        assert "still active" in answer.content.decode()
        assert Crew.objects.exists()

    @pytest.mark.parametrize("thing", [lambda: runnable_crew().agents.get(), lambda: AgentFactory().llm_model])
    def test_what_is_in_use_stays(self, site, thing):
        thing = thing()
        assert self.delete(site, thing).status_code in {200, 403}
        assert type(thing).objects.filter(pk=thing.pk).exists()

    def test_the_embedded_model_stays(self, site):
        seed_catalog()
        self.delete(site, LLMModel.objects.get(pk="embedded"))
        assert LLMModel.objects.filter(pk="embedded").exists()

    def test_what_nobody_uses_goes(self, site):
        agent, model = AgentFactory(), LLMModelFactory()
        assert self.delete(site, agent).status_code == 302
        assert self.delete(site, model).status_code == 302
        assert not Agent.objects.exists()


class TestKeys:
    def test_a_key_is_only_ever_written(self, site):
        provider = LLMProviderFactory(api_base="https://a.example/v1", api_key="sk-secret", allow_private=False)
        address = page(LLMProvider, "change", provider.pk)
        shown = site.get(address)
        assert "sk-secret" not in shown.content.decode()

        def send(**changes):
            assert site.post(address, fields_of(site.get(address), **changes)).status_code == 302
            return LLMProvider.objects.get().api_key

        assert send(name="Renamed") == "sk-secret"
        assert send(new_key="sk-other") == "sk-other"
        assert send(api_base="https://b.example/v1") == ""
        assert send(new_key="sk-third") == "sk-third"
        assert send(forget_key="on") == ""


def test_a_person_is_made_with_a_role(site):
    sent = {"username": "new", "role": "viewer", "password1": "correct horse 1", "password2": "correct horse 1"}
    answer = site.post(page(User, "add"), {**sent, "usable_password": "true"})
    assert answer.status_code == 302, answer.context["errors"]
    assert User.objects.get(username="new").role == "viewer"
