"""Django admin at /admin/, for the role `admin` alone."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from csp.constants import UNSAFE_EVAL, UNSAFE_INLINE
from csp.decorators import csp_update
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import resolve_url
from django.urls import URLPattern, path, reverse
from unfold.sites import UnfoldAdminSite

from portal.accounts.models import Role
from portal.accounts.permissions import require_role


class PortalAdminSite(UnfoldAdminSite):
    """Opens to admins, and sends everybody else to the one sign-in page."""

    def has_permission(self, request: HttpRequest) -> bool:
        return request.user.is_authenticated and request.user.has_role(Role.ADMIN)

    def admin_view(self, view: Callable[..., Any], cacheable: bool = False) -> Callable[..., Any]:
        """`view` for admins, under the site's policy and what more unfold's Alpine needs: it evaluates, and styles."""
        guarded = super().admin_view(view, cacheable)
        return csp_update({"script-src": [UNSAFE_EVAL], "style-src-attr": [UNSAFE_INLINE]})(guarded)

    def get_urls(self) -> list[URLPattern]:
        return [path("colors.css", self.admin_view(self.colors), name="colors"), *super().get_urls()]

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        """Unfold's context; its colours come as a style sheet, since it would write them into the page."""
        context = super().each_context(request)
        if request.resolver_match and request.resolver_match.url_name != "colors":
            context |= {"colors": {}, "styles": [*context["styles"], reverse("admin:colors")]}
        return context

    def colors(self, request: HttpRequest) -> HttpResponse:
        """The variables that unfold's style sheet is made of."""
        context = self.each_context(request)
        lines = [f"--border-radius: {context['border_radius']};"]
        lines += [
            f"--color-{name}-{weight}: {value};"
            for name, weights in context["colors"].items()
            for weight, value in weights.items()
        ]
        return HttpResponse(":root {\n  " + "\n  ".join(lines) + "\n}\n", content_type="text/css")

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The portal's own sign-in. Raises `PermissionDenied` for who is signed in and no admin."""
        target = request.GET.get("next", resolve_url("admin:index"))
        if request.user.is_authenticated:
            require_role(request.user, Role.ADMIN)
            return HttpResponseRedirect(resolve_url("admin:index"))
        return HttpResponseRedirect(f"{resolve_url(settings.LOGIN_URL)}?next={quote(target)}")
