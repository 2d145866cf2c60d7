"""Routes of accounts under /api."""

from django.urls import path
from rest_framework.routers import SimpleRouter

from portal.accounts.rest import access, audit, identities, keys, people, sessions

router = SimpleRouter(trailing_slash=False, use_regex_path=False)
router.register("api-keys", keys.ApiKeyViewSet, basename="api-key")
router.register("sessions", sessions.SessionViewSet, basename="session")
router.register("users", people.FoundUserViewSet, basename="found-user")
router.register("admin/users", people.UserViewSet, basename="user")
router.register("invitations", access.InvitationViewSet, basename="invitation")
router.register("admin/audit", audit.AuditViewSet, basename="audit")

urlpatterns = [
    path("me", sessions.MeView.as_view(), name="me"),
    path("admin/users/<uuid:pk>/identities", identities.IdentitiesView.as_view(), name="user-identities"),
    path("admin/users/<uuid:pk>/identities/<int:identity>", identities.IdentityView.as_view(), name="user-identity"),
    *router.urls,
]
