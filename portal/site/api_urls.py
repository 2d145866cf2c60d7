"""The REST API: every app's routes under /api, its schema and its documentation."""

from django.urls import include, path, re_path

from portal.site import api_views

urlpatterns = [
    path("schema", api_views.SchemaView.as_view(), name="api-schema"),
    path("docs", api_views.docs, name="api-docs"),
    path("redoc", api_views.redoc, name="api-redoc"),
    path("", include("portal.accounts.rest.urls")),
    path("", include("crews.api.urls")),
    path("", include("executions.api.urls")),
    path("", include("projects.api.urls")),
    # Last: whatever is not there says so as the rest of the API does; line breaks (%0A) are not there either.
    re_path(r"^(?P<rest>[\s\S]+)$", api_views.NothingHere.as_view(), name="api-nothing-here"),
]
