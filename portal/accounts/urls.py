"""Addresses of this app's pages."""

from django.urls import path

from portal.accounts import views

app_name = "accounts"
urlpatterns = [
    path("sign-in", views.sign_in, name="sign-in"),
    path("sign-out", views.sign_out, name="sign-out"),
    path("profile", views.profile, name="profile"),
    path("profile/password", views.password, name="password"),
    path("preferences", views.preferences, name="preferences"),
]
