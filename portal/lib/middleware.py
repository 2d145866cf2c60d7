"""Middleware that knows nothing of our domain."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse


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
