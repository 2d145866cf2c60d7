"""How many requests a person or an address may send: every page and every route of the API."""

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from portal.accounts import limits
from portal.accounts.models import User
from portal.lib.addresses import address_of
from portal.lib.problems import problem_response

MINUTE = 60
# What is asked by machines that watch the portal, and costs nothing.
LEFT_OUT = ("/health", "/api/health")


def count_user(user: User) -> None:
    """One more request of `user`, with whatever credential. Raises `limits.TooMany`."""
    if limit := settings.RATE_LIMIT_USER_PER_MINUTE:
        limits.take(f"user:{user.pk}", limit=limit, seconds=MINUTE)


def count_stranger(address: str | None) -> None:
    """One more request of somebody unknown. Raises `limits.TooMany`."""
    if limit := settings.RATE_LIMIT_ADDRESS_PER_MINUTE:
        limits.take(f"address:{limits.network_of(address)}", limit=limit, seconds=MINUTE)


def leave_to_credentials(request: HttpRequest) -> None:
    """Say that the request's header is looked at: who does that counts it to the user it finds."""
    request.has_counted_credentials = True  # type: ignore[attr-defined]


class RateLimits:
    """Counts each request to its user, or to its address where nobody is signed in, and answers 429 above the limit.

    A request to the API with credentials in its header is counted once it is known whose they are
    (`api.PortalCredentials`), and to its address when they are refused; where nobody looks at the header, to its
    session, afterwards. Stands after the authentication of sessions; static files are served before it. Also
    answers for a limit that a page itself has reached.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path_info in LEFT_OUT:
            return self.get_response(request)
        has_header = bool(request.META.get("HTTP_AUTHORIZATION", "").strip())
        is_judged_later = has_header and request.path_info.startswith("/api/")
        try:
            if not is_judged_later:
                self._count(request)
            response = self.get_response(request)
            if is_judged_later and response.status_code == 401:
                count_stranger(address_of(request.META))
            elif is_judged_later and not hasattr(request, "has_counted_credentials"):
                self._count(request)
        except limits.TooMany as exc:
            return too_many(request, exc)
        return response

    def _count(self, request: HttpRequest) -> None:
        if isinstance(request.user, User):
            count_user(request.user)
        else:
            count_stranger(address_of(request.META))

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        return too_many(request, exception) if isinstance(exception, limits.TooMany) else None


def too_many(request: HttpRequest, exc: limits.TooMany) -> HttpResponse:
    """A problem document under /api, a page elsewhere; both say when to come back."""
    if request.path_info.startswith("/api/"):
        response: HttpResponse = problem_response(exc)
    else:
        response = render(request, "429.html", {"problem": exc}, status=429)
    response.headers["Retry-After"] = str(exc.wait)
    return response
