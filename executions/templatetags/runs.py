"""What templates show of runs, on pages of other rooms too."""

import json
from typing import Any

from django import template
from django.db.models import OuterRef, Subquery
from django.utils.translation import gettext as _

from crews.models import Crew
from executions.models import Execution, ExecutionEvent, TaskRun
from executions.status import Status

register = template.Library()

RECENT = 5
SPINNING = {Status.RUNNING.value}


@register.inclusion_tag("executions/_status_badge.html")
def run_badge(run: Execution, size: str = "") -> dict[str, Any]:
    """Status of a run: label, colour and icon, as the enum names them."""
    status = Status(run.status)
    label = _("Stopping…") if run.is_stopping else status.label
    return {"label": label, "tone": status.tone, "icon": status.icon, "spins": run.status in SPINNING, "size": size}


@register.inclusion_tag("executions/_step_mark.html")
def step_mark(task_run: TaskRun) -> dict[str, Any]:
    """The round mark of a task in the timeline."""
    status = TaskRun.Status(task_run.status)
    spins = task_run.status in SPINNING
    return {"label": status.label, "tone": status.tone, "icon": status.icon, "spins": spins}


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


# The tone of an event's name in the list, by its end.
TONES = {"failed": "danger", "stopped": "neutral", "completed": "success", "started": "info"}


@register.filter
def event_tone(event: ExecutionEvent) -> str:
    return TONES.get(event.type.rpartition(".")[2], "neutral")


@register.filter
def event_summary(event: ExecutionEvent) -> str:
    """The few words of an event's data that say most."""
    data = event.data
    words = [str(data[key]) for key in ("name", "tool", "model", "worker", "message", "error_message") if data.get(key)]
    if tokens := data.get("completion_tokens"):
        words.append(_("%(n)s tokens") % {"n": tokens})
    return " · ".join(words)[:200]


@register.filter
def pretty(data: Any) -> str:
    """JSON for people."""
    return json.dumps(data, ensure_ascii=False, indent=2)


@register.filter
def tokens(run: Execution) -> int | None:
    """Tokens read and written; None before the first."""
    return run.prompt_tokens + run.completion_tokens or None
