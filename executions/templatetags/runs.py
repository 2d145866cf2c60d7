"""What templates show of runs, on pages of other rooms too."""

import json
from typing import Any

from django import template
from django.db.models import OuterRef, Subquery
from django.utils.translation import gettext as _

from crews.models import Crew
from executions import budgets
from executions.approvals import to_answer
from executions.models import Approval, Budget, Execution, ExecutionEvent, TaskRun
from executions.status import Status, WaitingFor
from executions.views.shown import Gauge, Step, Try, gauges_of

register = template.Library()

RECENT = 5
SPINNING = {Status.RUNNING.value}


@register.inclusion_tag("executions/_status_badge.html")
def run_badge(run: Execution, size: str = "") -> dict[str, Any]:
    """Status of a run: label, colour and icon, as the enum names them."""
    status = Status(run.status)
    label = _("Stopping…") if run.is_stopping else _("Pausing…") if run.is_pausing else status.label
    return {"label": label, "tone": status.tone, "icon": status.icon, "spins": run.status in SPINNING, "size": size}


@register.inclusion_tag("executions/_step_mark.html")
def step_mark(step: Step) -> dict[str, Any]:
    """The round mark of a task in the timeline."""
    if step.is_asking:
        asking = Approval.Status.OPEN
        return {"label": _("Waits for an answer"), "tone": asking.tone, "icon": asking.icon, "spins": False}
    status = TaskRun.Status(step.row.status)
    spins = step.row.status in SPINNING
    return {"label": status.label, "tone": status.tone, "icon": status.icon, "spins": spins}


@register.inclusion_tag("executions/_status_badge.html")
def attempt_badge(attempt: Try) -> dict[str, Any]:
    """How an attempt ended; one that is followed by another was cut off."""
    if attempt.is_cut_off:
        return {"label": _("Cut off"), "tone": "warning", "icon": "unplug", "spins": False, "size": ""}
    status = Status(attempt.row.outcome or Status.RUNNING)
    return {
        "label": status.label, "tone": status.tone, "icon": status.icon, "spins": status in SPINNING, "size": "",
    }  # fmt: skip


@register.inclusion_tag("executions/_status_badge.html")
def approval_badge(question: Approval, size: str = "") -> dict[str, Any]:
    """What was decided about a question."""
    status = Approval.Status(question.status)
    return {"label": status.label, "tone": status.tone, "icon": status.icon, "spins": False, "size": size}


@register.simple_tag
def text_name(name: str) -> str:
    """What a text of a task or agent is called."""
    names = {
        "description": _("Description"), "expected_output": _("Expected output"), "model": _("Model"),
        "role": _("Role"), "goal": _("Goal"), "backstory": _("Backstory"),
    }  # fmt: skip
    return names.get(name, name)


@register.simple_tag(takes_context=True)
def questions_to_answer(context: template.Context) -> int:
    """How many open questions the reader may answer. One query a page, however often it is shown."""
    request = context["request"]
    if not hasattr(request, "questions_to_answer"):
        open_ones = to_answer(request.user).filter(status=Approval.Status.OPEN)
        request.questions_to_answer = open_ones.count()
    return request.questions_to_answer


@register.simple_tag(takes_context=True)
def own_budgets(context: template.Context) -> list[tuple[Budget, list[Gauge]]]:
    """The reader's own budgets, with how much of each is used. One query."""
    return [(budget, gauges_of(budget)) for budget in budgets.of_user(context["request"].user.pk)]


@register.simple_tag(takes_context=True)
def recent_runs(context: template.Context, crew: Crew) -> list[Execution]:
    """The last runs of a crew that the reader may see. One query."""
    runs = Execution.objects.visible_to(context["request"].user).filter(crew=crew).select_related("created_by")
    return list(runs[:RECENT])


@register.simple_tag(takes_context=True)
def last_runs(context: template.Context, crews: list[Crew]) -> dict[Any, Execution]:
    """The newest run of each crew that the reader may see, by the crew's key. Two queries for all of them."""
    runs = Execution.objects.visible_to(context["request"].user).filter(crew=OuterRef("pk"))
    newest = Subquery(runs.order_by("-created_at", "-pk").values("pk")[:1])
    keys = (
        Crew.objects.filter(pk__in=[crew.pk for crew in crews]).annotate(newest=newest).values_list("newest", flat=True)
    )
    return {run.crew_id: run for run in Execution.objects.filter(pk__in=[key for key in keys if key])}


# What of an event's data is said beside its name.
SAYING = ("name", "title", "tool", "model", "worker", "message", "error_message", "reason")
SHOWN = 5_000  # characters of a text in an event; what tasks gave stands whole with the task
# The tone of an event's name in the list, by its end.
TONES = {
    "waiting": "warning",
    "requested": "warning",
    "recovered": "warning",
    "replayed": "accent",
    "failed": "danger",
    "stopped": "neutral",
    "completed": "success",
    "started": "info",
}


@register.filter
def event_tone(event: ExecutionEvent) -> str:
    return TONES.get(event.type.rpartition(".")[2], "neutral")


@register.filter
def event_summary(event: ExecutionEvent) -> str:
    """The few words of an event's data that say most."""
    data = event.data
    words = [str(data[key]) for key in SAYING if data.get(key)]
    if event.type == "llm.replayed":
        words.append(_("from the journal, at no cost"))
    elif event.type == "approval.answered":
        decision = data.get("decision")
        words.append(str(Approval.Status(decision).label) if decision in Approval.Status.values else "")
        words.append(str(data.get("by", "")))
    elif event.type == "execution.waiting":
        waits_for = data.get("for")
        words.append(str(WaitingFor(waits_for).label) if waits_for in WaitingFor.values else "")
    elif data.get("by"):
        words.append(str(data["by"]))
    elif made := data.get("deliverables"):
        words += [one["title"] for one in _listed(made)]
    if tokens := data.get("completion_tokens"):
        words.append(_("%(n)s tokens") % {"n": tokens})
    return " · ".join(filter(None, words))[:200]


@register.filter
def pretty(data: Any) -> str:
    """An event's data as JSON for people: without the contents of deliverables, and long texts cut."""
    if isinstance(data, dict) and "deliverables" in data:
        data = {**data, "deliverables": _listed(data["deliverables"])}
    return json.dumps(_cut(data), ensure_ascii=False, indent=2)


def _listed(made: Any) -> list[dict[str, Any]]:
    """Deliverables as an engine gave them, by their names alone."""
    rows = [one for one in made if isinstance(one, dict)] if isinstance(made, list) else []
    return [
        {
            "type": str(one.get("type", "")),
            "title": str(one.get("title", "")),
            "characters": len(str(one.get("content", ""))),
            "files": [
                str(file["path"]) for file in one.get("files") or [] if isinstance(file, dict) and "path" in file
            ],
        }
        for one in rows
    ]


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= SHOWN else f"{value[:SHOWN]}… [{len(value) - SHOWN}]"
    if isinstance(value, dict):
        return {key: _cut(item) for key, item in value.items()}
    return [_cut(item) for item in value] if isinstance(value, list) else value


@register.filter
def tokens(run: Execution) -> int | None:
    """Tokens read and written; None before the first."""
    return run.prompt_tokens + run.completion_tokens or None
