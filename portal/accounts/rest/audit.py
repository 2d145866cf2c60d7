"""The API of the audit log, for admins."""

from typing import Any

from django.http import HttpResponse, StreamingHttpResponse
from django.utils import timezone
from django.utils.translation import gettext as _
from django_filters.rest_framework import DjangoFilterBackend
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.viewsets import GenericViewSet

from portal.accounts import audit
from portal.accounts.audit import export, heads
from portal.accounts.models import AuditEntry, Role, Scope
from portal.accounts.permissions import person
from portal.lib.pagination import Ordering
from portal.lib.problems import Problem

FORMAT = OpenApiParameter("format", str, enum=["csv", "jsonl"], description="csv, or one JSON object a line.")


class AuditEntrySerializer(serializers.ModelSerializer[AuditEntry]):
    """One thing that somebody did, or was refused."""

    class Meta:
        model = AuditEntry
        fields = list(export.COLUMNS)


class HeadSerializer(serializers.Serializer[Any]):
    """Where the log ends now, signed: keep it elsewhere, and `verify_audit --head` holds it against the log."""

    v = serializers.IntegerField(help_text="Of this form.")
    chain = serializers.UUIDField(help_text="Which log it is.")
    number = serializers.IntegerField(help_text="Of the last entry.")
    digest = serializers.CharField(help_text="The last entry's.")
    at = serializers.DateTimeField()
    event = serializers.CharField()
    reason = serializers.CharField(allow_blank=True)
    key = serializers.CharField(help_text="Names AUDIT_KEY, without telling it.")
    signature = serializers.CharField()


class _AFile(BaseRenderer):
    """Gets the request through content negotiation: the view streams by itself. Errors stay JSON."""

    def render(self, data: Any, *_: Any) -> bytes:
        return bytes(JSONRenderer().render(data))


class CsvRenderer(_AFile):
    media_type = "text/csv"
    format = "csv"


class JsonLinesRenderer(_AFile):
    media_type = "application/jsonl"
    format = "jsonl"


class NoEntryYet(Problem):
    status = 404
    code = "not_found"


class AuditViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, GenericViewSet[AuditEntry]):
    """What was done and what was refused: by whom, on what, from where. Append-only and sealed."""

    noun = "an audit entry"
    nouns = "audit entries"
    looks_up = {"export", "signed_head"}  # by the format that is asked for, and by what was sealed so far
    read_role = write_role = Role.ADMIN
    read_scope = write_scope = Scope.ADMIN
    lookup_value_converter = "int"
    queryset = AuditEntry.objects.all()
    serializer_class = AuditEntrySerializer
    filter_backends = [DjangoFilterBackend, Ordering]  # the filter's own `search` also knows numbers
    filterset_class = audit.AuditFilter
    ordering_fields = ("id", "at")
    ordering = "-id"

    @extend_schema(
        operation_id="admin_audit_export",
        summary="Export the audit log",
        parameters=[FORMAT],
        responses={
            (200, "text/csv"): OpenApiTypes.STR,
            (200, "application/jsonl"): OpenApiTypes.STR,
        },
    )
    @action(detail=False, pagination_class=None, renderer_classes=[CsvRenderer, JsonLinesRenderer, JSONRenderer])
    def export(self, request: Request) -> StreamingHttpResponse:
        """All entries that match the filters, oldest first, as a file. Is an entry of the log itself."""
        kind = getattr(request.accepted_renderer, "format", "csv")
        kind = kind if kind in {"csv", "jsonl"} else "jsonl"
        found = self.filter_queryset(self.get_queryset())
        asked = {name: value for name, value in request.query_params.items() if name in audit.AuditFilter.base_filters}
        audit.record("audit.exported", by=person(request), after={"format": kind, "filters": asked})
        content_type = "text/csv; charset=utf-8" if kind == "csv" else "application/jsonl"
        response = StreamingHttpResponse(export.rows(found, kind), content_type=content_type)
        response.headers["Content-Disposition"] = f'attachment; filename="audit-{timezone.now():%Y%m%d-%H%M%S}.{kind}"'
        response.headers["Cache-Control"] = "no-store"
        return response

    @extend_schema(operation_id="admin_audit_head", summary="Where the audit log ends", responses=HeadSerializer)
    @action(detail=False, url_path="head", url_name="head", filter_backends=[], pagination_class=None)
    def signed_head(self, request: Request) -> HttpResponse:
        """The signed head of the chain: with it a log whose tail was cut off is found out, wherever the key is."""
        stored = heads.stored()
        if stored is None:
            raise NoEntryYet(_("No entry has been sealed yet."), hint=_("Ask again in some seconds."))
        audit.record("audit.head_exported", by=person(request), after={"number": stored.number})
        response = HttpResponse(stored.as_text() + "\n", content_type="application/json")
        response.headers["Content-Disposition"] = f'attachment; filename="audit-head-{stored.number}.json"'
        return response
