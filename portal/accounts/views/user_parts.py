"""What hangs on an account, for admins: a service account's keys, identities elsewhere, sessions."""

from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from portal.accounts import keys, sessions
from portal.accounts.credential_forms import IdentityForm, KeyForm
from portal.accounts.models import ApiKey, Identity, Role, Session, User
from portal.accounts.oidc import linking
from portal.accounts.permissions import allow, person
from portal.accounts.views.posting import post_from
from portal.accounts.views.users import user_page
from portal.lib.forms import errors_on


@allow(Role.ADMIN)
@never_cache
@post_from("accounts:user")
def key_create(request: HttpRequest, pk: Any) -> HttpResponse:
    """A key for a service account; its text stands in the answer, and never again."""
    who = get_object_or_404(User, pk=pk)
    if not who.is_service:
        raise Http404("People make their own keys.")
    form = KeyForm(request.POST, owner=who)
    if form.is_valid():
        with errors_on(form):
            made, text = form.save(by=person(request))
            return user_page(request, who, status=201, made=made, text=text)
    return user_page(request, who, status=422, key_form=form)


@allow(Role.ADMIN)
@require_http_methods(["GET", "POST"])
def key_revoke(request: HttpRequest, pk: Any, key_pk: Any) -> HttpResponse:
    """Ask, then take somebody's key back for good."""
    key = get_object_or_404(ApiKey.objects.select_related("user"), pk=key_pk, user=pk)
    if request.method == "POST":
        keys.revoke(key, by=person(request))
        messages.success(request, _("The key “%(name)s” was revoked.") % {"name": key.name})
        return redirect("accounts:user", pk)
    return render(request, "accounts/user_key_revoke.html", {"person": key.user, "key": key})


@allow(Role.ADMIN)
@require_POST
def session_end(request: HttpRequest, pk: Any, public_id: Any) -> HttpResponse:
    """End one session of somebody."""
    row = get_object_or_404(Session, public_id=public_id, user=pk)
    sessions.end(row, by=person(request))
    messages.success(request, _("That session has ended."))
    return redirect("accounts:user", pk)


@allow(Role.ADMIN)
@require_POST
def session_end_all(request: HttpRequest, pk: Any) -> HttpResponse:
    """End every session of somebody; one's own but this one."""
    who = get_object_or_404(User, pk=pk)
    sessions.end_all(who, by=person(request), but=request.session.session_key)
    messages.success(request, _("All sessions of %(name)s have ended.") % {"name": who})
    return redirect("accounts:user", pk)


@allow(Role.ADMIN)
@post_from("accounts:user")
def identity_link(request: HttpRequest, pk: Any) -> HttpResponse:
    """Say by hand who somebody is at the identity provider."""
    who = get_object_or_404(User, pk=pk)
    form = IdentityForm(request.POST)
    if form.is_valid():
        with errors_on(form):
            form.save(who, by=person(request))
            messages.success(request, _("The identity was linked: it signs in as %(name)s.") % {"name": who})
            return redirect("accounts:user", pk)
    return user_page(request, who, status=422, identity_form=form)


@allow(Role.ADMIN)
@require_POST
def identity_unlink(request: HttpRequest, pk: Any, identity_pk: int) -> HttpResponse:
    """Take an identity from somebody."""
    identity = get_object_or_404(Identity.objects.select_related("user"), pk=identity_pk, user=pk)
    linking.unlink(identity, by=person(request))
    messages.success(request, _("The identity was unlinked. Its sessions have ended."))
    return redirect("accounts:user", pk)
