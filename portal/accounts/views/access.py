"""Who may see and edit a thing: what its page shows of it, and the changes. For every kind of thing alike.

A page includes `accounts/_access_card.html` with `panel=panel_of(request, thing)`; its forms come here and
lead back to the page that they stand on (`next`).
"""

from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from portal.accounts import invitations, people, sharing
from portal.accounts.forms import HandOnForm, InviteForm, LevelForm
from portal.accounts.models import AccessGrant, AccessList, Guarded, Invitation, Role, User, Visibility
from portal.accounts.permissions import Action, allow, can, find, person
from portal.accounts.views.preferences import next_page
from portal.accounts.views.profile import status_of
from portal.lib.forms import errors_on
from portal.lib.problems import Problem

SUGGESTED = 8  # people, as one types a name


@dataclass(frozen=True)
class Panel:
    """What a page shows of a thing's access list."""

    thing: Guarded
    members: list[AccessGrant]
    invitations: list[Invitation]
    may_share: bool
    invite: InviteForm | None
    reader: User

    @property
    def access(self) -> AccessList:
        return self.thing.access

    @property
    def levels(self) -> list[tuple[str, Any]]:
        return AccessGrant.Level.choices

    @property
    def own(self) -> AccessGrant | None:
        """The reader's own grant."""
        return next((grant for grant in self.members if grant.user_id == self.reader.pk), None)


def panel_of(request: HttpRequest, thing: Guarded) -> Panel:
    """Who is in and who is invited; three queries at most."""
    user = person(request)
    may_share = can(user, Action.SHARE, thing)
    return Panel(
        thing=thing,
        members=sharing.members(thing),
        invitations=list(invitations.open_of(thing)) if may_share else [],
        may_share=may_share,
        invite=InviteForm() if may_share else None,
        reader=user,
    )


@allow(Role.USER)
@require_POST
def access_visibility(request: HttpRequest, pk: Any) -> HttpResponse:
    """Show the thing to everybody (`visibility=shared`), or take that back (`private`)."""
    visibility = request.POST.get("visibility")
    if visibility not in Visibility.values:
        raise Http404
    sharing.set_visibility(_thing(request, pk), visibility, by=person(request))
    said = {Visibility.SHARED: _("Everybody can see it now."), Visibility.PRIVATE: _("Only members can see it now.")}
    messages.success(request, said[Visibility(visibility)])
    return _back(request)


@allow(Role.USER)
@never_cache
@require_http_methods(["GET", "POST"])
def access_invite(request: HttpRequest, pk: Any) -> HttpResponse:
    """Invite somebody. Without mail, the link to hand over stands in the answer, this once."""
    thing = _thing(request, pk)
    form = InviteForm(request.POST or None)
    context = {"thing": thing, "form": form, "next": next_page(request)}
    if request.method == "POST" and form.is_valid():
        with errors_on(form):
            return invited(request, *form.save(thing, by=person(request)), thing=thing, back=next_page(request))
    return render(request, "accounts/access_invite.html", context, status=status_of(request))


def invited(request: HttpRequest, invitation: Invitation, link: str, *, thing: Any, back: str) -> HttpResponse:
    """The answer to who has invited somebody to see `thing`: back to where they were, or the link to hand over.

    `link` is empty when the invitation was mailed.
    """
    if link and not invitation.user:
        context = {"thing": thing, "next": back, "invitation": invitation, "link": link}
        return render(request, "accounts/access_invited.html", context, status=201)
    said = _("%(name)s was invited, and finds it on the home page.") if link else _("%(name)s was invited by mail.")
    messages.success(request, said % {"name": invitation.user or invitation.email})
    return HttpResponseRedirect(f"{back}#access")


@allow(Role.USER)
@require_POST
def access_withdraw(request: HttpRequest, pk: Any, invitation_pk: Any) -> HttpResponse:
    """Take an open invitation back."""
    thing = _thing(request, pk)
    invitation = get_object_or_404(Invitation, pk=invitation_pk, access=thing.access)
    try:
        invitations.withdraw(invitation, by=person(request))
        messages.success(request, _("The invitation was withdrawn."))
    except Problem as problem:
        messages.error(request, problem.sentence)
    return _back(request)


@allow(Role.USER)
@require_POST
def access_member(request: HttpRequest, pk: Any, user_pk: Any) -> HttpResponse:
    """Change a member's level (`level`)."""
    thing = _thing(request, pk)
    grant = get_object_or_404(AccessGrant.objects.select_related("user"), access=thing.access, user=user_pk)
    form = LevelForm(request.POST)
    if not form.is_valid():
        raise Http404
    try:
        form.save(thing, grant.user, by=person(request))
        messages.success(request, _("Saved."))
    except Problem as problem:
        messages.error(request, problem.sentence)
    return _back(request)


@allow(Role.VIEWER)
@require_POST
def access_leave(request: HttpRequest, pk: Any, user_pk: Any) -> HttpResponse:
    """Let a member in no more; or go oneself."""
    user = person(request)
    thing = _thing(request, pk, Action.SEE if user_pk == user.pk else Action.SHARE)
    grant = get_object_or_404(AccessGrant.objects.select_related("user"), access=thing.access, user=user_pk)
    sharing.withdraw(thing, grant.user, by=user)
    messages.success(request, _("%(name)s is let in no more.") % {"name": grant.user})
    if not can(user, Action.SEE, thing):
        return redirect("site:home")
    return _back(request)


@allow(Role.USER)
@require_http_methods(["GET", "POST"])
def access_hand_on(request: HttpRequest, pk: Any) -> HttpResponse:
    """Ask, then make somebody else the owner."""
    thing = _thing(request, pk)
    form = HandOnForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        with errors_on(form):
            form.save(thing, by=person(request))
            messages.success(request, _("It belongs to %(name)s now.") % {"name": form.cleaned_data["to"]})
            return _back(request) if can(request.user, Action.SEE, thing) else redirect("site:home")
    context = {"thing": thing, "form": form, "next": next_page(request)}
    return render(request, "accounts/access_hand_on.html", context, status=status_of(request))


@allow(Role.USER)
@require_GET
def people_options(request: HttpRequest) -> HttpResponse:
    """People whom somebody may mean by what they typed (`?who=`), for the field's list."""
    text = request.GET.get("who", request.GET.get("to", "")).strip().replace("\x00", "")
    here = User.objects.filter(is_active=True, is_service=False).exclude(pk=person(request).pk)
    context = {"people": people.matching(here, text)[:SUGGESTED] if text else []}
    return render(request, "accounts/_people_options.html", context)


def _thing(request: HttpRequest, pk: Any, action: Action = Action.SHARE) -> Guarded:
    """What the access list guards, if the person may do `action` with it."""
    thing = sharing.thing_of(get_object_or_404(AccessList, pk=pk))
    if thing is None:
        raise Http404
    return find(type(thing)._default_manager.all(), request.user, action, pk=thing.pk)


def _back(request: HttpRequest) -> HttpResponse:
    return HttpResponseRedirect(f"{next_page(request)}#access")
