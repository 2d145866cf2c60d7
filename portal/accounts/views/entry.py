"""Signing in and out, with a local account or elsewhere; making an account; a forgotten password."""

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import NON_FIELD_ERRORS
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from portal.accounts import entering, local, passwords
from portal.accounts.forms import CodeForm, NewPasswordForm, ResetForm, SignInForm, SignUpForm
from portal.accounts.limits import TooMany
from portal.accounts.oidc.logout import end_session_url
from portal.accounts.permissions import public
from portal.accounts.views.preferences import next_page
from portal.accounts.views.profile import status_of
from portal.lib.forms import errors_on


@public
@sensitive_post_parameters("password")
@never_cache
@require_http_methods(["GET", "POST"])
def sign_in(request: HttpRequest) -> HttpResponse:
    """The sign-in page; leads back to where the person came from, over the second factor where there is one."""
    if _has_session(request):
        return redirect(next_page(request))
    form = SignInForm(request, data=request.POST or None)
    if request.method == "POST" and form.is_valid():
        with errors_on(form):
            if local.begin(request, form.get_user()):
                return redirect(next_page(request))
            return redirect(_with_next("accounts:sign-in-code", request))
    context = {
        "form": form,
        "next": next_page(request),
        "provider": settings.OIDC_NAME if settings.OIDC_ISSUER else "",
        "may_reset": bool(settings.EMAIL_URL),
        "may_sign_up": settings.SIGN_UP,
    }
    status = 429 if form.has_error(NON_FIELD_ERRORS, TooMany.code) else status_of(request)
    return render(request, "accounts/sign_in.html", context, status=status)


@public
@sensitive_post_parameters("code")
@never_cache
@require_http_methods(["GET", "POST"])
def sign_in_code(request: HttpRequest) -> HttpResponse:
    """The second step: a code of the app, or a recovery code."""
    user = local.half_signed_in(request)
    if user is None:
        if request.method == "POST":
            messages.info(request, _("That took too long. Give your name and password again."))
        return redirect(_with_next("accounts:sign-in", request))
    form = CodeForm(request.POST or None)
    form.fields["code"].widget.attrs["autofocus"] = True
    if request.method == "POST" and form.is_valid():
        with errors_on(form):
            local.finish(request, code=form.cleaned_data["code"])
            return redirect(next_page(request))
    context = {"form": form, "next": next_page(request), "who": user.get_username()}
    return render(request, "accounts/sign_in_code.html", context, status=status_of(request))


@public
@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    """End the session; where it began at the identity provider, the one there too."""
    there = end_session_url(request)
    entering.leave(request)
    return redirect(there or settings.LOGOUT_REDIRECT_URL)


@public
@sensitive_post_parameters()
@never_cache
@require_http_methods(["GET", "POST"])
def sign_up(request: HttpRequest) -> HttpResponse:
    """Make oneself an account, where strangers may."""
    if not settings.SIGN_UP:
        raise Http404("Accounts are made by admins here.")
    form = SignUpForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        with errors_on(form):
            local.begin(request, form.save(request))
            return redirect(next_page(request))
    context = {"form": form, "next": next_page(request)}
    return render(request, "accounts/sign_up.html", context, status=status_of(request))


@public
@never_cache
@require_http_methods(["GET", "POST"])
def password_forgotten(request: HttpRequest) -> HttpResponse:
    """Have a link mailed; the answer is the same whether anybody has the address."""
    if not settings.EMAIL_URL:
        raise Http404("No mail is sent here.")
    form = ResetForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        with errors_on(form):
            form.save(request)
            return render(request, "accounts/password_mailed.html")
    return render(request, "accounts/password_forgotten.html", {"form": form}, status=status_of(request))


@public
@sensitive_post_parameters()
@never_cache
@require_http_methods(["GET", "POST"])
def password_reset(request: HttpRequest, uid: str, token: str) -> HttpResponse:
    """Set a password by a link."""
    try:
        who = passwords.user_of(uid, token)
        form = NewPasswordForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            with errors_on(form):
                form.save_by_link(uid, token)
                messages.success(request, _("The password was set. Sign in with it."))
                return redirect("accounts:sign-in")
    except passwords.LinkDead as problem:
        context: dict[str, Any] = {"problem": problem, "may_ask": bool(settings.EMAIL_URL)}
        return render(request, "accounts/password_link_dead.html", context, status=404)
    context = {"form": form, "who": who}
    return render(request, "accounts/password_reset.html", context, status=status_of(request))


def _has_session(request: HttpRequest) -> bool:
    """Whether somebody is signed in; whom the development switch stands for is not."""
    shown = getattr(request, "credential", None)
    return request.user.is_authenticated and (shown is None or shown.kind != "development")


def _with_next(name: str, request: HttpRequest) -> str:
    return f"{reverse(name)}?{urlencode({'next': next_page(request)})}"
