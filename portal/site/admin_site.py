"""Django admin at /admin/, for the role `admin` alone."""

from typing import Any
from urllib.parse import quote

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import resolve_url
from unfold.sites import UnfoldAdminSite

from portal.accounts.models import Role
from portal.accounts.permissions import require_role


class PortalAdminSite(UnfoldAdminSite):
    """Opens to admins, and sends everybody else to the one sign-in page."""

    def has_permission(self, request: HttpRequest) -> bool:
        return request.user.is_authenticated and request.user.has_role(Role.ADMIN)

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The portal's own sign-in. Raises `PermissionDenied` for who is signed in and no admin."""
        target = request.GET.get("next", resolve_url("admin:index"))
        if request.user.is_authenticated:
            require_role(request.user, Role.ADMIN)
            return HttpResponseRedirect(resolve_url("admin:index"))
        return HttpResponseRedirect(f"{resolve_url(settings.LOGIN_URL)}?next={quote(target)}")
