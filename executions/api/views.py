"""The API of runs: thin views over `executions.actions`."""

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from django.http import Http404, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django_filters import rest_framework as filters
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import mixins, status
from rest_framework.decorators import action
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import GenericViewSet

from crews.models import Crew
from executions import actions, events, live
from executions.api import serializers
from executions.api.base import IDEMPOTENCY_KEY, idempotency_key
from executions.api.control import ControlMixin
from executions.models import Execution
from executions.status import Status
from portal.accounts.api import credential, key_id
from portal.accounts.models import Role, Scope
from portal.accounts.permissions import Action, find, person
from portal.accounts.watch import Permit, while_allowed
from portal.lib import numbers
from portal.lib.pagination import CursorPages
from portal.lib.problems import Problem

EVENTS_PAGE = 1000
AFTER = OpenApiParameter("after", OpenApiTypes.INT, description="Only events with a seq above this.")


class EventStreamRenderer(BaseRenderer):
    """Lets `Accept: text/event-stream` through content negotiation: the view streams by itself. Errors stay JSON."""

    media_type = "text/event-stream"
    format = "sse"

    def render(self, data: Any, *_: Any) -> bytes:
        return bytes(JSONRenderer().render(data))


class NewestCallsFirst(CursorPages):
    ordering = "-id"


def after_of(request: Request) -> int:
    """The `?after=` of a request. Raises `Problem` when it is no number."""
    after = numbers.whole(request.query_params.get("after", "0"))
    if after is None:
        raise Problem("“after” must be the number of an event.", code="invalid", hint="Leave it out to read all.")
    return after


class ExecutionFilter(filters.FilterSet):
    crew_id = filters.UUIDFilter(field_name="crew_id")
    created_by = filters.UUIDFilter(field_name="created_by_id")  # one that nobody has finds nothing
    status = filters.MultipleChoiceFilter(choices=Status.choices)

    class Meta:
        model = Execution
        fields = ["status", "crew_id", "trigger", "engine", "priority", "created_by"]


class ExecutionViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, ControlMixin):
    """Runs that you may see: your own, those of your projects, or all for admins."""

    queryset = Execution.objects.none()
    filterset_class = ExecutionFilter
    search_fields = ["name"]
    ordering_fields = ["created_at", "started_at", "ended_at", "priority", "name", "cost_usd"]
    looks_up = {"compare"}

    def get_queryset(self) -> Any:
        return Execution.objects.visible_to(person(self.request))

    def get_serializer_class(self) -> Any:
        if self.action == "list":
            return serializers.ExecutionSummarySerializer
        return serializers.ExecutionSerializer

    def get_object(self) -> Execution:
        return self.found(Action.SEE)

    @extend_schema(parameters=[AFTER], responses=serializers.EventsSerializer, filters=False)
    @action(detail=True, pagination_class=None, filter_backends=[])
    def events(self, request: Request, pk: str) -> Response:
        """The run's history, at most 1,000 events an answer."""
        execution, after = self.found(Action.SEE), after_of(request)
        rows = events.read(execution.stream_id, after, EVENTS_PAGE + 1)
        page = rows[:EVENTS_PAGE]
        next_after = page[-1]["seq"] if page else after
        return Response({"results": page, "next_after": next_after, "has_more": len(rows) > EVENTS_PAGE})

    @extend_schema(parameters=[AFTER], responses={(200, "text/event-stream"): OpenApiTypes.STR}, filters=False)
    @action(
        detail=True, pagination_class=None, filter_backends=[], renderer_classes=[EventStreamRenderer, JSONRenderer]
    )
    def stream(self, request: Request, pk: str) -> HttpResponseBase:
        """The run as server-sent events: its history after `after`, then live, until its last event."""
        execution, after = self.found(Action.SEE), after_of(request)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        if request.method == "HEAD":
            return HttpResponse(content_type="text/event-stream", headers=headers)
        permit = Permit(person(request), credential(request), self.read_role, execution.access_id)
        stream = _sse(permit, execution.stream_id, after)
        return StreamingHttpResponse(stream, content_type="text/event-stream", headers=headers)

    @extend_schema(responses=serializers.LLMCallSerializer(many=True))
    @action(detail=True, url_path="llm-calls", filter_backends=[])
    def llm_calls(self, request: Request, pk: str) -> Response:
        """Every request that the run made to a model, newest first."""
        pages = NewestCallsFirst()
        page = pages.paginate_queryset(self.found(Action.SEE).llm_calls.all(), request, view=self)
        return pages.get_paginated_response(serializers.LLMCallSerializer(page or [], many=True).data)


async def _sse(permit: Permit, stream_id: uuid.UUID, after: int) -> AsyncIterator[bytes]:
    async with aclosing(while_allowed(permit, live.follow(stream_id, after))) as allowed:
        async for event in allowed:
            yield b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n"


class CrewRunView(APIView):
    """Base of what stands under /api/crews/{id}: finds the crew for whoever may do `crew_action`."""

    read_role = Role.VIEWER
    write_role = Role.USER

    def crew(self, action: Action = Action.SEE) -> Crew:
        return find(Crew.objects.all(), person(self.request), action, pk=self.kwargs["crew_id"])

    def runs(self) -> Any:
        """The crew's runs that the person may see; 404 when the crew is not theirs to see."""
        return Execution.objects.visible_to(person(self.request)).filter(crew=self.crew())


class KickoffView(CrewRunView):
    write_scope = Scope.RUN

    @extend_schema(
        operation_id="crews_kickoff",
        parameters=[IDEMPOTENCY_KEY],
        request=serializers.KickoffSerializer,
        responses={202: serializers.KickoffAnswerSerializer},
    )
    def post(self, request: Request, crew_id: str) -> Response:
        """Start a run of the crew."""
        crew = self.crew(Action.RUN)
        asked = serializers.KickoffSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        execution = actions.kickoff(
            crew=crew,
            by=person(request),
            trigger=Execution.Trigger.API,
            idempotency_key=idempotency_key(request, f"kickoff:{crew.pk}"),
            api_key_id=key_id(request),
            **asked.validated_data,
        )
        url = f"/api/executions/{execution.pk}"
        body = {"execution_id": execution.pk, "status": execution.status, "url": url}
        return Response(body, status=status.HTTP_202_ACCEPTED, headers={"Location": url})


class CrewStopView(CrewRunView):
    write_scope = Scope.RUN

    @extend_schema(operation_id="crews_stop", request=None, responses={202: serializers.StoppedSerializer})
    def post(self, request: Request, crew_id: str) -> Response:
        """Ask every active run of the crew that you may stop to stop."""
        stopped = actions.stop_all(person(request), crew=self.crew())
        answer = serializers.StoppedSerializer({"stopped": [run.pk for run in stopped]})
        return Response(answer.data, status=status.HTTP_202_ACCEPTED)


class CrewStatusView(CrewRunView):
    @extend_schema(operation_id="crews_status", responses=serializers.ExecutionSerializer)
    def get(self, request: Request, crew_id: str) -> Response:
        """The newest run of the crew."""
        return Response(serializers.ExecutionSerializer(_first(self.runs())).data)


class CrewResultView(CrewRunView):
    @extend_schema(operation_id="crews_result", responses=serializers.ExecutionSerializer)
    def get(self, request: Request, crew_id: str) -> Response:
        """The newest completed run of the crew; 404 while there is none."""
        return Response(serializers.ExecutionSerializer(_first(self.runs().filter(status=Status.COMPLETED))).data)


def _first(runs: Any) -> Execution:
    newest = runs.order_by("-created_at", "-id").first()
    if newest is None:
        raise Http404
    return newest


class CrewExecutionViewSet(
    mixins.ListModelMixin, mixins.RetrieveModelMixin, mixins.DestroyModelMixin, GenericViewSet[Execution]
):
    """The runs of one crew."""

    read_role = Role.VIEWER
    write_role = Role.USER
    queryset = Execution.objects.none()
    filterset_class = ExecutionFilter
    search_fields = ["name"]
    ordering_fields = ["created_at", "started_at", "ended_at", "priority"]
    lookup_url_kwarg = "exec_id"

    def get_queryset(self) -> Any:
        crew = find(Crew.objects.all(), person(self.request), Action.SEE, pk=self.kwargs["crew_id"])
        return Execution.objects.visible_to(person(self.request)).filter(crew=crew)

    def get_serializer_class(self) -> Any:
        if self.action == "list":
            return serializers.ExecutionSummarySerializer
        return serializers.ExecutionSerializer

    def get_object(self) -> Execution:
        wanted = Action.DELETE if self.action == "destroy" else Action.SEE
        of_crew = Execution.objects.filter(crew_id=self.kwargs["crew_id"])
        return find(of_crew, person(self.request), wanted, pk=self.kwargs["exec_id"])

    def perform_destroy(self, instance: Execution) -> None:
        actions.delete(execution=instance, by=person(self.request))
