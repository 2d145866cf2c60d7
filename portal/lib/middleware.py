"""Middleware that knows nothing of our domain."""

from collections.abc import Callable
from zoneinfo import ZoneInfo, available_timezones

from django.http import HttpRequest, HttpResponse
from django.utils import timezone

ZONE_COOKIE = "timezone"


class OptionalTrailingSlash:
    """Answers `/api/crews` and `/api/crews/` alike, without a redirect.

    Our URL patterns are written without a trailing slash; Django admin keeps its own.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        path = request.path_info
        if path != "/" and path.endswith("/") and not path.startswith("/admin/"):
            request.path_info = path.rstrip("/") or "/"
        elif path == "/admin":
            request.path_info = "/admin/"
        return self.get_response(request)


class AnswerHeaders:
    """What every answer says that no view has to remember: nobody keeps it, and no other site may embed it.

    A view that sets `Cache-Control` itself (and static files, which carry a hash) is believed.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        return response


class ReaderZone:
    """Shows and reads times in the zone of who sits at the browser, which says it in a cookie (`time.js`).

    Programs, which send no such cookie, get the zone of `TIME_ZONE`; so does who sends a zone that is none.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response
        self._known = available_timezones()

    def __call__(self, request: HttpRequest) -> HttpResponse:
        name = request.COOKIES.get(ZONE_COOKIE, "").replace("%2F", "/")
        if name not in self._known:
            return self.get_response(request)
        with timezone.override(ZoneInfo(name)):
            return self.get_response(request)
