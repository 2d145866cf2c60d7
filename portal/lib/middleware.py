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


class ContentSecurityPolicy:
    """Pages load, run and reach nothing but what this site serves: no inline code, no inline styles.

    Django admin and the API's documentation, whose pages are other people's, are left out.
    """

    POLICY = (
        "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    LEFT_OUT = ("/admin/", "/api/")

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if not request.path_info.startswith(self.LEFT_OUT):
            response.headers.setdefault("Content-Security-Policy", self.POLICY)
        return response
