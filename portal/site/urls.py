"""Addresses of this app's pages."""

app_name = "site"
urlpatterns: list = []
