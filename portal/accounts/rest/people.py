"""The API of people and service accounts."""

from typing import Any

from django.db import models, transaction
from django.db.models import Exists, OuterRef
from django.utils.translation import gettext as _
from django_filters import rest_framework as filters
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import mixins, serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from portal.accounts import passwords, people, second_factor
from portal.accounts.models import Role, SecondFactor, User
from portal.accounts.permissions import person
from portal.lib.problems import FieldError, InvalidValues

SEARCH_FROM = 2  # characters


class UserSerializer(serializers.ModelSerializer[User]):
    """A person or a service account, for admins."""

    has_password = serializers.BooleanField(source="has_usable_password", help_text="Signs in with a local account.")
    has_second_factor = serializers.BooleanField(source="is_factor_on", help_text="Signing in asks for a code.")

    class Meta:
        model = User
        fields = [
            *("id", "username", "first_name", "last_name", "email", "language", "role", "is_active", "is_service"),
            *("has_password", "has_second_factor", "last_login", "date_joined"),
        ]
        read_only_fields = fields


class ChangeUserSerializer(serializers.ModelSerializer[User]):
    """What admins change."""

    class Meta:
        model = User
        fields = ["first_name", "last_name", "email", "language", "role", "is_active"]


class NewUserSerializer(serializers.ModelSerializer[User]):
    """A new account. The answer holds a link to set a password where a person gets none here."""

    username = serializers.CharField(max_length=150)
    password = serializers.CharField(
        write_only=True, required=False, trim_whitespace=False, max_length=4096, help_text="Not for service accounts."
    )

    class Meta:
        model = User
        fields = ["username", "first_name", "last_name", "email", "language", "role", "is_service", "password"]

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs.get("is_service") and "password" in attrs:
            raise serializers.ValidationError({"password": _("A service account has no password; it acts by keys.")})
        return attrs


class MadeUserSerializer(UserSerializer):
    """An account that was just made."""

    password_link = serializers.CharField(allow_null=True, help_text="Where the person sets a password; shown once.")

    class Meta(UserSerializer.Meta):
        fields = [*UserSerializer.Meta.fields, "password_link"]


class PasswordLinkSerializer(serializers.Serializer[Any]):
    password_link = serializers.CharField(help_text="Good once. Hand it over yourself.")


class FoundUserSerializer(serializers.ModelSerializer[User]):
    """Somebody with whom a thing can be shared."""

    name = serializers.CharField(source="get_full_name")

    class Meta:
        model = User
        fields = ["id", "username", "name", "is_service"]
        read_only_fields = fields


class UserFilter(filters.FilterSet):
    class Meta:
        model = User
        fields = ["role", "is_active", "is_service"]


class UserViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, mixins.DestroyModelMixin, GenericViewSet[User]):
    """Everybody here, for admins. Changes go through the same actions as on pages."""

    noun = "a user"
    nouns = "users"
    read_role = Role.ADMIN
    write_role = Role.ADMIN
    lookup_value_converter = "uuid"
    queryset = User.objects.annotate(
        is_factor_on=Exists(SecondFactor.objects.filter(user=OuterRef("pk"), confirmed_at__isnull=False))
    )
    serializer_class = UserSerializer
    filterset_class = UserFilter
    search_fields = ("username", "first_name", "last_name", "email")
    ordering_fields = ("username", "role", "date_joined", "last_login")
    ordering = "username"

    @extend_schema(request=NewUserSerializer, responses={201: MadeUserSerializer})
    def create(self, request: Request) -> Response:
        """Make a person with a local account, or a service account (`is_service`)."""
        asked = NewUserSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        given, by, link = dict(asked.validated_data), person(request), None
        with transaction.atomic():
            if given.pop("is_service", False):
                user = people.create_service_account(by=by, **given)
            else:
                user = people.create_person(by=by, **given)
                link = None if "password" in given else passwords.make_link(user, by=by)
        body = {**self._shown(user), "password_link": link}
        return Response(body, status=status.HTTP_201_CREATED, headers={"Cache-Control": "no-store"})

    @extend_schema(request=ChangeUserSerializer, responses=UserSerializer)
    def partial_update(self, request: Request, pk: Any) -> Response:
        """Change names, mail address, language, role, or whether the account is active: all of it, or nothing."""
        user, by = self.get_object(), person(request)
        asked = ChangeUserSerializer(user, data=request.data, partial=True)
        asked.is_valid(raise_exception=True)
        given = dict(asked.validated_data)
        role, is_active = given.pop("role", None), given.pop("is_active", None)
        with transaction.atomic():
            if role is not None:
                people.change_role(user, role, by=by)
            if is_active is not None:
                (people.reactivate if is_active else people.deactivate)(user, by=by)
            if given:
                people.change_facts(user, by=by, **given)
        return Response(self._shown(user))

    def perform_destroy(self, instance: User) -> None:
        people.delete(instance, by=person(self.request))

    @extend_schema(
        operation_id="admin_users_password_link",
        summary="Make a link to set a password",
        request=None,
        responses={201: PasswordLinkSerializer},
    )
    @action(detail=True, methods=["post"], url_path="password-link", filter_backends=[])
    def password_link(self, request: Request, pk: Any) -> Response:
        """A link with which a person with a local account sets a new password, once."""
        link = passwords.make_link(self.get_object(), by=person(request))
        return Response({"password_link": link}, status=status.HTTP_201_CREATED, headers={"Cache-Control": "no-store"})

    @extend_schema(
        operation_id="admin_users_second_factor_remove", summary="Take away a second factor", responses={204: None}
    )
    @action(detail=True, methods=["delete"], url_path="second-factor", filter_backends=[])
    def second_factor(self, request: Request, pk: Any) -> Response:
        """For who has lost it: signing in asks for no code any more."""
        second_factor.remove(self.get_object(), by=person(request))
        return Response(status=status.HTTP_204_NO_CONTENT)

    def _shown(self, user: User) -> dict[str, Any]:
        return dict(UserSerializer(self.get_queryset().get(pk=user.pk)).data)


@extend_schema(
    parameters=[
        OpenApiParameter("search", str, required=True, description="Two characters of a name, or more."),
    ]
)
class FoundUserViewSet(mixins.ListModelMixin, GenericViewSet[User]):
    """Whom a thing can be shared with: found by name, never by mail address."""

    noun = "a user"
    nouns = "users by name"
    read_role = Role.USER
    write_role = Role.USER
    queryset = User.objects.none()
    serializer_class = FoundUserSerializer
    ordering_fields = ("username",)
    ordering = "username"

    def get_queryset(self) -> models.QuerySet[User]:
        text = self.request.query_params.get("search", "").strip()
        if len(text) < SEARCH_FROM or "\x00" in text:
            detail = _("Give at least %(n)d characters of a name.") % {"n": SEARCH_FROM}
            raise InvalidValues([FieldError("search", "required", detail)])
        return people.matching(User.objects.filter(is_active=True), text)
