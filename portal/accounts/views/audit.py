"""The audit log, for admins."""

from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.utils.cache import patch_vary_headers
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_GET

from portal.accounts.audit import appender, heads
from portal.accounts.audit.search import AuditFilter
from portal.accounts.models import AuditEntry, Role, User
from portal.accounts.permissions import allow
from portal.lib.pages import page_of

# What can be picked as “about”: the first part of an action's name.
KINDS = [
    ("user", _("People")),
    ("session", _("Sessions")),
    ("key", _("API keys")),
    ("identity", _("Identities")),
    ("access", _("Access")),
    ("invitation", _("Invitations")),
    ("crew", _("Crews")),
    ("agent", _("Agents")),
    ("execution", _("Runs")),
    ("approval", _("Approvals")),
    ("project", _("Projects")),
    ("stage", _("Stages")),
    ("deliverable", _("Deliverables")),
    ("template", _("Templates")),
    ("provider", _("Providers")),
    ("budget", _("Budgets")),
    ("request", _("Refused requests")),
]


@allow(Role.ADMIN)
@require_GET
def audit_list(request: HttpRequest) -> HttpResponse:
    """Entries, newest first, narrowed by who, what, outcome, time and address; and where the chain ends."""
    found = AuditFilter(request.GET, AuditEntry.objects.order_by("-id"))
    rows = found.qs if found.is_valid() else AuditEntry.objects.none()
    asked = {name: str(value) for name, value in request.GET.items() if value and name in found.filters}
    context = {
        "filter": found,
        "faults": [] if found.is_valid() else [error for errors in found.form.errors.values() for error in errors],
        "page": page_of(rows, request, ordering="-id", size=50),
        "asked": asked,
        "query": urlencode(asked),
        "kinds": KINDS,
        "actor": _actor(found, asked),
        "time_zone": timezone.get_current_timezone_name(),
    }
    template = "accounts/audit_list.html"
    if request.headers.get("HX-Target") == "audit-rows":
        template += "#rows"
    else:
        context["chain"] = _chain()
    response = render(request, template, context)
    patch_vary_headers(response, ["HX-Target"])
    return response


@allow(Role.ADMIN)
@require_GET
def audit_detail(request: HttpRequest, pk: int) -> HttpResponse:
    """One entry whole, with what was before and after."""
    return render(request, "accounts/audit_detail.html", {"entry": get_object_or_404(AuditEntry, pk=pk)})


def _actor(found: AuditFilter, asked: dict[str, str]) -> User | None:
    """Whose entries were asked for, where they are still here."""
    return User.objects.filter(pk=asked["actor_id"]).first() if found.is_valid() and "actor_id" in asked else None


def _chain() -> dict[str, Any]:
    """Where the chain ends in the database and outside of it, and how many entries wait for their seal."""
    try:
        kept, is_bad = heads.kept(), False
    except heads.BadHead:
        kept, is_bad = None, True
    return {"sealed": heads.stored(), "kept": kept, "is_bad": is_bad, "waiting": appender.waiting().count()}
