"""Projects in numbers: how far they are, who did how much with which model, and what that cost."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

from django.db.models import Avg, Count, DurationField, ExpressionWrapper, F, Q, QuerySet, Sum

from executions.models import LLMCall
from portal.accounts.models import Role, User
from portal.accounts.permissions import require_role
from projects.models import Deliverable, Project, Stage
from projects.status import PROJECT_ENDED, ProjectStatus, StageStatus

ACTIVE = (ProjectStatus.IN_PROGRESS, ProjectStatus.REVIEW)
Status = Deliverable.Status


def of_project(project: Project) -> dict[str, Any]:
    """How far a project is, and what each role has done; the body of its analytics. Six queries.

    `average_stage_duration`: from a stage's start to its end, waiting for people included; None before any ended.
    A deliverable counts once, in however many versions; in `models` each version that a role made counts.
    """
    stages = project.stages.all()
    done = Q(stage_status=StageStatus.COMPLETED)
    totals = stages.aggregate(
        total=Count("pk"), done=Count("pk", filter=done & Q(is_stale=False)), mean=_mean_duration(filter=done)
    )
    return {
        "progress_percentage": project.progress_percentage,
        "stages_completed": totals["done"],
        "total_stages": totals["total"],
        "deliverables_created": project.deliverables.filter(is_latest=True).count(),
        "average_stage_duration": totals["mean"],
        "role_activity": _role_activity(project),
        "models": _models(project),
    }


def dashboard(user: User) -> dict[str, Any]:
    """All projects in numbers, for admins. Three queries. Raises `PermissionDenied`.

    `projects_by_stage`: those that are not completed or cancelled, by the stage that they are at.
    """
    require_role(user, Role.ADMIN)
    totals = Project.objects.aggregate(
        total=Count("pk"),
        active=Count("pk", filter=Q(status__in=ACTIVE)),
        completed=Count("pk", filter=Q(status=ProjectStatus.COMPLETED)),
    )
    at = Project.objects.exclude(status__in=PROJECT_ENDED).exclude(current_stage="")
    found = dict(at.order_by().values_list("current_stage").annotate(n=Count("pk")))
    return {
        "total_projects": totals["total"],
        "active_projects": totals["active"],
        "completed_projects": totals["completed"],
        "total_deliverables": Deliverable.objects.filter(is_latest=True).count(),
        "projects_by_stage": {stage: found[stage] for stage in Stage.Name.values if stage in found},
    }


def days(duration: timedelta | None) -> str:
    """A duration as `2.5 days`; a short one with two digits that say something: `0.0035 days`."""
    count = (duration or timedelta()) / timedelta(days=1)
    places = 1
    while count and places < 6 and round(count, places) < 10 ** (1 - places):
        places += 1
    return f"{count:.{places}f} days"


def _mean_duration(**options: Any) -> Avg:
    """The mean time from a stage's start to its end, waiting for people included."""
    spent = ExpressionWrapper(F("end_date") - F("start_date"), output_field=DurationField())
    return Avg(spent, **options)


def _role_activity(project: Project) -> dict[str, dict[str, Any]]:
    """The hours of each role, and the deliverables it has made. Two queries."""
    hours = project.stages.order_by().values_list("responsible_role").annotate(hours=Sum("actual_hours"))
    made = _of_roles(project).values_list("created_by_role").annotate(n=Count("lineage", distinct=True))
    found = {role: {"hours": round(float(spent), 4), "deliverables": 0} for role, spent in hours}
    for role, count in made:
        found.setdefault(role, {"hours": 0.0, "deliverables": 0})["deliverables"] = count
    return dict(sorted(found.items()))


def _models(project: Project) -> list[dict[str, Any]]:
    """What each role made with each of its models, what was decided about it, and what its calls cost. Two queries.

    `rework`: versions that answer a rejection; `unpriced_calls`: calls of a model without a price, which no cost tells
    of. A model whose work is not there yet has its cost already.
    """
    counts = {
        "deliverables": Count("pk"),
        "approved": Count("pk", filter=Q(status=Status.APPROVED)),
        "rejected": Count("pk", filter=Q(status=Status.REJECTED)),
        "rework": Count("pk", filter=Q(parent_deliverable__status=Status.REJECTED)),
    }
    made = _of_roles(project).values_list("created_by_role", "llm_model").annotate(**counts)
    calls = LLMCall.objects.filter(execution__stage_run__stage__project=project).order_by()
    used = Q(prompt_tokens__gt=0) | Q(completion_tokens__gt=0)
    spent = calls.values_list("role", "model").annotate(
        cost=Sum("cost_usd"), unpriced=Count("pk", filter=used & Q(cost_usd=None) & ~Q(closed_at=None))
    )
    numbers = {(role, model): counted for role, model, *counted in made}
    costs = {(role, model): (cost or Decimal(0), unpriced) for role, model, cost, unpriced in spent}
    found = []
    for role, model in sorted({*numbers, *costs}):
        row: dict[str, Any] = {"role": role, "llm_model": model}
        row |= zip(counts, numbers.get((role, model), [0] * len(counts)), strict=True)
        row["cost_usd"], row["unpriced_calls"] = costs.get((role, model), (Decimal(0), 0))
        row["cost_per_approved"] = round(row["cost_usd"] / row["approved"], 8) if row["approved"] else None
        found.append(row)
    return found


def _of_roles(project: Project) -> QuerySet[Deliverable]:
    """The versions that roles made, in no order."""
    return project.deliverables.exclude(created_by_role="").order_by()
