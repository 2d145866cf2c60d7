"""People and service accounts, for admins."""

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.cache import patch_vary_headers
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from portal.accounts import passwords, people, second_factor, sessions, sharing
from portal.accounts.credential_forms import IdentityForm, KeyForm
from portal.accounts.forms import HandOnForm, PeopleFilterForm, PersonForm, RoleForm, ServiceAccountForm
from portal.accounts.models import Role, User
from portal.accounts.permissions import allow, person
from portal.accounts.views.posting import post_from
from portal.accounts.views.profile import status_of
from portal.lib.forms import errors_on
from portal.lib.pages import page_of
from portal.lib.problems import Problem


@allow(Role.ADMIN)
@require_GET
def user_list(request: HttpRequest) -> HttpResponse:
    """Everybody, by name; `?q=` searches, `?role=`, `?state=` and `?kind=` narrow."""
    form = PeopleFilterForm(request.GET)
    page = page_of(form.narrow(User.objects.all()), request, ordering="username")
    asked = any(request.GET.get(name) for name in form.fields)
    template = "accounts/user_list.html"
    if request.headers.get("HX-Target") == "user-rows":
        template += "#rows"
    response = render(request, template, {"page": page, "form": form, "asked": asked})
    patch_vary_headers(response, ["HX-Target"])
    return response


@allow(Role.ADMIN)
@never_cache
@sensitive_post_parameters("password")
@require_http_methods(["GET", "POST"])
def user_create(request: HttpRequest) -> HttpResponse:
    """A new person; where no password was given, the link to set one stands in the answer, this once."""
    form = PersonForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        with errors_on(form):
            made, link = form.save(by=person(request))
            if link:
                return render(request, "accounts/user_link.html", {"person": made, "link": link}, status=201)
            messages.success(request, _("%(name)s can sign in now.") % {"name": made})
            return redirect("accounts:user", made.pk)
    return render(request, "accounts/user_create.html", {"form": form}, status=status_of(request))


@allow(Role.ADMIN)
@require_http_methods(["GET", "POST"])
def service_create(request: HttpRequest) -> HttpResponse:
    """A new service account; its page is where keys are made for it."""
    form = ServiceAccountForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        with errors_on(form):
            made = form.save(by=person(request))
            messages.success(request, _("The service account was made. Give it a key."))
            return redirect("accounts:user", made.pk)
    return render(request, "accounts/service_create.html", {"form": form}, status=status_of(request))


@allow(Role.ADMIN)
@require_GET
def user_detail(request: HttpRequest, pk: Any) -> HttpResponse:
    """One account: role, state, keys, sessions, identities, what it owns."""
    return user_page(request, get_object_or_404(User, pk=pk))


@allow(Role.ADMIN)
@post_from("accounts:user")
def user_role(request: HttpRequest, pk: Any) -> HttpResponse:
    """Give an account another role (`role`)."""
    who = get_object_or_404(User, pk=pk)
    form = RoleForm(request.POST)
    if form.is_valid():
        with errors_on(form):
            form.save(who, by=person(request))
            said = {"name": who, "role": Role(who.role).label}
            messages.success(request, _("%(name)s has the role “%(role)s” now.") % said)
            # Who gave up their own rights may not see this page any more.
            return redirect("accounts:user", who.pk) if who.pk != person(request).pk else redirect("accounts:profile")
    return user_page(request, User.objects.get(pk=who.pk), role_form=form, status=422)


@allow(Role.ADMIN)
@require_http_methods(["GET", "POST"])
def user_deactivate(request: HttpRequest, pk: Any) -> HttpResponse:
    """Say what follows, then switch an account off."""
    who = get_object_or_404(User, pk=pk)
    if request.method == "POST":
        try:
            people.deactivate(who, by=person(request))
            messages.success(request, _("%(name)s is deactivated. Sessions and keys have ended.") % {"name": who})
        except Problem as problem:
            messages.error(request, problem.sentence)
        return redirect("accounts:user", who.pk)
    context = {
        "person": who,
        "sessions": sessions.of(who).count(),
        "keys": who.api_keys.filter(revoked_at=None).count(),
    }
    return render(request, "accounts/user_deactivate.html", context)


@allow(Role.ADMIN)
@require_POST
def user_reactivate(request: HttpRequest, pk: Any) -> HttpResponse:
    """Let an account in again."""
    who = get_object_or_404(User, pk=pk)
    people.reactivate(who, by=person(request))
    messages.success(request, _("%(name)s may come in again. Keys and sessions that ended stay ended.") % {"name": who})
    return redirect("accounts:user", who.pk)


@allow(Role.ADMIN)
@require_http_methods(["GET", "POST"])
def user_delete(request: HttpRequest, pk: Any) -> HttpResponse:
    """Ask, then delete an account that owns nothing."""
    who = get_object_or_404(User, pk=pk)
    if request.method == "POST":
        name = who.get_username()
        try:
            people.delete(who, by=person(request))
        except Problem as problem:
            messages.error(request, problem.sentence)
            return redirect("accounts:user", pk)
        messages.success(request, _("The account “%(name)s” was deleted.") % {"name": name})
        return redirect("accounts:user-list")
    return render(request, "accounts/user_delete.html", {"person": who})


@allow(Role.ADMIN)
@never_cache
@post_from("accounts:user")
def user_link(request: HttpRequest, pk: Any) -> HttpResponse:
    """A link with which the person sets a password; it stands in the answer, this once."""
    who = get_object_or_404(User, pk=pk)
    try:
        context = {"person": who, "link": passwords.make_link(who, by=person(request))}
    except Problem as problem:
        messages.error(request, problem.sentence)
        return redirect("accounts:user", who.pk)
    return render(request, "accounts/user_link.html", context, status=201)


@allow(Role.ADMIN)
@require_POST
def user_factor_remove(request: HttpRequest, pk: Any) -> HttpResponse:
    """Take away the second factor of somebody who has lost it."""
    who = get_object_or_404(User, pk=pk)
    second_factor.remove(who, by=person(request))
    messages.success(request, _("%(name)s signs in with the password alone now.") % {"name": who})
    return redirect("accounts:user", who.pk)


@allow(Role.ADMIN)
@require_http_methods(["GET", "POST"])
def user_hand_on(request: HttpRequest, pk: Any) -> HttpResponse:
    """Ask, then make somebody else the owner of all that belongs to an account."""
    who = get_object_or_404(User, pk=pk)
    form = HandOnForm(request.POST or None)
    things = list(sharing.owned_by(who))
    if request.method == "POST" and form.is_valid():
        with errors_on(form):
            for thing in things:
                form.save(thing, by=person(request))
            messages.success(
                request,
                ngettext("%(n)d thing belongs to %(name)s now.", "%(n)d things belong to %(name)s now.", len(things))
                % {"n": len(things), "name": form.cleaned_data["to"]},
            )
            return redirect("accounts:user", who.pk)
    context = {"person": who, "form": form, "things": [sharing.name_of(thing) for thing in things]}
    return render(request, "accounts/user_hand_on.html", context, status=status_of(request))


def user_page(request: HttpRequest, who: User, *, status: int = 200, **more: Any) -> HttpResponse:
    """The page of an account; `more` puts a form that was sent, or a key that was made, in its place."""
    context = {
        "person": who,
        "is_self": who.pk == person(request).pk,
        "role_form": RoleForm(initial={"role": who.role}),
        "keys": list(who.api_keys.all()),
        "key_form": KeyForm(owner=who) if who.is_service and who.is_active else None,
        "sessions": list(sessions.of(who)),
        "this": request.session.session_key,
        "identities": list(who.identities.select_related("linked_by").order_by("created_at")),
        "identity_form": IdentityForm() if settings.OIDC_ISSUER and not who.is_service else None,
        "has_factor": second_factor.is_on(who),
        "owned_count": sum(1 for _thing in sharing.owned_by(who)),
        **more,
    }
    return render(request, "accounts/user_detail.html", context, status=status)
