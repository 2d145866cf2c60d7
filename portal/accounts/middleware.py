"""Who is asking, in which language, and the rule that what is not declared is refused."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import resolve_url
from django.utils import translation

from portal.accounts import development, sessions
from portal.accounts.audit import refusals, set_origin
from portal.accounts.models import User
from portal.accounts.permissions import PUBLIC, require_role
from portal.lib.addresses import address_of

GetResponse = Callable[[HttpRequest], HttpResponse]


class Visitor:
    """Who is asking, with what, and from where (`request.credential`), for whoever decides or records.

    What stands in the header `Authorization` is looked at by the API; it opens no page.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        agent = request.headers.get("User-Agent", "")
        set_origin(actor=None, address=address_of(request.META), user_agent=agent, credential="")
        shown = None
        if isinstance(request.user, User):
            shown = sessions.credential_of(request.session)
            sessions.seen(request.session)
        elif (user := development.user()) is not None:
            request.user, shown = user, development.CREDENTIAL
        request.credential = shown  # type: ignore[attr-defined]
        if shown is not None:
            set_origin(actor=request.user, credential=shown.label)
        return self.get_response(request)


class Refusals:
    """Counts refused requests for the audit log: 401, 403 and 429, and 404 where there is something to hide.

    A stranger who is led from a page to the sign-in is not refused anything yet. Stands after `Visitor`.
    """

    STATUSES = frozenset({401, 403, 429})

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        noted = refusals.begin()
        response = self.get_response(request)
        status = response.status_code
        if "counted" not in noted and (status in self.STATUSES or (status == 404 and "target" in noted)):
            self._count(request, response, noted.get("target"))
        return response

    def _count(self, request: HttpRequest, response: HttpResponse, target: Any) -> None:
        after = {"status": response.status_code, "method": request.method, "route": self._route(request)}
        body = getattr(response, "data", None)  # of the API
        if isinstance(body, dict) and "code" in body:
            after["code"] = str(body["code"])
        # With a credential that was not taken nobody came in, whose cookie ever was sent along.
        by = request.user if response.status_code != 401 and isinstance(request.user, User) else None
        refusals.refused("request.refused", by=by, target=target, after=after)

    @staticmethod
    def _route(request: HttpRequest) -> str:
        return request.resolver_match.route if request.resolver_match else ""


class UserLocale:
    """The person's own language; else the one chosen on the sign-in page; else what the browser asks for."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        chosen = getattr(request.user, "language", "") or translation.get_language_from_request(request)
        with translation.override(chosen):
            response = self.get_response(request)
            response.headers.setdefault("Content-Language", chosen)
            return response


class DenyByDefault:
    """A view is reached only by who it was declared for (`permissions.allow`, `permissions.public`).

    DRF views are left to `portal.accounts.api.DeclaredAccess`, which knows their other ways to sign
    in, and Django admin to its own check, with the role on top.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_view(
        self, request: HttpRequest, view: Callable[..., Any], args: Any, kwargs: Any
    ) -> HttpResponse | None:
        if hasattr(view, "cls") or getattr(view, "portal_access", None) == PUBLIC:
            return None
        match = request.resolver_match
        if match and match.app_names and match.app_names[0] == "admin":
            return None
        role = getattr(view, "portal_access", None)
        if role is None:
            raise PermissionDenied("This route declares no permission.")
        if not isinstance(request.user, User) or not request.user.is_active:
            sign_in = resolve_url(settings.LOGIN_URL)
            target = f"{sign_in}?next={quote(request.get_full_path())}"
            if request.headers.get("HX-Request"):
                # A fragment cannot show the sign-in page: ask htmx to go there.
                return HttpResponse(status=204, headers={"HX-Redirect": sign_in})
            return HttpResponseRedirect(target)
        require_role(request.user, role)
        return None
