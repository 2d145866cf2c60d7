"""Addresses of single sign-on. The first two have the names that mozilla-django-oidc knows them by."""

from django.urls import path

from portal.accounts.oidc import views

urlpatterns = [
    path("authenticate", views.authenticate, name="oidc_authentication_init"),
    path("callback", views.callback, name="oidc_authentication_callback"),
    path("backchannel-logout", views.backchannel_logout, name="oidc-backchannel-logout"),
]
