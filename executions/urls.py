"""Addresses of this app's pages."""

app_name = "executions"
urlpatterns: list = []
