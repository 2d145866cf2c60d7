"""Signing in and out, and a person's own settings."""

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import login, logout, update_session_auth_hash
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render, resolve_url
from django.utils import translation
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from portal.accounts.forms import PasswordForm, ProfileForm, SignInForm
from portal.accounts.models import Role, User
from portal.accounts.permissions import allow, public

YEAR = 365 * 24 * 3600
THEME_COOKIE = "theme"
THEMES = ("light", "dark")


def next_page(request: HttpRequest) -> str:
    """Where a person wanted to go: an address of this site, else home."""
    wanted = request.POST.get("next") or request.GET.get("next") or ""
    allowed = url_has_allowed_host_and_scheme(wanted, {request.get_host()}, require_https=request.is_secure())
    return wanted if allowed else resolve_url(settings.LOGIN_REDIRECT_URL)


@public
@sensitive_post_parameters("password")
@never_cache
@require_http_methods(["GET", "POST"])
def sign_in(request: HttpRequest) -> HttpResponse:
    """The sign-in page of local accounts; leads back to where the person came from."""
    if request.user.is_authenticated:
        return redirect(next_page(request))
    form = SignInForm(request, data=request.POST or None)
    if request.method == "POST" and form.is_valid():
        login(request, form.get_user())
        return redirect(next_page(request))
    status = 422 if request.method == "POST" else 200
    return render(request, "accounts/sign_in.html", {"form": form, "next": next_page(request)}, status=status)


@public
@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    """End the session."""
    logout(request)
    return redirect(settings.LOGOUT_REDIRECT_URL)


@allow(Role.VIEWER)
@require_http_methods(["GET", "POST"])
def profile(request: HttpRequest) -> HttpResponse:
    """A person's name, address, language and appearance."""
    form = ProfileForm(request.POST or None, instance=request.user)
    if request.method == "POST" and form.is_valid():
        user = form.save()
        # Said in the language that was just chosen.
        with translation.override(user.language or translation.get_language_from_request(request)):
            messages.success(request, _("Saved."))
        return redirect("accounts:profile")
    return _profile_page(request, form, _password_form(request))


@allow(Role.VIEWER)
@sensitive_post_parameters()
@require_POST
def password(request: HttpRequest) -> HttpResponse:
    """Change the password of a local account; other sessions of the person end."""
    form = _password_form(request)
    if form is not None and form.is_valid():
        update_session_auth_hash(request, form.save())
        messages.success(request, _("The password was changed. Other sessions have ended."))
        return redirect("accounts:profile")
    return _profile_page(request, ProfileForm(instance=request.user), form)


def _password_form(request: HttpRequest) -> PasswordForm | None:
    user = request.user
    if not isinstance(user, User) or not user.has_usable_password():
        return None  # signs in elsewhere
    is_sent = request.resolver_match is not None and request.resolver_match.url_name == "password"
    return PasswordForm(user, request.POST if is_sent else None)


def _profile_page(request: HttpRequest, form: ProfileForm, password_form: PasswordForm | None) -> HttpResponse:
    status = 422 if request.method == "POST" else 200
    context = {"profile_form": form, "password_form": password_form}
    return render(request, "accounts/profile.html", context, status=status)


@public
@require_POST
def preferences(request: HttpRequest) -> HttpResponse:
    """Choose language (`language`) or appearance (`theme`: light, dark, auto), signed in or not."""
    response = redirect(next_page(request))
    language = request.POST.get("language")
    if language in dict(settings.LANGUAGES):
        response.set_cookie(settings.LANGUAGE_COOKIE_NAME, language, max_age=YEAR, samesite="Lax")
        if isinstance(request.user, User):
            User.objects.filter(pk=request.user.pk).update(language=language)
    theme = request.POST.get("theme")
    if theme in THEMES:
        response.set_cookie(THEME_COOKIE, theme, max_age=YEAR, samesite="Lax")
    elif theme == "auto":
        response.delete_cookie(THEME_COOKIE, samesite="Lax")
    return response
