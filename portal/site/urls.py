"""Addresses of this app's pages."""

from django.urls import path

from portal.site import views

app_name = "site"
urlpatterns = [
    path("", views.home, name="home"),
    path("dashboard", views.home, name="dashboard"),
    path("settings/components", views.components, name="components"),
]
