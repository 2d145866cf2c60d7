"""Puts payloads into everything that a page shows; runs in a process of its own, in the stack's environment.

Prints the pages to look at, as JSON.
"""

import json
from datetime import timedelta
from itertools import count
from typing import Any

import django

RUNS = 10
CREWS = 10
PROJECTS = 4


class Supply:
    """Payloads in turn, for ever; each call goes on where the last one ended."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts
        self._next = count()

    def __call__(self, limit: int = 0, *, unlike: set[str] | None = None) -> str:
        """The next one, of at most `limit` characters; `unlike` those (then it is added)."""
        while True:
            text = self._texts[next(self._next) % len(self._texts)]
            if limit and len(text) > limit:
                continue
            if unlike is not None:
                if text in unlike:
                    continue
                unlike.add(text)
            return text


def main() -> None:
    django.setup()
    print(json.dumps(make()))


def make() -> list[str]:
    from django.contrib import admin
    from django.urls import reverse
    from django.utils import timezone

    from crews.models import LLMModel
    from executions import events
    from executions.models import Approval, TaskRun
    from portal.accounts import audit
    from portal.accounts.models import AccessGrant, ApiKey, Invitation, Session, User
    from portal.accounts.sessions import SessionStore
    from tests.browser.payloads import payloads
    from tests.factories import accounts, crews, executions

    every = payloads()
    text, names = Supply(every), set[str]()
    flat = Supply([payload.replace("\n", " ") for payload in every])
    root = User.objects.get(username="root")
    now = timezone.now()
    people = []
    for number in range(8):
        fields = {name: flat(limit) for name, limit in (("first_name", 150), ("last_name", 150))}
        people.append(accounts.UserFactory(username=flat(150, unlike=names), email=f"x{number}@example.com", **fields))
    pages = ["/", "/crews", "/runs", "/models", "/approvals", "/profile", "/settings/providers", "/settings/budgets"]
    pages += ["/settings/users", "/settings/audit", "/profile/keys", "/profile/sessions", "/profile/invitations"]
    pages += [f"/settings/users/{person.pk}" for person in people]

    provider_names = set[str]()
    models: list[LLMModel] = []
    for number in range(5):
        provider = crews.LLMProviderFactory(name=flat(100, unlike=provider_names), api_base=f"http://x{number}/v1")
        models.append(
            crews.LLMModelFactory(
                id=f"x-{number}", name=flat(100), description=text(), provider=provider, health="down",
                health_detail=flat(500), good_for=[flat(100)],
            )
        )  # fmt: skip
        pages += [f"/settings/providers/{provider.pk}", f"/settings/models/x-{number}"]

    made = []
    for number in range(CREWS):
        owner = people[number % len(people)]
        crew = crews.CrewFactory(name=flat(200), description=text(), owner=owner, shared=True)
        agents = [
            crews.AgentFactory(
                role=flat(200), goal=text(), backstory=text(), owner=owner, llm_model=models[number % len(models)]
            )
            for _ in range(2)
        ]
        for agent in agents:
            crews.TaskFactory(
                crew=crew, agent=agent, name=flat(200), description=text().replace("{", "("), expected_output=text()
            )
        crews.CrewInputFactory(crew=crew, field_name="topic", field_label=flat(200), default=flat())
        AccessGrant.objects.create(access=crew.access, user=people[(number + 1) % len(people)], level="viewer")
        made.append(crew)
        pages += [
            f"/crews/{crew.pk}",
            f"/crews/{crew.pk}/run",
            f"/crews/{crew.pk}/settings",
            f"/crews/{crew.pk}/delete",
        ]
        pages += [f"/crews/{crew.pk}/agents/{agents[0].pk}", f"/crews/{crew.pk}/tasks/{crew.tasks.first().pk}"]

    runs = []
    share = -(-len(every) // RUNS)
    for number in range(RUNS):
        mine = every[number * share : (number + 1) * share]
        crew = made[number]
        run = executions.execution_in(
            "completed" if number % 2 else "failed", name=flat(200), crew=crew, created_by=crew.owner,
            access=crew.access, inputs={"topic": flat(), flat(80): flat()},
        )  # fmt: skip
        # Straight into the columns: what writes them checks, and this is about what shows them.
        type(run).objects.filter(pk=run.pk).update(final_output="\n\n".join(mine), error_message=flat())
        for position, payload in enumerate(mine):
            executions.TaskRunFactory(
                execution=run, name=flat(200), role=flat(200), position=position, output=payload, error=flat(),
                status=TaskRun.Status.COMPLETED, started_at=now, ended_at=now,
            )  # fmt: skip
        kinds = [
            lambda: events.NewEvent("log", {"message": flat(), "level": flat(60)}, task=flat(40), role=flat(200)),
            lambda: events.NewEvent("agent.thought", {"text": text()}, role=flat(200)),
            lambda: events.NewEvent(
                "tool.started", {"tool": flat(60), "arguments": {flat(60): text()}}, role=flat(200)
            ),
            lambda: events.NewEvent("tool.failed", {"tool": flat(60), "error": text()}),
            lambda: events.NewEvent(
                "llm.failed", {"model": flat(60), "error_message": flat(), "error_code": "internal"}
            ),
            lambda: events.NewEvent("task.completed", {"output": text(), "name": flat(60)}),
        ]
        events.append(run.stream_id, [kind() for kind in kinds * 10])
        executions.LLMCallFactory(
            execution=run, model=flat(100), provider=flat(100), role=flat(200), error_detail=flat(400), text=text(),
            error_code="internal", status="failed", closed_at=now,
        )  # fmt: skip
        executions.ApprovalFactory(
            execution=run, name=flat(200), role=flat(200), output="\n\n".join(mine), feedback=text(), text=text(),
            status=Approval.Status.REJECTED, answered_by=people[number % len(people)], answered_at=now,
            task=run.task_runs.first().task,
        )  # fmt: skip
        run.attempts.update(reason=flat())
        runs.append(run)
        pages += [f"/runs/{run.pk}", f"/approvals/{run.approvals.first().pk}"]
    pages.append(f"/runs/{runs[0].pk}/delete")
    pages.append(f"/runs/compare?a={runs[1].pk}&b={runs[3].pk}")
    for number in range(4):
        waiting = executions.execution_in("waiting", name=flat(200), crew=made[number], access=made[number].access)
        waiting.approvals.update(name=flat(200), role=flat(200), output=text())
        pages += [f"/approvals/{waiting.approvals.first().pk}", f"/runs/{waiting.pk}"]

    pages += make_projects(text, flat, people)

    for number in range(CREWS):
        person = people[number % len(people)]
        ApiKey.objects.create(
            user=root, name=flat(100), prefix=f"x{number:07}", digest="0" * 64, scopes="read", created_by=person
        )
        session = SessionStore()
        session["_auth_user_id"] = str(root.pk)
        session.create()
        Session.objects.filter(pk=session.session_key).update(user_agent=flat(300), method="password", user=root)
        Invitation.objects.create(
            access=made[number].access, level="viewer", thing=flat(200), user=root, token_digest=f"{number:064}",
            invited_by=person, expires_at=now + timedelta(days=7),
        )  # fmt: skip
    for number in range(40):
        person = people[number % len(people)]
        audit.record(
            "crew.changed", by=person, target=made[number % len(made)], name=flat(200),
            before={flat(60): text(), "name": flat()}, after={"name": flat(), "list": [flat(), {flat(60): flat()}]},
        )  # fmt: skip
    first = audit.record("crew.deleted", by=people[0], name=flat(200), target_kind="crew", after={"name": flat()})
    pages += [f"/settings/audit/{first.pk - back}" for back in range(4)]

    for model in admin.site._registry:
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        pages.append(reverse(f"{name}_changelist"))
        if row := model._default_manager.order_by("pk").last():
            pages.append(reverse(f"{name}_change", args=[row.pk]))
            pages.append(reverse(f"{name}_history", args=[row.pk]))
    return pages


def make_projects(text: Supply, flat: Supply, people: list[Any]) -> list[str]:
    """Projects with payloads in their names, texts, files, comments, reviews, history and templates; their pages."""
    from django.utils import timezone

    from executions import events
    from portal.accounts.models import AccessList
    from projects.models import (
        Attachment,
        Comment,
        Deliverable,
        DeliverableAccess,
        DeliverableFile,
        Project,
        Review,
        Stage,
        Template,
    )
    from tests.factories.projects import deliverable_of, staged_project

    pages = ["/projects", "/projects?whose=archived", "/projects/new", "/templates", "/crewai", "/metagpt"]
    for number in range(PROJECTS):
        owner = people[number % len(people)]
        project = staged_project(
            access__owner=owner, name=flat(200), description=text(), requirement=text(), target_audience=flat(500),
            status="review", selected_ai=list(Project.Engine.values)[number % 2],
        )  # fmt: skip
        Attachment.objects.create(project=project, name=flat(200), content=text(), size=1)
        stages = list(project.stages.all())
        made = [deliverable_of(stage, status="review") for stage in stages]
        for stage, deliverable in zip(stages, made, strict=True):
            # Straight into the columns: what writes them checks, and this is about what shows them.
            Stage.objects.filter(pk=stage.pk).update(
                responsible_role=flat(100), instructions=text(), notes=text(), problem=text(),
                stage_status="failed" if stage.stage_order == 1 else "review", review_since=timezone.now(),
            )  # fmt: skip
            checks = {"syntax_ok": False, "ran": False, "said": text(), "problems": [text(), flat()]}
            Deliverable.objects.filter(pk=deliverable.pk).update(
                title=flat(200), description=text(), content=text(), prompt=text(), created_by_role=flat(100),
                llm_model=flat(100), review_comments=text(), tags=[flat(60)],
                status="rejected" if number == 0 else "review",
                metadata={"checks": checks, "left_out": [text()]},
            )  # fmt: skip
            for position in range(3):
                DeliverableFile.objects.create(
                    deliverable=deliverable, path=f"{position}{flat(200)}", content=text(), size=1
                )
                DeliverableFile.objects.create(
                    deliverable=deliverable, path=f"{position}.py", content=f"{text()}\n{text()}", size=1
                )
            Comment.objects.create(deliverable=deliverable, author=owner, text=text())
            Review.objects.create(
                deliverable=deliverable, reviewer=owner, decision="rejected", comments=text(), role=flat(100), sha256=""
            )
            DeliverableAccess.objects.create(
                deliverable=deliverable, project=project, accessed_by=owner, accessed_by_role=flat(100),
                access_type="read", access_details={"file": text(), "path": flat()},
            )  # fmt: skip
            pages += [f"/deliverables/{deliverable.pk}", f"/deliverables/{deliverable.pk}?file=1.py"]
        after = deliverable_of(stages[0], lineage_of=made[0], content=text())
        kinds = ("stage_started", "stage_completed", "stage_failed", "deliverable_created", "deliverable_reviewed")
        fields = ("stage_name", "responsible_role", "title", "by", "status", "deliverable_type", "created_by_role")
        events.append(project.stream_id, [events.NewEvent(kind, {name: flat(60) for name in fields}) for kind in kinds])
        template = Template.objects.create(
            id=f"x{number}", name=flat(200), description=text(), requirement_outline=text(), folders=[flat(), text()],
            project_type="api", selected_ai=project.selected_ai, recommended_models={flat(60): flat(60)},
            stages=[{"stage_name": "design", "responsible_role": flat(100), "instructions": text(), "depends_on": []}],
            access=AccessList.objects.create(owner=owner),
        )  # fmt: skip
        address = f"/projects/{project.pk}"
        pages += [
            address,
            f"{address}/deliverables",
            f"{address}/numbers",
            f"{address}/edit",
            f"{address}/delete",
            f"{address}/save-template",
        ]
        pages += [f"{address}/stages/{stages[1].pk}", f"/deliverables/{after.pk}/changes?against={made[0].pk}"]
        pages += [
            f"/deliverables/{after.pk}/edit",
            f"/deliverables/{made[1].pk}/accesses",
            f"/deliverables/{after.pk}/share",
        ]
        pages += [f"/templates/{template.pk}", f"/templates/{template.pk}/delete"]
        pages += [f"/projects/create?template={template.pk}"]
    return pages


if __name__ == "__main__":
    main()
