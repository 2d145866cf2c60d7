"""Language and appearance, signed in or not; and where a form leads back to."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, resolve_url
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST

from portal.accounts.models import User
from portal.accounts.permissions import public

YEAR = 365 * 24 * 3600
THEME_COOKIE = "theme"
THEMES = ("light", "dark")


def next_page(request: HttpRequest) -> str:
    """Where a person wanted to go: an address of this site, else home."""
    wanted = request.POST.get("next") or request.GET.get("next") or ""
    allowed = url_has_allowed_host_and_scheme(wanted, {request.get_host()}, require_https=request.is_secure())
    return wanted if allowed else resolve_url(settings.LOGIN_REDIRECT_URL)


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
