"""The API of API keys."""

from typing import Any

from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import mixins, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from portal.accounts import keys
from portal.accounts.api import credential
from portal.accounts.credentials import KEY_PREFIX
from portal.accounts.models import ApiKey, Role, Scope, User
from portal.accounts.permissions import person, require_role


class ApiKeySerializer(serializers.ModelSerializer[ApiKey]):
    """A key as it can be shown: its text is not kept."""

    user_id = serializers.UUIDField(help_text="Whose it is.")
    prefix = serializers.SerializerMethodField(help_text="How the key begins.")
    scopes = serializers.SerializerMethodField()
    is_usable = serializers.BooleanField(help_text="Neither revoked nor expired.")

    class Meta:
        model = ApiKey
        fields = [
            *("id", "user_id", "name", "prefix", "scopes", "requests_per_minute", "is_usable", "created_at"),
            *("expires_at", "revoked_at", "last_used_at", "last_used_from"),
        ]

    def get_prefix(self, key: ApiKey) -> str:
        return f"{KEY_PREFIX}{key.prefix}"

    @extend_schema_field(serializers.ListField(child=serializers.ChoiceField(Scope.choices)))
    def get_scopes(self, key: ApiKey) -> list[str]:
        return key.scopes.split()


class NewKeySerializer(serializers.Serializer[Any]):
    """What to make."""

    name = serializers.CharField(max_length=100, help_text="What it is for.")
    scopes = serializers.MultipleChoiceField(
        choices=Scope.choices, allow_empty=False, help_text="Never more than its owner may do."
    )
    user_id = serializers.UUIDField(required=False, help_text="For admins: a service account. Without: your own.")
    expires_at = serializers.DateTimeField(required=False, allow_null=True, help_text="Without: never.")
    requests_per_minute = serializers.IntegerField(min_value=1, max_value=keys.MOST_A_MINUTE, default=600)


class MadeKeySerializer(ApiKeySerializer):
    """A key that was just made, with its text, this once."""

    key = serializers.CharField(help_text="Keep it: it is not shown again.")

    class Meta(ApiKeySerializer.Meta):
        fields = [*ApiKeySerializer.Meta.fields, "key"]


class ApiKeyFilter(filters.FilterSet):
    user_id = filters.UUIDFilter(field_name="user_id", help_text="For admins: whose. Without: your own.")

    class Meta:
        model = ApiKey
        fields = ["user_id"]


class ApiKeyViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, mixins.DestroyModelMixin, GenericViewSet[ApiKey]):
    """Your API keys; admins also make those of service accounts, and see and revoke everybody's.

    A key makes and revokes keys only with the scope `admin`.
    """

    noun = "an API key"
    nouns = "API keys"
    read_role = Role.VIEWER
    write_role = Role.VIEWER
    write_scope = Scope.ADMIN
    lookup_value_converter = "uuid"
    queryset = ApiKey.objects.none()
    serializer_class = ApiKeySerializer
    filterset_class = ApiKeyFilter
    search_fields = ("name", "prefix")
    ordering_fields = ("created_at", "expires_at", "last_used_at", "name")
    ordering = "-created_at"

    def get_queryset(self) -> QuerySet[ApiKey]:
        """Of the list: your own, unless it asks for somebody's; of one key: any that you may see."""
        user = person(self.request)
        visible = ApiKey.objects.select_related("user")
        if self.detail or "user_id" in self.request.query_params:
            return visible if user.has_role(Role.ADMIN) else visible.filter(user=user)
        return visible.filter(user=user)

    @extend_schema(request=NewKeySerializer, responses={201: MadeKeySerializer})
    def create(self, request: Request) -> Response:
        """Make a key. The answer holds its text, which is not kept and never shown again."""
        asked = NewKeySerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        wanted = dict(asked.validated_data)
        by = owner = person(request)
        if (user_id := wanted.pop("user_id", by.pk)) != by.pk:
            require_role(by, Role.ADMIN)
            owner = get_object_or_404(User, pk=user_id)
        scopes = [Scope(value) for value in wanted.pop("scopes")]
        key, text = keys.create(owner, by=by, within=credential(request), scopes=scopes, **wanted)
        body = {**ApiKeySerializer(key).data, "key": text}
        return Response(body, status=status.HTTP_201_CREATED, headers={"Cache-Control": "no-store"})

    def perform_destroy(self, instance: ApiKey) -> None:
        keys.revoke(instance, by=person(self.request))
