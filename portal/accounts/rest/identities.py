"""The API of who somebody is at the identity provider, for admins."""

import uuid
from typing import Any

from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.generics import ListAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from portal.accounts.models import Identity, Role, Scope, User
from portal.accounts.oidc import linking
from portal.accounts.permissions import person


class IdentitySerializer(serializers.ModelSerializer[Identity]):
    """Who a user is at an identity provider."""

    user_id = serializers.UUIDField()
    linked_by_id = serializers.UUIDField(allow_null=True, help_text="The admin who linked it; null: by signing in.")

    class Meta:
        model = Identity
        fields = [
            *("id", "user_id", "issuer", "subject", "roles", "groups", "linked_by_id"),
            *("created_at", "last_sign_in_at"),
        ]


class IdentityLinkSerializer(serializers.Serializer[Any]):
    """Whom to link."""

    subject = serializers.CharField(max_length=255, help_text="The claim `sub`; Keycloak shows it as the user's id.")
    issuer = serializers.CharField(max_length=500, required=False, help_text="Without: the portal's own provider.")


class _ForAdmins(APIView):
    read_role = write_role = Role.ADMIN
    read_scope = write_scope = Scope.ADMIN


class IdentitiesView(_ForAdmins, ListAPIView[Identity]):
    """The identities of one user."""

    queryset = Identity.objects.none()
    serializer_class = IdentitySerializer
    search_fields = ("issuer", "subject")
    ordering_fields = ("created_at", "last_sign_in_at")
    ordering = "created_at"

    def get_queryset(self) -> QuerySet[Identity]:
        return Identity.objects.filter(user=get_object_or_404(User, pk=self.kwargs["pk"]))

    @extend_schema(operation_id="user_identities", summary="List a user's identities")
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Who this user is at the identity provider."""
        return super().get(request, *args, **kwargs)

    @extend_schema(
        operation_id="user_identity_link", summary="Link an identity",
        request=IdentityLinkSerializer, responses={201: IdentitySerializer},
    )  # fmt: skip
    def post(self, request: Request, pk: uuid.UUID) -> Response:
        """Let somebody at the identity provider sign in as this user. Nothing else links the two."""
        user = get_object_or_404(User, pk=pk)
        asked = IdentityLinkSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        identity = linking.link(user, by=person(request), **asked.validated_data)
        return Response(IdentitySerializer(identity).data, status=status.HTTP_201_CREATED)


class IdentityView(_ForAdmins):
    """One identity of a user."""

    @extend_schema(operation_id="user_identity_unlink", summary="Unlink an identity", responses={204: None})
    def delete(self, request: Request, pk: uuid.UUID, identity: int) -> Response:
        """Take it from this user; their sessions from that provider end at once."""
        linking.unlink(get_object_or_404(Identity, pk=identity, user_id=pk), by=person(request))
        return Response(status=status.HTTP_204_NO_CONTENT)
