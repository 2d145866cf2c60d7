"""The API of who one is, and where one is signed in."""

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import GenericViewSet

from portal.accounts import sessions
from portal.accounts.api import credential
from portal.accounts.credentials import Credential
from portal.accounts.models import Role, Scope, Session, User
from portal.accounts.permissions import person


class CredentialSerializer(serializers.Serializer[Any]):
    """What the request came with."""

    kind = serializers.ChoiceField(["session", "api_key", "bearer", "development"])
    label = serializers.CharField(help_text="As the audit log names it.")  # type: ignore[assignment]
    scopes = serializers.SerializerMethodField(help_text="Null: all that the user may do.")
    expires_at = serializers.DateTimeField(allow_null=True)

    @extend_schema_field(serializers.ListField(child=serializers.ChoiceField(Scope.choices), allow_null=True))
    def get_scopes(self, shown: Credential) -> list[str] | None:
        return None if shown.scopes is None else [scope.value for scope in Scope if scope in shown.scopes]


class MeSerializer(serializers.ModelSerializer[User]):
    """Who you are here."""

    name = serializers.CharField(source="get_full_name")
    role = serializers.ChoiceField(
        Role.choices, source="effective_role", help_text="As what you act with this credential."
    )
    credential = serializers.SerializerMethodField()

    class Meta:
        model = User
        fields = ["id", "username", "name", "email", "language", "is_service", "role", "credential"]

    @extend_schema_field(CredentialSerializer)
    def get_credential(self, _user: User) -> Any:
        return CredentialSerializer(self.context["request"].auth).data


class MeView(APIView):
    """You."""

    read_role = Role.VIEWER
    write_role = Role.VIEWER

    @extend_schema(operation_id="me", summary="Who you are", responses=MeSerializer)
    def get(self, request: Request) -> Response:
        """Your user, as what you act here, and the credential that says so."""
        return Response(MeSerializer(person(request), context={"request": request}).data)


class SessionSerializer(serializers.ModelSerializer[Session]):
    """A browser in which you are signed in."""

    id = serializers.UUIDField(source="public_id")
    expires_at = serializers.DateTimeField(source="expire_date")
    is_current = serializers.SerializerMethodField(help_text="Whether this request came from it.")

    class Meta:
        model = Session
        fields = [
            *("id", "method", "address", "user_agent", "created_at", "last_seen_at", "expires_at", "is_current"),
        ]

    def get_is_current(self, session: Session) -> bool:
        shown = credential(self.context["request"])
        return shown is not None and shown.kind == "session" and shown.id == session.session_key


class EndedSerializer(serializers.Serializer[Any]):
    ended = serializers.IntegerField(help_text="So many sessions.")


class SessionViewSet(mixins.ListModelMixin, mixins.DestroyModelMixin, GenericViewSet[Session]):
    """The browsers in which you are signed in. A key ends them only with the scope `admin`."""

    noun = "a session"
    nouns = "your sessions"
    read_role = Role.VIEWER
    write_role = Role.VIEWER
    write_scope = Scope.ADMIN
    lookup_field = "public_id"
    lookup_url_kwarg = "pk"
    lookup_value_converter = "uuid"
    queryset = Session.objects.none()
    serializer_class = SessionSerializer
    search_fields = ("user_agent", "address")
    ordering_fields = ("created_at", "last_seen_at")
    ordering = "-created_at"

    def get_queryset(self) -> QuerySet[Session]:
        return sessions.of(person(self.request)).defer("session_data")

    def perform_destroy(self, instance: Session) -> None:
        sessions.end(instance, by=person(self.request))

    @extend_schema(request=None, summary="End all other sessions", responses=EndedSerializer)
    @action(detail=False, methods=["post"], url_path="end-others", filter_backends=[], pagination_class=None)
    def end_others(self, request: Request) -> Response:
        """Sign yourself out everywhere but here; with a key, everywhere."""
        user = person(request)
        shown = credential(request)
        here = shown.id if shown is not None and shown.kind == "session" else None
        return Response(EndedSerializer({"ended": sessions.end_all(user, by=user, but=here)}).data)
