"""Addresses of this app's pages."""

from django.urls import path

from executions.views import lists, page, start

app_name = "executions"
urlpatterns = [
    path("crews/<uuid:pk>/run", start.crew_run, name="crew-run"),
    path("runs", lists.run_list, name="run-list"),
    path("runs/<uuid:pk>", page.run_detail, name="run-detail"),
    path("runs/<uuid:pk>/live", page.run_live, name="run-live"),
    path("runs/<uuid:pk>/events", page.run_events, name="run-events"),
    path("runs/<uuid:pk>/stop", page.run_stop, name="run-stop"),
    path("runs/<uuid:pk>/delete", page.run_delete, name="run-delete"),
    path("runs/<uuid:pk>/result.md", page.run_result, name="run-result"),
]
