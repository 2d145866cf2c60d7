"""All runs that a person may see."""

import uuid
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from crews.models import Crew
from executions.models import Execution, Worker
from executions.status import ACTIVE, Status
from portal.accounts.models import Role
from portal.accounts.permissions import allow
from portal.lib.pages import page_of

CREWS = 200  # offered in the filter
HEAVY = ("snapshot", "inputs", "final_output", "error_message")


@allow(Role.VIEWER)
@require_GET
def run_list(request: HttpRequest) -> HttpResponse:
    """Runs, newest first; `?status=` (a status, or `active`) and `?crew=` narrow."""
    runs = Execution.objects.visible_to(request.user).select_related("created_by").defer(*HEAVY)
    status = request.GET.get("status", "")
    if status == "active":
        runs = runs.filter(status__in=ACTIVE)
    elif status in Status.values:
        runs = runs.filter(status=status)
    crews = Crew.objects.visible_to(request.user)
    crew = crews.filter(pk=request.GET["crew"]).first() if _is_uuid(request.GET.get("crew", "")) else None
    if crew:
        runs = runs.filter(crew=crew)
    context = {
        "page": page_of(runs, request),
        "status": status,
        "crew": crew,
        "crews": crews.only("name")[:CREWS],
        "statuses": [Status.WAITING, Status.PAUSED, Status.COMPLETED, Status.FAILED, Status.STOPPED],
        "active": Execution.objects.editable_by(request.user).active().exists(),
        **queue_of(request),
    }
    return render(request, "executions/run_list.html", context)


def queue_of(request: HttpRequest) -> dict[str, Any]:
    """What holds up the reader's runs that wait to start: how many they are, and whether a worker would take them.
    Two queries."""
    workers = list(Worker.objects.alive())
    return {
        "queued": Execution.objects.visible_to(request.user).filter(status=Status.PENDING).count(),
        "has_worker": bool(workers),
        "draining": [worker for worker in workers if worker.is_draining],
        "is_draining": bool(workers) and all(worker.is_draining for worker in workers),
    }


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True
