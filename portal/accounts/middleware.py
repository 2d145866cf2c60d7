"""Who is asking, in which language, and the rule that what is not declared is refused."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import resolve_url
from django.utils import translation

from portal.accounts.models import User
from portal.accounts.permissions import PUBLIC, require_role

GetResponse = Callable[[HttpRequest], HttpResponse]


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
