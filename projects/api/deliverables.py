"""The API of deliverables: versions, reviews, comments, downloads, and who looked at them."""

from typing import Any

from django.http import HttpResponseBase
from django.shortcuts import get_object_or_404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import mixins, status
from rest_framework.decorators import action
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from portal.accounts.models import Role, Scope
from portal.accounts.permissions import NOT_ALLOWED, Action, find, person
from portal.lib.pagination import CursorPages
from portal.lib.schema import ProblemSerializer
from projects import actions
from projects.api import deliverable_serializers as serializers
from projects.api import filters
from projects.api.base import AsItIs, OfProject, checked, listed, referred
from projects.deliverables import access, bundle, comments, diffs, files, search, versions
from projects.models import Deliverable, DeliverableAccess, Project

Kind = DeliverableAccess.Kind
AS_ROLE = OpenApiParameter(
    "accessed_by_role", OpenApiTypes.STR, description="A label for the access log; it grants nothing."
)
IF_MATCH = OpenApiParameter(
    "If-Match", OpenApiTypes.STR, OpenApiParameter.HEADER, description="The `ETag` of the version that was edited."
)
AGAINST = OpenApiParameter(
    "against", OpenApiTypes.UUID, description="Another version of it; without it, the one before."
)
PATH = OpenApiParameter("path", OpenApiTypes.STR, description="One file of a bundle.")
QUESTION = OpenApiParameter("q", OpenApiTypes.STR, description="Words that all have to stand in it.")
CHANGED_MEANWHILE = OpenApiResponse(ProblemSerializer, description="`If-Match` names another version than the latest.")
BINARY = ("application/zip", "application/pdf", "image/png", "image/jpeg", "image/webp")
DOWNLOADS = {
    (200, "text/plain"): OpenApiTypes.STR,
    **{(200, kind): OpenApiTypes.BINARY for kind in BINARY},
}


class NewestFirst(CursorPages):
    ordering = "-created_at"


class OldestFirst(CursorPages):
    ordering = "created_at"


def _whole(deliverable: Deliverable) -> Response:
    """The version with its text, files and reviews, and its `ETag`."""
    body = serializers.DeliverableSerializer(deliverable).data
    return Response(body, headers={"ETag": versions.etag(deliverable)})


class _OfStages(OfProject, mixins.ListModelMixin, GenericViewSet[Deliverable]):
    """Base of lists of deliverables."""

    noun = "a deliverable"
    nouns = "deliverables"
    queryset = Deliverable.objects.none()
    serializer_class = serializers.DeliverableSummarySerializer
    filterset_class = filters.DeliverableFilter
    search_fields: tuple[str, ...] = ("title", "description")
    ordering_fields = ("title", "created_at", "deliverable_type", "status", "file_size")
    ordering = "-created_at"


class ProjectDeliverablesViewSet(_OfStages):
    """The deliverables of a project, in all their versions."""

    def get_queryset(self) -> Any:
        return listed(self.project(Action.SEE).deliverables.all())

    @extend_schema(request=serializers.NewDeliverableSerializer, responses={201: serializers.DeliverableSerializer})
    def create(self, request: Request, **ids: Any) -> Response:
        """Add a deliverable that was made by hand, as a draft with a lineage of its own."""
        project = self.project(Action.CHANGE)
        given = checked(serializers.NewDeliverableSerializer(data=request.data))
        stage = referred(project, given.pop("stage"), "stage")
        made = actions.add_deliverable(stage, person(request), type=given.pop("deliverable_type"), **_uploaded(given))
        answer = _whole(made)
        answer.status_code = status.HTTP_201_CREATED
        answer["Location"] = f"/api/deliverables/{made.pk}"
        return answer


class FoundDeliverablesViewSet(_OfStages):
    """The latest versions that hold all words of `q`, Korean and English."""

    filterset_class = filters.FoundFilter
    search_fields: tuple[str, ...] = ()

    def get_queryset(self) -> Any:
        latest = self.project(Action.SEE).deliverables.filter(is_latest=True)
        return listed(search.search(latest, self.request.query_params.get("q", "")))

    @extend_schema(
        operation_id="projects_deliverables_search",
        summary="Search the deliverables of a project",
        parameters=[QUESTION],
    )
    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """The latest versions that hold all words of `q`, Korean and English; all of them without any."""
        return super().list(request, *args, **kwargs)


class StageDeliverablesViewSet(_OfStages):
    """The deliverables of a stage, in all their versions."""

    def get_queryset(self) -> Any:
        return listed(self.stage(Action.SEE).deliverables.all())


def _uploaded(given: dict[str, Any]) -> dict[str, Any]:
    """`given` with what was uploaded as actions take it."""
    if (file := given.pop("file", None)) is not None:
        given["upload"] = files.uploaded(file)
    return given


class DeliverableViewSet(mixins.RetrieveModelMixin, GenericViewSet[Deliverable]):
    """One version of a deliverable."""

    noun = "a deliverable"
    nouns = "deliverables"
    read_role = Role.VIEWER
    write_role = Role.USER
    action_scopes = {"review": Scope.RUN}
    lookup_value_converter = "uuid"
    queryset = Deliverable.objects.none()
    serializer_class = serializers.DeliverableSerializer

    def found(self, wanted: Action) -> Deliverable:
        """The version, if whoever asks may do `wanted` with its project."""
        key = self.kwargs["pk"]
        project = find(Project.objects.all(), person(self.request), wanted, deliverables__pk=key)
        rows = Deliverable.objects.select_related("stage").defer("search_text")
        deliverable = rows.prefetch_related("files", "reviews").get(pk=key)
        deliverable.project = deliverable.stage.project = project
        return deliverable

    @extend_schema(parameters=[AS_ROLE])
    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """The version with its text, files and reviews. That it was read stands in the access log."""
        deliverable = self.found(Action.SEE)
        access.log(deliverable, person(request), Kind.READ, request.query_params.get("accessed_by_role", ""))
        return _whole(deliverable)

    @extend_schema(
        parameters=[IF_MATCH],
        request=serializers.DeliverableTextSerializer,
        responses={200: serializers.DeliverableSerializer, (412, "application/problem+json"): CHANGED_MEANWHILE},
    )
    def partial_update(self, request: Request, pk: str) -> Response:
        """Make a new version with what is given. The answer is that version; this one stays.

        409 when this is not the latest version, and 412 when `If-Match` names another.
        """
        deliverable = self.found(Action.CHANGE)
        given = checked(serializers.DeliverableTextSerializer(data=request.data))
        if_match = request.headers.get("If-Match")
        return _whole(actions.edit_deliverable(deliverable, person(request), if_match=if_match, **_uploaded(given)))

    @extend_schema(request=serializers.ReviewDeliverableSerializer, responses=serializers.DeliverableSerializer)
    @action(detail=True, methods=["put"], filter_backends=[])
    def review(self, request: Request, pk: str) -> Response:
        """Approve the version, approve an edited text instead, or send it back with comments.

        The answer is the version that was decided about. 409 when it is decided, or not the latest.
        """
        deliverable = self.found(Action.SEE)
        if not actions.may_review(person(request), deliverable.stage):
            raise PermissionDenied(NOT_ALLOWED)
        given = checked(serializers.ReviewDeliverableSerializer(data=request.data))
        return _whole(actions.review(deliverable, person(request), **given))

    @extend_schema(
        operation_id="deliverables_versions",
        responses=serializers.DeliverableSummarySerializer(many=True),
        filters=False,
    )
    @action(detail=True, filter_backends=[])
    def versions(self, request: Request, pk: str) -> Response:
        """All versions of it, the newest first."""
        pages = NewestFirst()
        page = pages.paginate_queryset(listed(versions.of(self.found(Action.SEE))), request)
        return pages.get_paginated_response(serializers.DeliverableSummarySerializer(page, many=True).data)

    @extend_schema(parameters=[AGAINST], responses=serializers.DiffSerializer, filters=False)
    @action(detail=True, filter_backends=[], pagination_class=None)
    def diff(self, request: Request, pk: str) -> Response:
        """What changed from another version (`against`; the one before, without it) to this one."""
        deliverable = self.found(Action.SEE)
        asked = checked(serializers.AgainstSerializer(data=request.query_params))
        other = asked.get("against") or deliverable.parent_deliverable_id
        old = get_object_or_404(versions.of(deliverable), pk=other)
        access.log(deliverable, person(request), Kind.READ, diff_against=old.version)
        body = {"from_id": old.pk, "to_id": deliverable.pk, **diffs.between(old, deliverable)}
        return Response(serializers.DiffSerializer(body).data)

    @extend_schema(parameters=[PATH, AS_ROLE], responses=DOWNLOADS, filters=False)
    @action(detail=True, filter_backends=[], pagination_class=None, content_negotiation_class=AsItIs)
    def download(self, request: Request, pk: str) -> HttpResponseBase:
        """The document as a file, a bundle as a zip, or with `path` one file of it."""
        deliverable = self.found(Action.SEE)
        return bundle.download(
            deliverable,
            person(request),
            path=request.query_params.get("path", ""),
            role=request.query_params.get("accessed_by_role", ""),
        )

    @extend_schema(request=serializers.ShareSerializer, responses=serializers.SharedSerializer)
    @action(detail=True, methods=["post"], filter_backends=[])
    def share(self, request: Request, pk: str) -> Response:
        """Let somebody see it: who may not see the project is invited to it as a viewer."""
        deliverable = self.found(Action.SHARE)
        given = checked(serializers.ShareSerializer(data=request.data))
        shared = access.share(deliverable, person(request), **given)
        body = serializers.SharedSerializer(shared).data
        return Response(body, headers={"Cache-Control": "no-store"})

    @extend_schema(responses=serializers.CommentSerializer(many=True), filters=False)
    @action(detail=True, filter_backends=[])
    def comments(self, request: Request, pk: str) -> Response:
        """What people say about this version, the oldest first."""
        rows = self.found(Action.SEE).comments.select_related("author")
        pages = OldestFirst()
        page = pages.paginate_queryset(rows, request)
        return pages.get_paginated_response(serializers.CommentSerializer(page, many=True).data)

    @extend_schema(request=serializers.CommentSerializer, responses={201: serializers.CommentSerializer})
    @comments.mapping.post
    def comment(self, request: Request, pk: str) -> Response:
        """Say something about this version. Whoever sees it may."""
        deliverable = self.found(Action.SEE)
        given = checked(serializers.CommentSerializer(data=request.data))
        made = comments.add(deliverable, person(request), given["text"])
        return Response(serializers.CommentSerializer(made).data, status=status.HTTP_201_CREATED)


class AccessLogViewSet(mixins.ListModelMixin, GenericViewSet[DeliverableAccess]):
    """Who, or which role, read, edited, downloaded or shared any version of a deliverable."""

    read_role = Role.VIEWER
    write_role = Role.USER
    queryset = DeliverableAccess.objects.none()
    serializer_class = serializers.AccessSerializer
    filterset_class = filters.AccessFilter
    search_fields = ("accessed_by_role", "accessed_by__username")
    ordering_fields = ("id",)
    ordering = "-id"

    def get_queryset(self) -> Any:
        pk = self.kwargs["pk"]
        find(Project.objects.all(), person(self.request), Action.SEE, deliverables__pk=pk)
        return access.of(Deliverable.objects.only("lineage").get(pk=pk))

    @extend_schema(operation_id="deliverables_access_log", summary="Read the access log of a deliverable")
    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Who, or which role, read, edited, downloaded or shared any version of it, the newest first."""
        return super().list(request, *args, **kwargs)
