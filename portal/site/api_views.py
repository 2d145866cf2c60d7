"""The API's own pages: its schema, its documentation, and the answer where there is nothing."""

from typing import Any

from django.http import Http404, HttpRequest, HttpResponseBase
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularAPIView, SpectacularRedocView, SpectacularSwaggerSplitView
from rest_framework.views import APIView

from portal.accounts.api import DeclaredAccess
from portal.accounts.models import Role
from portal.accounts.permissions import allow


class SchemaView(SpectacularAPIView):
    """The schema, OpenAPI 3."""

    read_role = Role.VIEWER
    write_role = Role.ADMIN
    permission_classes = [DeclaredAccess]


class _SwaggerView(SpectacularSwaggerSplitView):
    read_role = Role.VIEWER
    write_role = Role.ADMIN
    permission_classes = [DeclaredAccess]
    url_name = "api-schema"


class _RedocView(SpectacularRedocView):
    template_name = "site/redoc.html"
    read_role = Role.VIEWER
    write_role = Role.ADMIN
    permission_classes = [DeclaredAccess]
    url_name = "api-schema"


_swagger = _SwaggerView.as_view()
_redoc = _RedocView.as_view()


# Plain views around them: a stranger who opens a page is led to the sign-in, not shown a 401.
@allow(Role.VIEWER)
def docs(request: HttpRequest) -> HttpResponseBase:
    """The API in Swagger UI."""
    return _swagger(request)


@allow(Role.VIEWER)
def redoc(request: HttpRequest) -> HttpResponseBase:
    """The API in ReDoc."""
    return _redoc(request)


@extend_schema(exclude=True)
class NothingHere(APIView):
    """Any address under /api that leads nowhere: 404 as a problem document, by whatever method."""

    read_role = Role.VIEWER
    write_role = Role.VIEWER

    def http_method_not_allowed(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        raise Http404
