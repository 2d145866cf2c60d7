"""Whatever the API changes stands in the audit log. A new route that changes something fails until it is tried here."""

import hashlib
import uuid
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.urls import get_resolver, reverse
from django.utils import timezone
from rest_framework.test import APIClient

from executions import actions
from executions.models import Budget, TaskRun
from executions.status import Status
from portal.accounts import keys
from portal.accounts.models import AccessGrant, AuditEntry, Identity, Invitation, Scope, SecondFactor, Session
from tests.factories.accounts import UserFactory
from tests.factories.crews import AgentFactory, LLMModelFactory, LLMProviderFactory, ToolFactory, runnable_crew
from tests.factories.executions import LEASE, execution_in
from tests.integration.audited_projects import TRIED_OF_PROJECTS

pytestmark = pytest.mark.django_db

CHANGING = {"post", "put", "patch", "delete"}
NOTHING_HERE = "api-nothing-here"


class World:
    """Something of everything, and an admin."""

    def __init__(self):
        self.boss, self.friend = UserFactory(admin=True), UserFactory()
        self.model = LLMModelFactory(id="embedded")
        self.provider, self.tool = LLMProviderFactory(), ToolFactory()
        self.spare_model = LLMModelFactory(id="spare", provider=self.provider)
        self.empty_provider = LLMProviderFactory()
        self.crew = runnable_crew(owner=self.boss, model=self.model)
        self.agent, self.task = self.crew.agents.get(), self.crew.tasks.get()
        self.loner = AgentFactory(owner=self.boss, llm_model=self.model)
        self.topic = self.crew.inputs.get()
        self.unused = self.crew.inputs.create(field_name="unused", field_label="Unused", is_required=False)
        for access in (self.crew.access, self.agent.access):
            AccessGrant.objects.create(access=access, user=self.friend, level="viewer")
        self.mine = self.invitation(self.friend, self.boss)
        self.theirs = self.invitation(self.boss, UserFactory())
        self.link = self.invitation(self.friend, self.boss, token="a-token-of-a-link")
        self.key, _ = keys.create(self.boss, name="key", scopes=[Scope.READ], by=self.boss)
        self.identity = Identity.objects.create(user=self.friend, issuer="https://idp.example", subject="x")
        SecondFactor.objects.create(user=self.friend, secret="JBSWY3DPEHPK3PXP", confirmed_at=timezone.now())
        self.budget = Budget.objects.create(subject_id=self.friend.pk, limit_tokens=1000)
        self.waiting = execution_in(Status.WAITING, crew=self.crew)
        self.question = self.waiting.approvals.get()
        self.session = Session.objects.create(
            session_key="other", user=self.boss, session_data="", expire_date=timezone.now() + timedelta(days=1)
        )

    def invitation(self, by, whom, token=""):
        crew = runnable_crew(owner=by, model=self.model)
        return Invitation.objects.create(
            access=crew.access, level="viewer", thing="A crew", user=whom, invited_by=by,
            token_digest=hashlib.sha256((token or str(uuid.uuid4())).encode()).hexdigest(),
            expires_at=timezone.now() + timedelta(days=1),
        )  # fmt: skip

    def run(self, status=Status.RUNNING):
        """A run of the crew that came to `status`."""
        run = actions.kickoff(crew=self.crew, inputs={"topic": "tea"}, by=self.boss)
        if status != Status.PENDING:
            run.start(worker="machine", lease=LEASE)
        if status == Status.PAUSED:
            run.request_pause(by=self.boss)
            run.pause()
        if status == Status.STOPPED:
            run.stop()
        if status == Status.COMPLETED:
            run.task_runs.update(status=TaskRun.Status.COMPLETED, ended_at=timezone.now(), output="Done.")
            run.complete("Done.")
        return run


CREW, RUN, USER = "crew_id", "pk", "pk"
# Name and method of a route → what goes into its address, and its body.
TRIED = {
    "agent-list post": lambda w: ({}, {"role": "New", "goal": "Go.", "llm_model": "embedded", "tools": [w.tool.pk]}),
    "agent-detail put": lambda w: ({"pk": w.loner.pk}, {"role": "Other", "goal": "Stop.", "llm_model": "embedded"}),
    "agent-detail patch": lambda w: ({"pk": w.loner.pk}, {"goal": "Stop."}),
    "agent-detail delete": lambda w: ({"pk": w.loner.pk}, None),
    "agent-copy post": lambda w: ({"pk": w.agent.pk}, None),
    "crew-list post": lambda w: ({}, {"name": "New"}),
    "crew-detail put": lambda w: ({"pk": w.crew.pk}, {"name": "Other", "agent_ids": [w.agent.pk]}),
    "crew-detail patch": lambda w: ({"pk": w.crew.pk}, {"description": "Other"}),
    "crew-detail delete": lambda w: ({"pk": runnable_crew(model=w.model).pk}, None),
    "crew-copy post": lambda w: ({"pk": w.crew.pk}, None),
    "crew-inputs post": lambda w: ({CREW: w.crew.pk}, {"field_name": "more"}),
    "crew-inputs put": lambda w: ({CREW: w.crew.pk}, [{"field_name": "topic"}, {"field_name": "more"}]),
    "crew-input put": lambda w: ({CREW: w.crew.pk, "input_id": w.unused.pk}, {"field_name": "other"}),
    "crew-input patch": lambda w: ({CREW: w.crew.pk, "input_id": w.topic.pk}, {"field_label": "Other"}),
    "crew-input delete": lambda w: ({CREW: w.crew.pk, "input_id": w.unused.pk}, None),
    "task-list post": lambda w: (
        {},
        {
            "crew_id": w.crew.pk, "agent_id": w.agent.pk, "name": "New", "description": "Do.",
            "expected_output": "Done.", "execution_order": 7,
        },
    ),
    "task-detail put": lambda w: (
        {"pk": w.task.pk},
        {
            "crew_id": w.crew.pk, "agent_id": w.agent.pk, "name": "New", "description": "Do.",
            "expected_output": "Done.", "execution_order": 7,
        },
    ),
    "task-detail patch": lambda w: ({"pk": w.task.pk}, {"tools": [w.tool.pk]}),
    "task-detail delete": lambda w: ({"pk": w.task.pk}, None),
    "tool-detail put": lambda w: ({"pk": w.tool.pk}, {"description": "Other", "enabled": True}),
    "tool-detail patch": lambda w: ({"pk": w.tool.pk}, {"enabled": not w.tool.enabled}),
    "llm-provider-list post": lambda w: (
        {}, {"name": "New", "api_base": "https://a.example/v1", "api_key": "sk-very-secret"}
    ),
    "llm-provider-detail put": lambda w: ({"pk": w.provider.pk}, {"name": "Other", "api_base": "https://a.example/v1"}),
    "llm-provider-detail patch": lambda w: ({"pk": w.provider.pk}, {"api_key": "sk-very-secret"}),
    "llm-provider-detail delete": lambda w: ({"pk": w.empty_provider.pk}, None),
    "llm-provider-test post": lambda w: ({"pk": w.provider.pk}, None),
    "llm-model-list post": lambda w: (
        {}, {"id": "new", "name": "New", "provider_id": w.provider.pk, "route": "openai/new", "fallbacks": ["embedded"]}
    ),
    "llm-model-detail put": lambda w: (
        {"pk": "spare"}, {"id": "spare", "name": "Other", "provider_id": w.provider.pk, "route": "openai/new"}
    ),
    "llm-model-detail patch": lambda w: ({"pk": "spare"}, {"price_in": "1.5", "price_out": "2"}),
    "llm-model-detail delete": lambda w: ({"pk": "spare"}, None),
    "crew-kickoff post": lambda w: ({CREW: w.crew.pk}, {"inputs": {"topic": "tea"}}),
    "crew-stop post": lambda w: ({CREW: w.run().crew_id}, None),
    "crew-execution delete": lambda w: ({CREW: w.crew.pk, "exec_id": w.run(Status.COMPLETED).pk}, None),
    "execution-stop-all post": lambda w: (w.run() and {}, None),
    "execution-detail patch": lambda w: ({RUN: w.run().pk}, {"priority": 9, "budget_tokens": 10**6}),
    "execution-stop post": lambda w: ({RUN: w.run().pk}, None),
    "execution-pause post": lambda w: ({RUN: w.run().pk}, {}),
    "execution-resume post": lambda w: ({RUN: w.run(Status.PAUSED).pk}, None),
    "execution-retry post": lambda w: ({RUN: w.run(Status.STOPPED).pk}, None),
    "execution-fork post": lambda w: ({RUN: w.run(Status.COMPLETED).pk}, {"task_id": str(w.task.pk)}),
    "execution-role-llm-mapping post": lambda w: (
        {RUN: w.run().pk}, {"mappings": [{"role_name": w.agent.role, "llm_model": "spare"}]}
    ),
    "approval-answer post": lambda w: ({"pk": w.question.pk}, {"decision": "approve"}),
    "approval-link post": lambda w: ({"pk": w.question.pk}, None),
    "budget-list post": lambda w: ({}, {"user_id": w.boss.pk, "period": "day", "limit_tokens": 5}),
    "budget-detail put": lambda w: ({"pk": w.budget.pk}, {"period": "total", "limit_tokens": 5}),
    "budget-detail patch": lambda w: ({"pk": w.budget.pk}, {"limit_tokens": 5}),
    "budget-detail delete": lambda w: ({"pk": w.budget.pk}, None),
    "crew-members post": lambda w: (
        {CREW: w.crew.pk}, {"user_id": UserFactory().pk, "level": "editor", "direct": True}
    ),
    "crew-member patch": lambda w: ({CREW: w.crew.pk, "user_id": w.friend.pk}, {"level": "editor"}),
    "crew-member delete": lambda w: ({CREW: w.crew.pk, "user_id": w.friend.pk}, None),
    "crew-owner post": lambda w: ({CREW: w.crew.pk}, {"owner_id": w.friend.pk}),
    "agent-members post": lambda w: ({"agent_id": w.agent.pk}, {"user_id": UserFactory().pk}),
    "agent-member patch": lambda w: ({"agent_id": w.agent.pk, "user_id": w.friend.pk}, {"level": "editor"}),
    "agent-member delete": lambda w: ({"agent_id": w.agent.pk, "user_id": w.friend.pk}, None),
    "agent-owner post": lambda w: ({"agent_id": w.agent.pk}, {"owner_id": w.friend.pk}),
    "invitation-detail delete": lambda w: ({"pk": w.theirs.pk}, None),
    "invitation-answer post": lambda w: ({"pk": w.mine.pk}, {"decision": "accept"}),
    "invitation-answer-link post": lambda w: ({}, {"token": "a-token-of-a-link", "decision": "decline"}),
    "api-key-list post": lambda w: ({}, {"name": "New", "scopes": ["read"]}),
    "api-key-detail delete": lambda w: ({"pk": w.key.pk}, None),
    "session-detail delete": lambda w: ({"pk": w.session.public_id}, None),
    "session-end-others post": lambda w: ({}, None),
    "user-list post": lambda w: ({}, {"username": "new", "role": "user"}),
    "user-detail patch": lambda w: ({USER: w.friend.pk}, {"role": "viewer"}),
    "user-detail delete": lambda w: ({USER: UserFactory().pk}, None),
    "user-password-link post": lambda w: ({USER: w.friend.pk}, None),
    "user-second-factor delete": lambda w: ({USER: w.friend.pk}, None),
    "user-identities post": lambda w: ({USER: w.friend.pk}, {"subject": "y", "issuer": "https://idp.example"}),
    "user-identity delete": lambda w: ({USER: w.friend.pk, "identity": w.identity.pk}, None),
    **TRIED_OF_PROJECTS,
}  # fmt: skip


def routes():
    """Name and method of every route of the API that may change something."""
    found = set()
    for name, view in named(get_resolver()):
        methods = set(view.actions or ()) if hasattr(view, "actions") else set()
        methods = methods or {name for name in view.cls.http_method_names if hasattr(view.cls, name)}
        found |= {f"{name} {method}" for method in methods & CHANGING}
    return found


def named(resolver, prefix=""):
    for entry in resolver.url_patterns:
        address = prefix + str(entry.pattern)
        if hasattr(entry, "url_patterns"):
            yield from named(entry, address)
        elif address.startswith("api/") and hasattr(entry.callback, "cls") and entry.name != NOTHING_HERE:
            yield entry.name, entry.callback


def test_every_change_by_the_api_stands_in_the_log():
    assert routes() == set(TRIED), "each route that changes something is tried here, and nothing else"
    world = World()
    client = APIClient()
    client.force_login(world.boss)
    silent, refused, leaked = [], [], []
    for what, asked in TRIED.items():
        name, method = what.split()
        with transaction.atomic():
            values, body = asked(world)
            before = AuditEntry.objects.count()
            answer = getattr(client, method)(reverse(name, kwargs=values), body, format="json")
            fresh = AuditEntry.objects.order_by("-id")[: AuditEntry.objects.count() - before]
            if answer.status_code >= 400:
                refused.append((what, answer.status_code, answer.content[:300]))
            elif not any(entry.actor_id == world.boss.pk for entry in fresh):
                silent.append(what)
            leaked += [what for entry in fresh if "sk-very-secret" in str([entry.before, entry.after])]
            transaction.set_rollback(True)
    assert not refused, "\n".join(map(str, refused))
    assert not silent
    assert not leaked


def test_who_did_what_from_where_and_what_was_before(client):
    boss = UserFactory(admin=True)
    provider = LLMProviderFactory(api_key="sk-old", name="Old")
    client.force_login(boss)
    client.patch(
        reverse("llm-provider-detail", args=[provider.pk]),
        {"api_key": "sk-new", "name": "New"},
        content_type="application/json",
        REMOTE_ADDR="192.0.2.7",
        HTTP_USER_AGENT="a browser",
    )
    entry = AuditEntry.objects.get(action="provider.changed")
    assert (entry.actor_id, entry.actor_name) == (boss.pk, boss.username)
    assert entry.credential.startswith("session:")
    assert (entry.address, entry.user_agent) == ("192.0.2.7", "a browser")
    assert (entry.target_kind, entry.target_id, entry.target_name) == ("llmprovider", str(provider.pk), "New")
    assert entry.before == {"name": "Old", "api_key": "set"}
    assert entry.after == {"name": "New", "api_key": "set anew"}


def test_a_kickoff_writes_one_row_more():
    """What the log costs a run's start: one INSERT."""
    world = World()
    with CaptureQueriesContext(connection) as queries:
        world.run(Status.PENDING)
    assert sum('"accounts_audit' in query["sql"] for query in queries) == 1


def test_changes_in_django_admin_stand_in_the_log(client):
    boss = UserFactory(admin=True)
    client.force_login(boss)
    tool = ToolFactory()
    client.post(reverse("admin:crews_tool_change", args=[tool.pk]), {"description": "Other", "enabled": "on"})
    assert AuditEntry.objects.filter(action="tool.changed", actor_id=boss.pk, target_id=str(tool.pk)).exists()
    client.post(
        reverse("admin:django_q_schedule_add"),
        {
            "name": "x",
            "func": "math.copysign",
            "schedule_type": "O",
            "repeats": "-1",
            "next_run_0": "2030-01-01",
            "next_run_1": "10:00:00",
        },
    )
    entry = AuditEntry.objects.get(action="admin.created")
    assert (entry.actor_id, entry.target_kind) == (boss.pk, "schedule")
