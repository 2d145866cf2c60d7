"""Every address of the site. Patterns have no trailing slash; both forms are answered."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("", include("portal.site.urls")),
    path("", include("portal.accounts.urls")),
    path("oidc/", include("portal.accounts.oidc.urls")),
    path("", include("crews.urls")),
    path("", include("executions.urls")),
    path("", include("projects.urls")),
    path("api/", include("portal.site.api_urls")),
    path("admin/", admin.site.urls),
]

handler400 = "portal.site.errors.bad_request"
handler500 = "portal.site.errors.server_error"
