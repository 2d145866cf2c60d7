"""Invitations that wait for a person's answer, and the page of a link."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from portal.accounts import invitations, sharing
from portal.accounts.models import Invitation, Role, User
from portal.accounts.permissions import allow, person
from portal.lib.problems import Problem


@allow(Role.VIEWER)
@require_GET
def invitation_list(request: HttpRequest) -> HttpResponse:
    """What the person was invited to and has not answered."""
    context = {"tab": "invitations", "invitations": list(invitations.open_for(person(request)))}
    return render(request, "accounts/profile/invitations.html", context)


@allow(Role.VIEWER)
@require_POST
def invitation_answer(request: HttpRequest, pk: Any) -> HttpResponse:
    """Accept or decline (`answer`) an invitation that was made to the person."""
    user = person(request)
    return _answered(request, get_object_or_404(invitations.open_for(user), pk=pk), user)


# Whoever holds the link and signs in: DenyByDefault leads a stranger to the sign-in page and back.
@allow(Role.VIEWER)
@never_cache
@require_http_methods(["GET", "POST"])
def invitation(request: HttpRequest, token: str) -> HttpResponse:
    """The page of a link: what it is an invitation to, and the answer."""
    user = person(request)
    try:
        found = invitations.find(token, by=user)
    except Problem as problem:
        return render(request, "accounts/invitation.html", {"problem": problem}, status=problem.status)
    if request.method == "POST":
        return _answered(request, found, user)
    return render(request, "accounts/invitation.html", {"invitation": found})


def _answered(request: HttpRequest, found: Invitation, user: User) -> HttpResponse:
    try:
        if request.POST.get("answer") == "accept":
            invitations.accept(found, by=user)
            messages.success(request, _("You joined “%(thing)s”.") % {"thing": found.thing})
            page_of = getattr(sharing.thing_of(found.access), "get_absolute_url", None)
            return redirect(page_of() if page_of else "site:home")
        invitations.decline(found, by=user)
        messages.success(request, _("You declined the invitation."))
    except Problem as problem:
        messages.error(request, problem.sentence)
    return redirect("accounts:invitations")
