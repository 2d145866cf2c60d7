"""What the page of a project shows: its stages with their work, gates, cost and history, put together from the rows."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from django.db.models import Count, Max, OuterRef, Prefetch, Q, Subquery, Sum
from django.utils import timezone

from executions.models import Execution, ExecutionEvent, LLMCall
from executions.status import ACTIVE
from portal.accounts.models import AccessGrant, Role, User
from portal.lib.differences import Piece, differences
from projects.actions.gates import authors
from projects.forms import DelegateForm, ReviewForm
from projects.models import Approver, Deliverable, DeliverableFile, Project, Review, RoleLLMMapping, Stage, StageRun
from projects.status import ProjectStatus, StageStatus

EVENTS = 60
LISTED = 200  # deliverables of a project that its page lists
HEAVY_RUN = ("execution__snapshot", "execution__inputs", "execution__final_output")


@dataclass
class AtGate:
    """A deliverable at a gate: what changed since the version before, and who has decided about it."""

    deliverable: Deliverable
    changes: Sequence[Piece]
    approvals: list[Review]
    quorum: int

    @property
    def left(self) -> int:
        """How many more approvals it needs."""
        return max(0, self.quorum - len(self.approvals))


@dataclass
class Gate:
    """The decision that a stage waits for."""

    pieces: list[AtGate]
    may_review: bool
    has_decided: bool  # the reader has approved all of it; others are missing
    form: ReviewForm | None
    delegate: DelegateForm | None

    @property
    def only(self) -> Deliverable | None:
        """The deliverable, when there is one alone: it can be edited right at the gate."""
        return self.pieces[0].deliverable if len(self.pieces) == 1 else None


@dataclass
class Step:
    """A stage as the page shows it."""

    stage: Stage
    needs: list[Stage]
    run: StageRun | None = None
    runs: int = 0
    deliverables: list[Deliverable] = field(default_factory=list)
    approvers: list[Approver] = field(default_factory=list)
    text: LLMCall | None = None
    gate: Gate | None = None
    model: str = ""

    @property
    def is_ready(self) -> bool:
        """Whether all that it depends on is done."""
        return all(stage.is_done for stage in self.needs)

    @property
    def waits_for(self) -> list[Stage]:
        return [stage for stage in self.needs if not stage.is_done]

    @property
    def may_start(self) -> bool:
        """Whether it may be started by itself now: also again, where it is out of date."""
        status, is_old = self.stage.stage_status, self.stage.is_stale
        startable = status in {StageStatus.PENDING, StageStatus.FAILED} or (status == StageStatus.COMPLETED and is_old)
        return startable and self.is_ready

    @property
    def is_waiting_for_a_start(self) -> bool:
        return self.stage.stage_status == StageStatus.PENDING and self.is_ready

    @property
    def is_running(self) -> bool:
        """Whether a run is at work on it now."""
        return bool(self.run and self.run.execution.status in ACTIVE)

    @property
    def execution(self) -> Execution | None:
        return self.run.execution if self.run else None

    @property
    def version(self) -> str:
        """Changes when the rendered stage changes; streamed text is not part of it."""
        stage, run = self.stage, self.execution
        made = ".".join(f"{row.pk.hex[:6]}{row.status[:2]}" for row in self.deliverables)
        ran = f"{run.pk.hex[:6]}.{run.status}.{run.attempt}" if run else ""
        seen = sum(len(piece.approvals) for piece in self.gate.pieces) if self.gate else 0
        ready = f"{self.is_ready:d}{stage.is_stale:d}"
        return f"{stage.stage_status}.{ready}.{ran}.{made}.{seen}.{len(self.approvers)}.{self.model}"


def steps_of(project: Project, user: User, *, may_answer: bool) -> list[Step]:
    """The stages in order. The number of queries does not grow with what the project holds."""
    stages = list(
        project.stages.select_related("escalate_to").prefetch_related(
            "depends_on", Prefetch("approvers", Approver.objects.select_related("user", "delegated_by"))
        )
    )
    by_key = {stage.pk: stage for stage in stages}
    models = dict(project.mappings.values_list("role_name", "llm_model_id"))
    steps = {
        stage.pk: Step(
            stage,
            needs=[by_key[needed.pk] for needed in stage.depends_on.all()],
            approvers=list(stage.approvers.all()),
            model=models.get(stage.responsible_role, ""),
        )
        for stage in stages
    }
    for deliverable in _latest(project):
        steps[deliverable.stage_id].deliverables.append(deliverable)
    _add_runs(project, steps)
    _add_gates(project, steps, user, may_answer=may_answer)
    return list(steps.values())


def _latest(project: Project) -> list[Deliverable]:
    rows = project.deliverables.filter(is_latest=True).select_related("created_by").defer(*Deliverable.HEAVY)
    return list(rows.order_by("created_at", "id")[:LISTED])


def _add_runs(project: Project, steps: dict[Any, Step]) -> None:
    """The newest run of each stage, and what its model writes just now. Three queries at most."""
    newest = StageRun.objects.filter(stage=OuterRef("pk")).order_by("-pk").values("pk")[:1]
    keys = project.stages.annotate(newest=Subquery(newest)).values("newest")
    for run in StageRun.objects.filter(pk__in=keys).select_related("execution", "execution__stream").defer(*HEAVY_RUN):
        steps[run.stage_id].run = run
    for row in project.stages.annotate(n=Count("runs")).values("pk", "n"):
        steps[row["pk"]].runs = row["n"]
    running = {step.run.execution_id: step for step in steps.values() if step.run and step.is_running}
    if running:
        calls = LLMCall.objects.filter(execution__in=running).order_by().values("execution").annotate(newest=Max("pk"))
        for call in LLMCall.objects.filter(pk__in=calls.values("newest")):
            if call.execution_id in running:
                running[call.execution_id].text = call


# --- Gates --------------------------------------------------------------------------------------


def _add_gates(project: Project, steps: dict[Any, Step], user: User, *, may_answer: bool) -> None:
    """For each stage in review what is to be decided. Four queries at most, and two for each gate that wants a
    second pair of eyes."""
    asking = [step for step in steps.values() if step.stage.stage_status == StageStatus.REVIEW]
    if not asking:
        return
    pieces: dict[Any, list[AtGate]] = defaultdict(list)
    for piece in pieces_of([step.stage for step in asking]):
        pieces[piece.deliverable.stage_id].append(piece)
    people = members_of(project) if may_answer else []
    for step in asking:
        stage = step.stage
        may_review = (may_answer or is_approver(user, step.approvers)) and not project.is_archived
        mine = pieces[stage.pk]
        has_decided = bool(mine) and all(user.pk in {row.reviewer_id for row in piece.approvals} for piece in mine)
        known = {row.user_id for row in step.approvers} | {user.pk}
        others = [person for person in people if person.pk not in known]
        step.gate = Gate(
            pieces=mine,
            may_review=may_review,
            has_decided=has_decided,
            form=review_form(stage, user, [piece.deliverable for piece in mine])
            if may_review and mine and not has_decided
            else None,
            delegate=DelegateForm(people=others, auto_id=f"{stage.stage_name}_delegate_%s") if others else None,
        )


def review_form(stage: Stage, user: User, about: Sequence[Deliverable], *args: Any, key: str = "") -> ReviewForm:
    """The form of a decision of `user` about the stage's work, with what its gate lets them decide."""
    wants_others = stage.excludes_author
    return ReviewForm(
        *args,
        about=about,
        key=key or stage.stage_name,
        may_approve=not wants_others or user.pk not in authors(about),
        may_edit=not wants_others,
    )


def pieces_of(stages: Iterable[Stage]) -> list[AtGate]:
    """What is in review in `stages`, whole, with what changed and who approved. Three queries."""
    reviews = Review.objects.select_related("reviewer").filter(decision=Review.Decision.APPROVED)
    rows = (
        Deliverable.objects.filter(stage__in=list(stages), is_latest=True, status=Deliverable.Status.REVIEW)
        .select_related("stage", "created_by", "parent_deliverable")
        .prefetch_related(
            Prefetch("reviews", reviews), Prefetch("files", DeliverableFile.objects.defer("content").order_by("path"))
        )
        .order_by("created_at", "id")
    )
    found = []
    for row in rows:
        before = row.parent_deliverable
        changes = differences(before.content, row.content) if before is not None else []
        approvals = [review for review in row.reviews.all() if review.sha256 == row.sha256]
        found.append(AtGate(row, changes, approvals, row.stage.quorum))
    return found


def is_approver(user: User, approvers: Iterable[Approver]) -> bool:
    """Whether the person was named for the stage."""
    return user.has_role(Role.USER) and any(row.user_id == user.pk for row in approvers)


def members_of(project: Project) -> list[User]:
    """The owner and the members, who may decide if they are asked to. One query."""
    granted = AccessGrant.objects.filter(access=project.access_id).values("user")
    people = User.objects.filter(Q(pk=project.access.owner_id) | Q(pk__in=granted), is_active=True)
    return [person for person in people.order_by("username") if person.has_role(Role.USER)]


def who_only_look(project: Project, people: Iterable[User]) -> list[User]:
    """Those of `people` who may see the project and not edit it. One query."""
    editors = AccessGrant.objects.filter(access=project.access_id, level=AccessGrant.Level.EDITOR)
    known = {project.access.owner_id, *editors.values_list("user", flat=True)}
    return [person for person in people if person.pk not in known]


# --- Cost, hours, history ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Numbers:
    """What the project has used so far."""

    cost_usd: Decimal
    unpriced: int
    prompt_tokens: int
    completion_tokens: int
    runs: int
    deliverables: int
    approved: int
    rejected: int

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


def numbers_of(project: Project) -> Numbers:
    """Two queries."""
    used = Execution.objects.filter(stage_run__stage__project=project).aggregate(
        cost=Sum("cost_usd"), unpriced=Sum("unpriced_calls"), read=Sum("prompt_tokens"),
        written=Sum("completion_tokens"), runs=Count("pk"),
    )  # fmt: skip
    made = project.deliverables.aggregate(
        all=Count("pk"),
        approved=Count("pk", filter=Q(status=Deliverable.Status.APPROVED)),
        rejected=Count("pk", filter=Q(status=Deliverable.Status.REJECTED)),
    )
    return Numbers(
        cost_usd=used["cost"] or Decimal(0), unpriced=used["unpriced"] or 0, prompt_tokens=used["read"] or 0,
        completion_tokens=used["written"] or 0, runs=used["runs"], deliverables=made["all"],
        approved=made["approved"], rejected=made["rejected"],
    )  # fmt: skip


def history_of(project: Project) -> list[ExecutionEvent]:
    """The last events of the project, newest first. One query."""
    events = ExecutionEvent.objects.filter(stream_id=project.stream_id)
    return list(events.exclude(type="progress").order_by("-seq")[:EVENTS])


def mappings_of(project: Project) -> list[RoleLLMMapping]:
    """The model of each role. One query."""
    return list(project.mappings.select_related("llm_model__provider"))


def is_late(project: Project) -> bool:
    return bool(
        project.deadline
        and project.deadline < timezone.now()
        and project.status not in {ProjectStatus.COMPLETED, ProjectStatus.CANCELLED}
    )
