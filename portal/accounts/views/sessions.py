"""Where a person is signed in, and ending that."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_GET, require_POST

from portal.accounts import sessions
from portal.accounts.models import Role, Session
from portal.accounts.permissions import allow, person
from portal.accounts.views.entry import sign_out


@allow(Role.VIEWER)
@require_GET
def session_list(request: HttpRequest) -> HttpResponse:
    """Every browser that is signed in as the person; this one first."""
    rows = sorted(sessions.of(person(request)), key=lambda row: not _is_this(request, row))
    context = {"tab": "sessions", "sessions": rows, "this": request.session.session_key}
    return render(request, "accounts/profile/sessions.html", context)


@allow(Role.VIEWER)
@require_POST
def session_end(request: HttpRequest, public_id: Any) -> HttpResponse:
    """End one session; one's own is signing out."""
    user = person(request)
    row = get_object_or_404(Session, public_id=public_id, user=user)
    if _is_this(request, row):
        return sign_out(request)
    sessions.end(row, by=user)
    messages.success(request, _("That session has ended."))
    return redirect("accounts:sessions")


@allow(Role.VIEWER)
@require_POST
def session_end_others(request: HttpRequest) -> HttpResponse:
    """End every session but this one."""
    user = person(request)
    ended = sessions.end_all(user, by=user, but=request.session.session_key)
    messages.success(
        request,
        ngettext("%(n)d other session has ended.", "%(n)d other sessions have ended.", ended) % {"n": ended}
        if ended
        else _("There was no other session."),
    )
    return redirect("accounts:sessions")


def _is_this(request: HttpRequest, row: Session) -> bool:
    return row.session_key == request.session.session_key
