"""The API of questions to people."""

from typing import Any

from django.conf import settings
from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema
from rest_framework import mixins
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from executions import actions, approvals
from executions.api import control_serializers as forms
from executions.api import serializers
from executions.api.base import NewestQuestionsFirst
from executions.models import Approval, Execution
from portal.accounts.models import Role, Scope
from portal.accounts.permissions import Action, find, person


class ApprovalFilter(filters.FilterSet):
    execution_id = filters.UUIDFilter(field_name="execution_id")
    status = filters.MultipleChoiceFilter(choices=Approval.Status.choices, help_text="Without it: open.")

    class Meta:
        model = Approval
        fields = ["status", "execution_id"]

    def filter_queryset(self, queryset: Any) -> Any:
        found = super().filter_queryset(queryset)
        return found if self.form.cleaned_data["status"] else found.filter(status=Approval.Status.OPEN)


class ApprovalViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, GenericViewSet[Approval]):
    """Questions of runs; the list has those that you may answer."""

    read_role = Role.VIEWER
    write_role = Role.USER
    write_scope = Scope.RUN
    queryset = Approval.objects.none()
    serializer_class = serializers.ApprovalSerializer
    pagination_class = NewestQuestionsFirst
    filterset_class = ApprovalFilter
    search_fields = ["name"]
    ordering_fields = ["requested_at", "expires_at", "answered_at"]

    def get_queryset(self) -> Any:
        return approvals.to_answer(person(self.request)).select_related("execution")

    def get_object(self) -> Approval:
        return self.found(Action.SEE)

    def found(self, wanted: Action) -> Approval:
        key = self.kwargs["pk"]
        run = find(Execution.objects.all(), person(self.request), wanted, approvals__pk=key)
        return run.approvals.select_related("execution").get(pk=key)

    @extend_schema(request=forms.AnswerSerializer, responses=serializers.ApprovalSerializer)
    @action(detail=True, methods=["post"])
    def answer(self, request: Request, pk: str) -> Response:
        """Approve the work, approve an edited text instead, or send it back with feedback.

        A question is decided once: 409 `already_answered` when somebody has decided otherwise.
        """
        approval = self.found(Action.ANSWER)
        given = forms.AnswerSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        answered = actions.answer(approval, person(request), via=Approval.Via.API, **given.validated_data)
        return Response(serializers.ApprovalSerializer(answered).data)

    @extend_schema(request=None, responses=forms.LinkSerializer)
    @action(detail=True, methods=["post"])
    def link(self, request: Request, pk: str) -> Response:
        """A link of your own that answers the question without signing in. Whoever has it answers as you."""
        approval = self.found(Action.ANSWER)
        approvals.require_open(approval)
        url = approvals.hand_out_link(approval, by=person(request))
        return Response(forms.LinkSerializer({"url": url, "days": settings.APPROVAL_LINK_DAYS}).data)
