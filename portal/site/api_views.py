"""The API's own pages: its schema, its documentation, and the answer where there is nothing."""

from typing import Any

from csp.constants import SELF
from csp.decorators import csp_update
from django.http import Http404, HttpRequest, HttpResponseBase
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularAPIView, SpectacularRedocView, SpectacularSwaggerSplitView
from rest_framework.views import APIView

from portal.accounts.api import DeclaredAccess, PortalSession
from portal.accounts.models import Role
from portal.accounts.permissions import allow

# ReDoc makes two style elements before it reads the page's nonce, one of them empty, and searches in a worker.
REDOC = {
    "style-src": [
        "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='",
        "'sha256-QMIg+bpjm3JdElJ388KYke01izlUW0UoNOeKjpMxdgc='",
    ],
    "worker-src": [SELF, "blob:"],
}


class SchemaView(SpectacularAPIView):
    """The schema, OpenAPI 3."""

    read_role = Role.VIEWER
    write_role = Role.ADMIN
    permission_classes = [DeclaredAccess]


class _SwaggerView(SpectacularSwaggerSplitView):
    authentication_classes = [PortalSession]  # a page, which no header opens or closes
    template_name = "site/swagger.html"
    read_role = Role.VIEWER
    write_role = Role.ADMIN
    permission_classes = [DeclaredAccess]
    url_name = "api-schema"


class _RedocView(SpectacularRedocView):
    authentication_classes = [PortalSession]
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
@csp_update(REDOC)
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
