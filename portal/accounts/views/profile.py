"""A person's own account: who they are, and their password."""

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import translation
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from portal.accounts.forms import PasswordForm, ProfileForm
from portal.accounts.models import Role
from portal.accounts.permissions import allow, person
from portal.lib.forms import errors_on


@allow(Role.VIEWER)
@require_http_methods(["GET", "POST"])
def account(request: HttpRequest) -> HttpResponse:
    """A person's name, address, language and appearance."""
    form = ProfileForm(request.POST or None, instance=person(request))
    if request.method == "POST" and form.is_valid():
        with errors_on(form):
            user = form.save()
            # Said in the language that was just chosen.
            with translation.override(user.language or translation.get_language_from_request(request)):
                messages.success(request, _("Saved."))
            return redirect("accounts:profile")
    return render(request, "accounts/profile/account.html", {"form": form, "tab": "account"}, status=status_of(request))


@allow(Role.VIEWER)
@sensitive_post_parameters()
@require_http_methods(["GET", "POST"])
def password(request: HttpRequest) -> HttpResponse:
    """Change the password of a local account; other sessions of the person end."""
    user = person(request)
    if not user.has_usable_password():
        raise Http404("This person signs in elsewhere.")
    form = PasswordForm(user, request.POST or None)
    if request.method == "POST" and form.is_valid():
        form.save_in(request)
        messages.success(request, _("The password was changed. Other sessions have ended."))
        return redirect("accounts:password")
    context = {"form": form, "tab": "password"}
    return render(request, "accounts/profile/password.html", context, status=status_of(request))


def status_of(request: HttpRequest) -> int:
    """422 when a form comes back with errors."""
    return 422 if request.method == "POST" else 200
