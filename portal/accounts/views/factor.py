"""The second factor of a person's own account."""

from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_POST

from portal.accounts import second_factor
from portal.accounts.forms import CodeForm
from portal.accounts.models import Role, User
from portal.accounts.permissions import allow, person
from portal.accounts.views.posting import post_from
from portal.lib.forms import errors_on
from portal.lib.problems import Problem


@allow(Role.VIEWER)
@never_cache
@require_GET
def factor(request: HttpRequest) -> HttpResponse:
    """Whether signing in asks for a code, and what one can do about it."""
    return _page(request, _local(request))


@allow(Role.VIEWER)
@require_POST
def factor_begin(request: HttpRequest) -> HttpResponse:
    """A new secret for the app; it is asked for once a code has shown that the app has it."""
    try:
        second_factor.begin(_local(request))
    except Problem as problem:
        messages.error(request, problem.sentence)
    return redirect("accounts:second-factor")


@allow(Role.VIEWER)
@never_cache
@sensitive_post_parameters()
@post_from("accounts:second-factor")
def factor_confirm(request: HttpRequest) -> HttpResponse:
    """Switch it on with a code of the app. The answer shows the recovery codes, this once."""
    user = _local(request)
    form = CodeForm(request.POST)
    if form.is_valid():
        with errors_on(form):
            return _page(request, user, codes=second_factor.confirm(user, form.cleaned_data["code"]))
    return _page(request, user, form=form, status=422)


@allow(Role.VIEWER)
@never_cache
@sensitive_post_parameters()
@post_from("accounts:second-factor")
def factor_codes(request: HttpRequest) -> HttpResponse:
    """New recovery codes, for a code; the answer shows them, this once."""
    user = _local(request)
    form = CodeForm(request.POST)
    if form.is_valid():
        with errors_on(form):
            second_factor.verify(user, form.cleaned_data["code"])
            return _page(request, user, codes=second_factor.renew_codes(user))
    return _page(request, user, form=form, opened="codes", status=422)


@allow(Role.VIEWER)
@sensitive_post_parameters()
@post_from("accounts:second-factor")
def factor_remove(request: HttpRequest) -> HttpResponse:
    """Take it away, for a code."""
    user = _local(request)
    form = CodeForm(request.POST)
    if form.is_valid():
        with errors_on(form):
            second_factor.verify(user, form.cleaned_data["code"])
            second_factor.remove(user, by=user)
            messages.success(request, _("The second factor was taken away. Signing in asks for the password alone."))
            return redirect("accounts:second-factor")
    return _page(request, user, form=form, opened="remove", status=422)


def _local(request: HttpRequest) -> User:
    user = person(request)
    if not user.has_usable_password():
        raise Http404("This person signs in elsewhere.")
    return user


def _page(
    request: HttpRequest,
    user: User,
    *,
    form: CodeForm | None = None,
    codes: list[str] | None = None,
    opened: str = "",
    status: int = 200,
) -> HttpResponse:
    is_on = codes is not None or second_factor.is_on(user)
    context: dict[str, Any] = {
        "tab": "second-factor",
        "is_on": is_on,
        "setup": None if is_on else second_factor.pending(user),
        "codes": codes,
        "codes_left": second_factor.codes_left(user) if is_on else 0,
        "form": form or CodeForm(),
        "opened": opened,
    }
    return render(request, "accounts/profile/second_factor.html", context, status=status)
