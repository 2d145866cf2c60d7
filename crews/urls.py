"""Addresses of this app's pages."""

app_name = "crews"
urlpatterns: list = []
