"""What every page knows."""

from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.utils import translation

from portal.accounts.views.preferences import THEME_COOKIE, THEMES


def site(request: HttpRequest) -> dict[str, Any]:
    """The section of the navigation a page stands in, and how the reader wants it to look."""
    theme = request.COOKIES.get(THEME_COOKIE, "")
    return {
        "portal_version": settings.VERSION,
        "section": _section(request.path),
        "portal_url": settings.PORTAL_URL,
        "development_user": settings.DEVELOPMENT_USER,
        "theme": theme if theme in THEMES else "",
        "languages": [
            (code, translation.get_language_info(code)["name_local"], code == translation.get_language())
            for code, _name in settings.LANGUAGES
        ],
    }


def _section(path: str) -> str:
    """The first part of an address; of the settings the first two."""
    parts = path.strip("/").split("/")
    return "/".join(parts[: 2 if parts[0] == "settings" else 1]) or "dashboard"
