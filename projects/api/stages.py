"""The API of stages, their gates, and the files of the requirement."""

from typing import Any

from django.shortcuts import get_object_or_404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import mixins, status
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from executions.api.base import IDEMPOTENCY_KEY, idempotency_key
from portal.accounts.api import key_id
from portal.accounts.models import Scope
from portal.accounts.permissions import NOT_ALLOWED, Action, person
from projects import actions
from projects.actions.once import ensure_started
from projects.api import serializers
from projects.api.base import OfProject, checked, shown_stages
from projects.api.deliverable_serializers import ReviewStageSerializer
from projects.models import Attachment, Stage

STAGE = OpenApiParameter(
    "stage", OpenApiTypes.STR, OpenApiParameter.PATH, description="The id of a stage, or its `stage_name`."
)


@extend_schema_view(
    list=extend_schema(operation_id="projects_stages_list", summary="List the stages of a project"),
)
class StageViewSet(OfProject, mixins.ListModelMixin, GenericViewSet[Stage]):
    """The stages of a project."""

    noun = "a stage"
    nouns = "stages"
    action_scopes = dict.fromkeys(("start", "complete", "review", "roll_back"), Scope.RUN)
    queryset = Stage.objects.none()
    serializer_class = serializers.StageSerializer
    search_fields = ("stage_name", "responsible_role")
    ordering_fields = ("stage_order",)
    ordering = "stage_order"

    def get_queryset(self) -> Any:
        return shown_stages(self.project(Action.SEE).stages.all())

    def _answer(self, stage: Stage) -> Response:
        return Response(serializers.StageSerializer(self._shown(stage)).data)

    def _shown(self, stage: Stage) -> Stage:
        return shown_stages(Stage.objects.all()).get(pk=stage.pk)

    @extend_schema(operation_id="projects_stages_retrieve", parameters=[STAGE], filters=False)
    def retrieve(self, request: Request, **ids: Any) -> Response:
        """Where the stage stands, its latest run, and its gate."""
        return self._answer(self.stage(Action.SEE))

    @extend_schema(
        operation_id="projects_stages_partial_update",
        parameters=[STAGE],
        request=serializers.StageChangeSerializer,
        responses=serializers.StageSerializer,
    )
    def partial_update(self, request: Request, **ids: Any) -> Response:
        """Change the stage's options: how many approvals it needs, by whom, within what time."""
        stage = self.stage(Action.CHANGE)
        asked = serializers.StageChangeSerializer(
            stage, data=request.data, partial=True, context=self.get_serializer_context()
        )
        asked.is_valid(raise_exception=True)
        return self._answer(asked.save())

    @extend_schema(
        operation_id="projects_stages_start",
        parameters=[STAGE, IDEMPOTENCY_KEY],
        request=serializers.StageStartSerializer,
        responses=serializers.StartedStageSerializer,
    )
    def start(self, request: Request, **ids: Any) -> Response:
        """Set the stage in progress and start the run of its role, which the answer names.

        Of a stage that is at work or in review already, its run is named. 409 while what it depends on is not
        approved, and when it is completed.
        """
        stage = self.stage(Action.CHANGE)
        asked = checked(serializers.StageStartSerializer(data=request.data))
        execution = ensure_started(
            stage,
            person(request),
            api_key_id=key_id(request),
            idempotency_key=idempotency_key(request, f"stage:{stage.pk}"),
            **asked,
        )
        shown: Any = self._shown(stage)
        shown.started = execution
        return Response(serializers.StartedStageSerializer(shown).data)

    @extend_schema(
        operation_id="projects_stages_complete",
        parameters=[STAGE],
        request=serializers.StageCompleteSerializer,
        responses=serializers.StageSerializer,
    )
    def complete(self, request: Request, **ids: Any) -> Response:
        """Close the stage by hand. 409 while a required approval is open."""
        stage = self.stage(Action.CHANGE)
        asked = checked(serializers.StageCompleteSerializer(data=request.data))
        return self._answer(actions.complete_stage(stage, person(request), **asked))

    @extend_schema(
        operation_id="projects_stages_review",
        parameters=[STAGE],
        request=ReviewStageSerializer,
        responses=serializers.StageSerializer,
    )
    def review(self, request: Request, **ids: Any) -> Response:
        """Approve all that the stage has in review, or send it back with comments."""
        stage = self._to_review()
        asked = checked(ReviewStageSerializer(data=request.data))
        return self._answer(actions.review_stage(stage, person(request), **asked))

    @extend_schema(
        operation_id="projects_stages_delegate",
        parameters=[STAGE],
        request=serializers.DelegateSerializer,
        responses=serializers.StageSerializer,
    )
    def delegate(self, request: Request, **ids: Any) -> Response:
        """Let somebody else review the stage too, in your name."""
        stage = self._to_review()
        asked = checked(serializers.DelegateSerializer(data=request.data))
        actions.delegate(stage, person(request), **asked)
        return self._answer(stage)

    def _to_review(self) -> Stage:
        stage = self.stage(Action.SEE)
        if not actions.may_review(person(self.request), stage):
            raise PermissionDenied(NOT_ALLOWED)
        return stage

    @extend_schema(
        operation_id="projects_stages_roll_back",
        parameters=[STAGE],
        request=serializers.RollBackSerializer,
        responses={202: serializers.StageSerializer},
    )
    def roll_back(self, request: Request, **ids: Any) -> Response:
        """Go back to the stage: it and what depends on it is done again, nothing else."""
        stage = self.stage(Action.CHANGE)
        asked = checked(serializers.RollBackSerializer(data=request.data))
        rolled = actions.roll_back(stage, person(request), **asked)
        return Response(serializers.StageSerializer(self._shown(rolled)).data, status=status.HTTP_202_ACCEPTED)


class AttachmentViewSet(OfProject, mixins.ListModelMixin, GenericViewSet[Attachment]):
    """Text files that belong to the requirement; every stage is given them."""

    noun = "an attachment"
    nouns = "attachments"
    queryset = Attachment.objects.none()
    serializer_class = serializers.AttachmentSerializer
    search_fields = ("name",)
    ordering_fields = ("name", "size", "created_at")
    ordering = "name"

    def get_queryset(self) -> Any:
        return self.project(Action.SEE).attachments.defer("content")

    def _found(self, action: Action) -> Attachment:
        return get_object_or_404(self.project(action).attachments, pk=self.kwargs["attachment_id"])

    @extend_schema(request=serializers.NewAttachmentSerializer, responses={201: serializers.AttachmentSerializer})
    def create(self, request: Request, **ids: Any) -> Response:
        """Add a text file; one of the same name takes the other's place."""
        project = self.project(Action.CHANGE)
        given = checked(serializers.NewAttachmentSerializer(data=request.data))
        [made] = actions.attach(project, person(request), [serializers.NewAttachmentSerializer.input_file(given)])
        return Response(serializers.AttachmentSerializer(made).data, status=status.HTTP_201_CREATED)

    @extend_schema(responses=serializers.AttachmentTextSerializer, filters=False)
    def retrieve(self, request: Request, **ids: Any) -> Response:
        """The file with its text."""
        return Response(serializers.AttachmentTextSerializer(self._found(Action.SEE)).data)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, **ids: Any) -> Response:
        """Take it away. Runs that have started keep it."""
        actions.detach(self._found(Action.CHANGE), person(request))
        return Response(status=status.HTTP_204_NO_CONTENT)
