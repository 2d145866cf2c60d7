"""The API of control over runs: pause, go on, fork, compare, change."""

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import Serializer
from rest_framework.viewsets import GenericViewSet

from executions import actions, forks
from executions.api import control_serializers as forms
from executions.api import serializers
from executions.api.base import IDEMPOTENCY_KEY, NewestQuestionsFirst, OfRun, idempotency_key
from executions.compare import compare
from executions.models import Execution
from portal.accounts.api import key_id
from portal.accounts.permissions import Action, find, person

A = OpenApiParameter("a", OpenApiTypes.UUID, description="The run on the left.", required=True)
B = OpenApiParameter("b", OpenApiTypes.UUID, description="The run on the right.", required=True)


def _checked(serializer: "Serializer[Any]") -> dict[str, Any]:
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)


class ControlMixin(OfRun, GenericViewSet[Execution]):
    """What a person may do with a run beside reading it."""

    def _accepted(self, execution: Execution) -> Response:
        return Response(serializers.ExecutionSerializer(execution).data, status=status.HTTP_202_ACCEPTED)

    @extend_schema(request=None, responses={202: serializers.ExecutionSerializer})
    @action(detail=True, methods=["post"])
    def stop(self, request: Request, pk: str) -> Response:
        """Ask the run to stop. It obeys within a second; what was finished is kept."""
        return self._accepted(actions.stop(self.found(Action.STOP), person(request)))

    @extend_schema(operation_id="executions_stop_all", request=None, responses={202: serializers.StoppedSerializer})
    @action(detail=False, methods=["post"], url_path="stop", filter_backends=[], pagination_class=None)
    def stop_all(self, request: Request) -> Response:
        """Ask every active run that you may stop to stop: for admins all of them."""
        stopped = actions.stop_all(person(request))
        answer = serializers.StoppedSerializer({"stopped": [run.pk for run in stopped]})
        return Response(answer.data, status=status.HTTP_202_ACCEPTED)

    @extend_schema(request=forms.PauseSerializer, responses={202: serializers.ExecutionSerializer})
    @action(detail=True, methods=["post"])
    def pause(self, request: Request, pk: str) -> Response:
        """Ask the run to pause: when its current tasks are finished, or at once. 409 unless it runs."""
        execution = self.found(Action.STOP)
        return self._accepted(
            actions.pause(execution, person(request), **_checked(forms.PauseSerializer(data=request.data)))
        )

    @extend_schema(request=None, responses={202: serializers.ExecutionSerializer})
    @action(detail=True, methods=["post"])
    def resume(self, request: Request, pk: str) -> Response:
        """Let a paused run go on from its last finished task. 409 unless it is paused."""
        return self._accepted(actions.resume(self.found(Action.STOP), person(request)))

    @extend_schema(request=None, responses={202: serializers.ExecutionSerializer})
    @action(detail=True, methods=["post"])
    def retry(self, request: Request, pk: str) -> Response:
        """Start a run that failed or was stopped again, from its last finished task. 409 for any other."""
        return self._accepted(actions.retry(self.found(Action.STOP), person(request)))

    @extend_schema(
        parameters=[IDEMPOTENCY_KEY],
        request=forms.ForkSerializer,
        responses={202: serializers.KickoffAnswerSerializer},
    )
    @action(detail=True, methods=["post"])
    def fork(self, request: Request, pk: str) -> Response:
        """Start a new run from a finished task of this one, with other inputs, texts or models.

        That task, what depends on it and what had not finished run; all other outputs are taken over.
        """
        execution = self.found(Action.RUN)
        asked = forms.ForkSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        made = forks.fork(
            execution,
            person(request),
            trigger=Execution.Trigger.API,
            idempotency_key=idempotency_key(request, f"fork:{execution.pk}"),
            api_key_id=key_id(request),
            **asked.edits(),
        )
        url = f"/api/executions/{made.pk}"
        body = {"execution_id": made.pk, "status": made.status, "url": url}
        return Response(body, status=status.HTTP_202_ACCEPTED, headers={"Location": url})

    @extend_schema(
        operation_id="executions_compare", parameters=[A, B], responses=forms.ComparisonSerializer, filters=False
    )
    @action(detail=False, filter_backends=[], pagination_class=None)
    def compare(self, request: Request) -> Response:
        """Two runs side by side: inputs, prompts, outputs, cost and time, with what differs."""
        asked = _checked(forms.CompareSerializer(data=request.query_params))
        runs = Execution.objects.all()
        left, right = (find(runs, person(request), Action.SEE, pk=asked[side]) for side in ("a", "b"))
        return Response(forms.ComparisonSerializer(compare(left, right)).data)

    @extend_schema(request=forms.ChangeSerializer, responses=serializers.ExecutionSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        """Change the run's limits or its place in the queue; a run that waits for a larger budget goes on."""
        execution = self.found(Action.CHANGE)
        changes = _checked(forms.ChangeSerializer(data=request.data))
        limits = {name: changes[name] for name in ("budget_usd", "budget_tokens") if name in changes}
        if limits:
            actions.set_budget(execution, person(request), **limits)
        if "priority" in changes:
            actions.set_priority(execution, person(request), changes["priority"])
        return Response(serializers.ExecutionSerializer(execution).data)

    @extend_schema(responses=forms.RoleModelsSerializer, filters=False)
    @action(detail=True, url_path="role-llm-mapping", filter_backends=[], pagination_class=None)
    def role_llm_mapping(self, request: Request, pk: str) -> Response:
        """Which model each role of the run uses."""
        return Response(forms.RoleModelsSerializer(self.found(Action.SEE)).data)

    @extend_schema(request=forms.MappingsSerializer, responses=forms.RoleModelsSerializer)
    @role_llm_mapping.mapping.post
    def set_role_llm_mapping(self, request: Request, pk: str) -> Response:
        """Give the named roles other models, from the very next call; the others keep theirs."""
        execution = self.found(Action.ANSWER)
        asked = _checked(forms.MappingsSerializer(data=request.data))
        models = {row["role_name"]: row["llm_model"] for row in asked["mappings"]}
        return Response(forms.RoleModelsSerializer(actions.set_role_models(execution, person(request), models)).data)

    @extend_schema(responses=serializers.ApprovalSerializer(many=True), filters=False)
    @action(detail=True, filter_backends=[])
    def approvals(self, request: Request, pk: str) -> Response:
        """Everything that the run has asked people, newest first."""
        pages = NewestQuestionsFirst()
        page = pages.paginate_queryset(self.found(Action.SEE).approvals.all(), request, view=self)
        return pages.get_paginated_response(serializers.ApprovalSerializer(page, many=True).data)
