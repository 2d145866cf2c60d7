"""What templates show of projects."""

from decimal import Decimal
from typing import Any

from django import template
from django.db.models import Exists, OuterRef, QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from executions.models import ExecutionEvent
from portal.accounts.models import Role, User
from projects.models import Approver, Deliverable, Project, Review, Stage, Template
from projects.status import ProjectStatus, StageStatus

register = template.Library()

SPINNING = {ProjectStatus.IN_PROGRESS.value, StageStatus.IN_PROGRESS.value}
FILE_ICONS = {"code": "file-code", "pdf": "file-text", "image": "image", "json": "braces"}
GATES = 20  # that wait for the reader, listed at once
BADGE = "executions/_status_badge.html"


@register.inclusion_tag(BADGE)
def project_badge(project: Project, size: str = "") -> dict[str, Any]:
    """Status of a project: label, colour and icon, as the enum names them."""
    status = ProjectStatus(project.status)
    spins = project.status in SPINNING
    return {"label": status.label, "tone": status.tone, "icon": status.icon, "spins": spins, "size": size}


@register.inclusion_tag(BADGE)
def stage_badge(stage: Stage, size: str = "") -> dict[str, Any]:
    """Status of a stage."""
    status = StageStatus(stage.stage_status)
    spins = stage.stage_status in SPINNING
    return {"label": status.label, "tone": status.tone, "icon": status.icon, "spins": spins, "size": size}


@register.inclusion_tag(BADGE)
def deliverable_badge(deliverable: Deliverable, size: str = "") -> dict[str, Any]:
    """What was decided about a deliverable."""
    status = Deliverable.Status(deliverable.status)
    return {"label": status.label, "tone": status.tone, "icon": status.icon, "spins": False, "size": size}


@register.inclusion_tag("executions/_step_mark.html")
def stage_mark(stage: Stage) -> dict[str, Any]:
    """The round mark of a stage in the rail."""
    status = StageStatus(stage.stage_status)
    icon = "history" if stage.is_stale else status.icon
    spins = stage.stage_status in SPINNING
    return {"label": status.label, "tone": stage_tone(stage), "icon": icon, "spins": spins}


@register.filter
def stage_tone(stage: Stage) -> str:
    """The colour family of a stage; what is out of date warns."""
    return "warning" if stage.is_stale else StageStatus(stage.stage_status).tone


@register.filter
def file_icon(deliverable: Deliverable) -> str:
    """The icon of a deliverable's kind."""
    return FILE_ICONS.get(deliverable.file_type, "file-text")


@register.filter
def event_icon(event: ExecutionEvent) -> str:
    icons = {
        "stage_started": "play", "stage_completed": "check", "stage_failed": "triangle-alert",
        "stage_rejected": "undo-2", "stage_stale": "history", "stage_rolled_back": "undo-2",
        "deliverable_created": "file-plus",
        "deliverable_reviewed": "user-round-check", "status": "flag",
    }  # fmt: skip
    return icons.get(event.type, "info")


@register.filter
def event_sentence(event: ExecutionEvent) -> str:
    """What happened, in a sentence."""
    data = event.data
    stage = _label(Stage.Name, data.get("stage_name"))
    names = ("reviewed_by", "by", "responsible_role", "created_by_role")
    who = next((str(data[name]) for name in names if data.get(name)), "")
    title = str(data.get("title") or _label(Deliverable.Type, data.get("deliverable_type")))
    says = {
        "stage_started": _("“%(stage)s” was started"),
        "stage_completed": _("“%(stage)s” is completed"),
        "stage_failed": _("“%(stage)s” failed"),
        "stage_rejected": _("“%(stage)s” was sent back"),
        "stage_stale": _("“%(stage)s” is out of date"),
        "stage_rolled_back": _("The work goes on from “%(stage)s”"),
        "deliverable_created": _("“%(title)s” was delivered"),
        "deliverable_reviewed": _("“%(title)s”: %(decision)s"),
        "status": _("The project: %(status)s"),
    }
    words = {
        "stage": stage,
        "title": title,
        "decision": _label(Deliverable.Status, data.get("decision") or data.get("status")),
        "status": _label(ProjectStatus, data.get("status")),
    }
    said = says.get(event.type, event.type) % words
    reason = str(data.get("reason") or "")
    return " · ".join(filter(None, [said, who, f"“{reason}”" if reason else ""]))


def _label(choices: Any, value: Any) -> str:
    """The label of a choice; a value that is none stays as it is."""
    return str(choices(value).label) if value in choices.values else str(value or "–")


# The tone of a line of the history, by its type.
TONES = {
    "stage_started": "info", "stage_completed": "success", "stage_failed": "danger", "stage_rejected": "warning",
    "stage_stale": "warning", "stage_rolled_back": "warning", "deliverable_created": "accent",
    "deliverable_reviewed": "success",
}  # fmt: skip


@register.filter
def project_tone(event: ExecutionEvent) -> str:
    decision = event.data.get("decision") or event.data.get("status")
    if event.type == "deliverable_reviewed" and decision == Deliverable.Status.REJECTED:
        return "warning"
    if event.type == "status" and decision in ProjectStatus.values:
        return ProjectStatus(decision).tone
    return TONES.get(event.type, "neutral")


@register.filter
def labels(stages: list[Stage]) -> str:
    """The names of stages in a row."""
    return ", ".join(stage.label for stage in stages)


@register.simple_tag
def hours(value: Decimal | float | None) -> str:
    """Hours for people: `45 s`, `12 min`, `3.5 h`."""
    if value is None:
        return "–"
    seconds = float(value) * 3600
    if seconds < 60:
        return _("%(n)s s") % {"n": round(seconds)}
    if seconds < 3600:
        return _("%(n)s min") % {"n": round(seconds / 60)}
    return _("%(n)s h") % {"n": f"{float(value):.1f}".removesuffix(".0")}


@register.inclusion_tag("projects/_checks_line.html")
def checks_line(deliverable: Deliverable) -> dict[str, Any]:
    """What really ran over generated code, said plainly; nothing where nothing was to be run."""
    checks = deliverable.metadata.get("checks") if isinstance(deliverable.metadata, dict) else None
    if not isinstance(checks, dict):
        return {"checks": None}
    is_good = bool(checks.get("syntax_ok")) and not checks.get("tests_failed") and not checks.get("exit_code")
    problems = checks.get("problems")
    return {
        "checks": checks,
        "tone": "success" if is_good and checks.get("ran") else "warning",
        "said": said_of(checks),
        "problems": [str(problem) for problem in problems] if isinstance(problems, list) else [],
    }


def said_of(checks: dict[str, Any]) -> str:
    """The findings in a sentence or two."""
    found = [_("The code can be read as Python.") if checks.get("syntax_ok") else _("Some of the code is no Python.")]
    run, failed = checks.get("tests_run"), checks.get("tests_failed") or 0
    if not checks.get("ran"):
        found.append(_("It was not run: there was no sandbox to run it in, or nothing to run."))
    elif run:
        said = ngettext("%(n)s test was run in a sandbox:", "%(n)s tests were run in a sandbox:", run) % {"n": run}
        result = ngettext("%(n)s failed.", "%(n)s failed.", failed) % {"n": failed} if failed else _("all passed.")
        found.append(f"{said} {result}")
    elif checks.get("exit_code"):
        found.append(_("It was run in a sandbox, and ended with an error."))
    else:
        found.append(_("It was run in a sandbox, and ended without an error."))
    return " ".join(found)


@register.filter
def template_name(row: Template) -> str:
    """A template's name; of those that come along, in the reader's language."""
    return _(row.name) if row.is_builtin and row.name else row.name


@register.filter
def template_description(row: Template) -> str:
    return _(row.description) if row.is_builtin and row.description else row.description


@register.simple_tag(takes_context=True)
def gates_to_decide(context: template.Context) -> list[Stage]:
    """The stages whose work waits for a decision that the reader may make, longest waiting first; a few of them.

    One query a page, however often it is shown.
    """
    request = context["request"]
    if not hasattr(request, "gates_to_decide"):
        request.gates_to_decide = list(to_decide(request.user)[:GATES])
    return request.gates_to_decide


def to_decide(user: Any) -> QuerySet[Stage]:
    """The stages in review that `user` may decide about: of projects that they may edit, or named for."""
    waiting = Stage.objects.filter(stage_status=StageStatus.REVIEW, project__archived_at=None).order_by("review_since")
    if not isinstance(user, User) or not user.has_role(Role.USER):
        return waiting.none()
    named = Approver.objects.filter(stage=OuterRef("pk"), user=user)
    # Stage by stage: the first few are enough, and of projects there are many more.
    mine = Exists(Project.objects.editable_by(user).filter(pk=OuterRef("project")))
    seen = Exists(Project.objects.visible_to(user).filter(pk=OuterRef("project")))
    decided = Review.objects.filter(deliverable=OuterRef("pk"), reviewer=user)
    open_ones = Deliverable.objects.filter(stage=OuterRef("pk"), is_latest=True, status=Deliverable.Status.REVIEW)
    left = Exists(open_ones.filter(~Exists(decided)))
    waiting = waiting.filter(mine | Exists(named) & seen).filter(left)
    return waiting.select_related("project").only(
        "stage_name", "responsible_role", "review_since", "review_due_at", "project__name", "project__selected_ai"
    )
