"""Many projects at once, as rows, for `tests.soak.scale`."""

import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from typing import Any

STAGES = {
    "requirement": ("Product Manager", ["requirement"]),
    "design": ("Architect", ["design_doc", "architecture"]),
    "planning": ("Project Manager", ["task_plan"]),
    "development": ("Engineer", ["code"]),
    "testing": ("QA Engineer", ["test_plan"]),
}
A_PROJECT = 10  # deliverables: the six of its stages, of which four have two versions
BATCH = 250  # projects that are stored at a time
ENGLISH = [
    *("the", "user", "pays", "order", "payment", "cart", "shop", "search", "account", "page", "list", "server", "data"),
    *("request", "answer", "error", "report", "screen", "button", "mobile", "runner", "health", "goal", "weekly"),
    *("plan", "test", "module", "function", "class", "table", "index", "query", "login", "email", "friend"),
]
KOREAN = [
    *("결제", "장바구니", "사용자", "주문", "화면", "검색", "요구사항", "설계", "데이터", "서버", "목록", "보고서"),
    *("건강", "목표", "달리기", "친구", "알림", "로그인"),
]
RARE = "xylophone"


@dataclass
class Made:
    """What is there, and whom and what the measurement asks about."""

    rng: random.Random
    person: Any
    admin: Any
    others: list[Any]
    words: list[str]
    big: uuid.UUID | None = None
    versioned: uuid.UUID | None = None  # the latest of many versions
    project: uuid.UUID | None = None
    deliverable: uuid.UUID | None = None
    rare: str = RARE
    stages_of_big: list[Any] = field(default_factory=list)


def begin(rng: random.Random) -> Made:
    """The people, and the project that all others are small beside."""
    from tests.factories.accounts import UserFactory
    from tests.factories.projects import deliverable_of, staged_project

    person = UserFactory(username="ann")
    others = [UserFactory(username=f"other{number}") for number in range(50)]
    # As many different words as texts of that many projects have.
    words = [*ENGLISH, *KOREAN, *("".join(rng.choices("abcdefghijklmnoprstuvwy", k=6)) for _ in range(8_000))]
    made = Made(rng, person, UserFactory(username="root", admin=True), others, words)
    big = staged_project(name="The big one", access__owner=person, status="in_progress", current_stage="development")
    made.big, made.stages_of_big = big.pk, list(big.stages.all())
    made.versioned = deliverable_of(made.stages_of_big[0], content="One.", title="Grown").pk
    return made


def fill(made: Made, projects: int) -> None:
    """`projects` more, with ten deliverables each, and a twentieth as many in the big one."""
    from django.db import transaction

    for start in range(0, projects, BATCH):
        with transaction.atomic():
            _projects(made, min(BATCH, projects - start))
    with transaction.atomic():
        _grow(made, projects * A_PROJECT // 20)


def sizes() -> dict[str, int]:
    """What there is in the end."""
    from executions.models import Execution
    from projects.models import Deliverable, DeliverableAccess, Project, Stage

    rows = {"projects": Project, "stages": Stage, "deliverables": Deliverable, "accesses": DeliverableAccess}
    return {name: model.objects.count() for name, model in {**rows, "executions": Execution}.items()}


# --- Rows ----------------------------------------------------------------------------------------------


def _projects(made: Made, count: int) -> None:
    from executions.models import EventStream
    from portal.accounts.models import AccessGrant, AccessList
    from projects.models import Project, RoleLLMMapping, Stage
    from projects.status import ProjectStatus

    rng = made.rng
    access = [
        AccessList(
            owner=made.person if number % 3 == 0 else rng.choice(made.others),
            visibility="shared" if rng.random() < 0.1 else "private",
        )
        for number in range(count)
    ]
    AccessList.objects.bulk_create(access)
    AccessGrant.objects.bulk_create(
        AccessGrant(access=one, user=made.person, level="editor")
        for one in access[1::20]
        if one.owner_id != made.person.pk
    )
    streams = EventStream.objects.bulk_create(EventStream() for _ in range(count))
    projects = [
        Project(
            id=stream.pk, stream=stream, access=one, name=f"Project {_text(made, 3)}", description=_text(made, 30),
            requirement=_text(made, 120), selected_ai="meta-gpt", status=rng.choice(ProjectStatus.values),
            template_id=rng.choice([None, "web_app", "api"]), current_stage=rng.choice(list(STAGES)),
            progress_percentage=rng.choice([0, 20, 40, 60, 80, 100]),
        )
        for stream, one in zip(streams, access, strict=True)
    ]  # fmt: skip
    Project.objects.bulk_create(projects)
    stages = [
        Stage(
            project=project, stage_name=name, stage_order=order, responsible_role=STAGES[name][0],
            stage_status=rng.choice(["pending", "completed", "review", "completed"]),
        )
        for project in projects
        for order, name in enumerate(STAGES, start=1)
    ]  # fmt: skip
    Stage.objects.bulk_create(stages)
    follows = Stage.depends_on.through
    follows.objects.bulk_create(
        follows(from_stage=later, to_stage=earlier)
        for earlier, later in pairwise(stages)
        if earlier.project_id == later.project_id
    )
    RoleLLMMapping.objects.bulk_create(
        RoleLLMMapping(project=project, role_name=role, llm_model_id="embedded")
        for project in projects
        for role, _types in STAGES.values()
    )
    _runs(stages)
    deliverables = list(_deliverables(made, stages))
    _store(made, deliverables)
    if made.project is None:
        made.project = projects[0].pk
        made.deliverable = next(one.pk for one in deliverables if one.version == "1.1")


def _runs(stages: list[Any]) -> None:
    """A finished run of each stage, with a call."""
    from django.utils import timezone

    from executions.models import EventStream, Execution, LLMCall
    from projects.models import StageRun

    now = timezone.now()
    streams = EventStream.objects.bulk_create(EventStream() for _ in stages)
    executions = [
        Execution(
            id=stream.pk, stream=stream, access_id=stage.project.access_id, name=stage.stage_name, engine="metagpt",
            snapshot={}, status="completed", started_at=now - timedelta(minutes=5), ended_at=now, trigger="project",
        )
        for stage, stream in zip(stages, streams, strict=True)
    ]  # fmt: skip
    Execution.objects.bulk_create(executions)
    StageRun.objects.bulk_create(
        StageRun(stage=stage, execution=execution, settled_at=now)
        for stage, execution in zip(stages, executions, strict=True)
    )
    LLMCall.objects.bulk_create(
        LLMCall(
            execution=execution, role=stage.responsible_role, model="embedded", provider="Local", status="completed",
            opened_at=now, closed_at=now, cost_usd=0,
        )
        for stage, execution in zip(stages, executions, strict=True)
    )  # fmt: skip


def _deliverables(made: Made, stages: list[Any]) -> Iterator[Any]:
    for stage in stages:
        for number, kind in enumerate(STAGES[stage.stage_name][1]):
            first = _deliverable(made, stage, kind)
            if stage.stage_name in {"requirement", "design", "development", "testing"} and number == 0:
                first.is_latest = False
                yield first
                yield _deliverable(made, stage, kind, lineage=first.lineage, version="1.1", parent_deliverable=first)
            else:
                yield first


def _deliverable(made: Made, stage: Any, kind: str, **fields: Any) -> Any:
    from projects.deliverables import search, versions
    from projects.models import Deliverable

    title, content = f"{kind} {_text(made, 2)}", _text(made, 150)
    if made.rng.random() < 0.0001:
        content += f" {RARE}"
    return Deliverable(
        project_id=stage.project_id, stage=stage, deliverable_type=kind, title=title, content=content,
        sha256=versions.digest(content, {}), file_size=len(content.encode()), created_by_role=stage.responsible_role,
        status=made.rng.choice(["draft", "review", "approved", "approved", "rejected"]), llm_model="embedded",
        search_text=search.terms(title, content), **fields,
    )  # fmt: skip


def _store(made: Made, deliverables: list[Any]) -> None:
    from projects.models import Comment, Deliverable, DeliverableAccess, DeliverableFile, Review

    Deliverable.objects.bulk_create(deliverables)
    DeliverableAccess.objects.bulk_create(
        DeliverableAccess(deliverable=one, project_id=one.project_id, accessed_by=made.person, access_type="read")
        for one in deliverables
    )
    DeliverableFile.objects.bulk_create(
        DeliverableFile(deliverable=one, path=f"src/part{number}.py", content="print(1)\n", size=9)
        for one in deliverables
        if one.deliverable_type == "code"
        for number in range(3)
    )
    decided = [one for one in deliverables if one.status in {"approved", "rejected"}]
    Review.objects.bulk_create(
        Review(deliverable=one, reviewer=made.person, decision=one.status, sha256=one.sha256) for one in decided
    )
    Comment.objects.bulk_create(Comment(deliverable=one, author=made.person, text="Good.") for one in deliverables[::5])


def _grow(made: Made, count: int) -> None:
    """More in the big project: half in lineages of their own, half as versions of one deliverable; runs and events."""
    from executions.models import ExecutionEvent
    from projects.models import Comment, Deliverable, DeliverableAccess, Project

    stages = made.stages_of_big
    alone = [_deliverable(made, made.rng.choice(stages[1:]), "document") for _ in range(count - count // 2)]
    latest = Deliverable.objects.get(pk=made.versioned)
    latest.is_latest = False
    latest.save(update_fields=["is_latest"])
    versioned = []
    for _ in range(max(count // 2, 1)):
        major, minor = latest.version.split(".")
        latest = _deliverable(
            made, stages[0], "requirement", lineage=latest.lineage, version=f"{major}.{int(minor) + 1}",
            parent_deliverable=latest, is_latest=False,
        )  # fmt: skip
        versioned.append(latest)
    latest.is_latest, made.versioned = True, latest.pk
    _store(made, alone)
    _store(made, versioned)
    for _ in range(max(count // 500, 1)):
        _runs(stages)
    DeliverableAccess.objects.bulk_create(
        DeliverableAccess(deliverable=latest, project_id=made.big, accessed_by=made.person, access_type="read")
        for _ in range(count)
    )
    Comment.objects.bulk_create(
        Comment(deliverable=latest, author=made.person, text=_text(made, 9)) for _ in range(count)
    )
    stream = Project.objects.get(pk=made.big).stream
    ExecutionEvent.objects.bulk_create(
        ExecutionEvent(stream=stream, seq=stream.last_seq + number, type="progress", at=latest.created_at, data={})
        for number in range(1, count + 1)
    )
    stream.last_seq += count
    stream.save()


def _text(made: Made, words: int) -> str:
    return " ".join(made.rng.choices(made.words, k=words))
