"""Two runs side by side, and how they are chosen."""

from typing import Any

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from executions.compare import compare
from executions.models import Execution
from executions.views.lists import HEAVY
from portal.accounts.models import Role
from portal.accounts.permissions import allow
from portal.lib.pages import page_of


@allow(Role.VIEWER)
@require_GET
@never_cache
def run_compare(request: HttpRequest) -> HttpResponse:
    """`?a=&b=` side by side; with fewer, or with `?run=` of a form, two are chosen first."""
    chosen = request.GET.getlist("run")
    if len(chosen) == 2:
        return redirect(f"{reverse('executions:run-compare')}?{urlencode(_in_order(request, chosen))}")
    if len(chosen) > 2:
        messages.info(request, _("Choose two runs, not more."))
    a, b = request.GET.get("a"), request.GET.get("b")
    if a and b:
        left, right = _run(request, a), _run(request, b)
        labels = {**_labels(left), **_labels(right)}
        return render(request, "executions/run_compare.html", {"both": compare(left, right), "labels": labels})
    return _choose(request, {one for one in (*chosen, a, b) if one})


def _run(request: HttpRequest, pk: str) -> Execution:
    try:
        found = Execution.objects.visible_to(request.user).select_related("crew", "created_by").filter(pk=pk).first()
    except ValidationError as exc:
        raise Http404 from exc
    if found is None:
        raise Http404
    return found


def _in_order(request: HttpRequest, chosen: list[str]) -> dict[str, Any]:
    """The older one on the left."""
    left, right = sorted((_run(request, pk) for pk in chosen), key=lambda run: run.created_at)
    return {"a": left.pk, "b": right.pk}


def _labels(run: Execution) -> dict[str, str]:
    asked = run.snapshot.get("inputs", ())
    return {one["field_name"]: one.get("field_label") or one["field_name"] for one in asked}


def _choose(request: HttpRequest, chosen: set[str]) -> HttpResponse:
    """The runs to choose from: those of the same crew, if one is chosen already."""
    runs = Execution.objects.visible_to(request.user).select_related("created_by").defer(*HEAVY)
    first = _run(request, min(chosen)) if chosen else None
    if first and first.crew_id:
        runs = runs.filter(crew=first.crew_id)
    page = page_of(runs, request)
    if first and first.pk not in {run.pk for run in page.rows}:
        page.rows.insert(0, first)
    context = {"page": page, "first": first, "chosen": {first.pk} if first else set()}
    return render(request, "executions/run_choose.html", context)
