"""How runs look to programs."""

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from crews.models import LLMModel
from executions.models import Approval, Attempt, Execution, ExecutionEvent, LLMCall, TaskRun
from executions.models.budget import MOST_TOKENS


class CatalogModelField(serializers.PrimaryKeyRelatedField[LLMModel]):
    """The id of a model of the catalog."""

    def __init__(self, **kwargs: Any) -> None:
        queryset = LLMModel.objects.select_related("provider")
        super().__init__(queryset=queryset, pk_field=serializers.CharField(), **kwargs)


class BudgetField(serializers.DecimalField):
    """A limit in US$."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_digits=12, decimal_places=6, min_value=0, **kwargs)


class TokensField(serializers.IntegerField):
    """A limit in tokens."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(min_value=0, max_value=MOST_TOKENS, **kwargs)


class TaskRunSerializer(serializers.ModelSerializer[TaskRun]):
    """Where one task of a run stands."""

    task_id = serializers.CharField(source="task")
    duration_seconds = serializers.FloatField(allow_null=True)

    class Meta:
        model = TaskRun
        fields = [
            *("task_id", "name", "role", "status", "attempt", "started_at", "ended_at", "duration_seconds"),
            *("output", "error", "is_inherited"),
        ]


class AttemptSerializer(serializers.ModelSerializer[Attempt]):
    """One try at a run by one worker, and why it ended."""

    class Meta:
        model = Attempt
        fields = ["number", "worker", "started_at", "ended_at", "outcome", "reason"]


class ApprovalSerializer(serializers.ModelSerializer[Approval]):
    """A question about a task's work, and what was decided."""

    execution_id = serializers.UUIDField()
    task_id = serializers.CharField(source="task")
    answered_by_id = serializers.UUIDField(allow_null=True)
    url = serializers.SerializerMethodField()

    class Meta:
        model = Approval
        fields = [
            *("id", "execution_id", "task_id", "name", "role", "attempt", "round", "status", "output", "text"),
            *("feedback", "requested_at", "expires_at", "answered_at", "answered_by_id", "answered_via", "url"),
        ]
        read_only_fields = fields

    def get_url(self, approval: Approval) -> str:
        return f"/api/approvals/{approval.pk}"


class ExecutionSummarySerializer(serializers.ModelSerializer[Execution]):
    """A run without its texts, as lists show it."""

    crew_id = serializers.UUIDField(allow_null=True)
    created_by_id = serializers.UUIDField(allow_null=True)
    forked_from_id = serializers.UUIDField(allow_null=True)
    duration_seconds = serializers.FloatField(allow_null=True)
    llm_calls = serializers.IntegerField(source="llm_calls_count")
    url = serializers.SerializerMethodField()

    class Meta:
        model = Execution
        fields: list[str] = [
            *("id", "crew_id", "name", "engine", "status", "priority", "trigger", "created_by_id", "attempt"),
            *("max_attempts", "recoveries", "created_at", "started_at", "ended_at", "duration_seconds"),
            *("stop_requested_at", "pause_requested_at", "waiting_for", "error_code", "error_message"),
            *("budget_usd", "budget_tokens", "llm_calls", "prompt_tokens", "completion_tokens", "cost_usd"),
            *("unpriced_calls", "forked_from_id", "url"),
        ]
        read_only_fields = fields

    def get_url(self, execution: Execution) -> str:
        return f"/api/executions/{execution.pk}"


class ExecutionSerializer(ExecutionSummarySerializer):
    """A run, whole."""

    error_steps = serializers.SerializerMethodField(help_text="What to do about the error.")
    place_in_queue = serializers.SerializerMethodField(help_text="1 for the next to start; null when not waiting.")
    forked_task_id = serializers.CharField(source="forked_task", help_text="The task from which the fork runs anew.")
    tasks = TaskRunSerializer(source="task_runs", many=True)
    attempts = AttemptSerializer(many=True)
    open_approvals = serializers.SerializerMethodField(help_text="The questions that it waits for.")

    class Meta(ExecutionSummarySerializer.Meta):
        fields = [
            *ExecutionSummarySerializer.Meta.fields,
            *("inputs", "final_output", "error_steps", "quarantine_reason", "place_in_queue", "needs_usd"),
            *("needs_tokens", "reserved_usd", "reserved_tokens", "forked_task_id", "tasks", "attempts"),
            "open_approvals",
        ]
        read_only_fields = fields

    def get_error_steps(self, execution: Execution) -> list[str]:
        return [str(step) for step in execution.failure.code.steps] if execution.failure else []

    @extend_schema_field(ApprovalSerializer(many=True))
    def get_open_approvals(self, execution: Execution) -> Any:
        return ApprovalSerializer(execution.approvals.filter(status=Approval.Status.OPEN), many=True).data

    def get_place_in_queue(self, execution: Execution) -> int | None:
        return execution.place_in_queue()


class KickoffSerializer(serializers.Serializer[Any]):
    """What starts a run."""

    inputs = serializers.DictField(required=False, default=dict, help_text="Values by field name.")
    model = CatalogModelField(
        required=False,
        allow_null=True,
        default=None,
        help_text="A catalog id that takes every role's place in this run.",
    )
    priority = serializers.IntegerField(min_value=1, max_value=9, required=False, default=5, help_text="9 goes first.")
    budget_usd = BudgetField(required=False, allow_null=True, default=None, help_text="null: no limit.")
    budget_tokens = TokensField(required=False, allow_null=True, default=None, help_text="null: no limit.")


class KickoffAnswerSerializer(serializers.Serializer[Any]):
    execution_id = serializers.UUIDField()
    status = serializers.CharField()
    url = serializers.CharField()


class EventSerializer(serializers.ModelSerializer[ExecutionEvent]):
    """One line of a run's history."""

    task = serializers.CharField(required=False)
    role = serializers.CharField(required=False)

    class Meta:
        model = ExecutionEvent
        fields = ["seq", "type", "at", "task", "role", "data"]


class EventsSerializer(serializers.Serializer[Any]):
    """Events after a number; ask again with `next_after` while `has_more`."""

    results = EventSerializer(many=True)
    next_after = serializers.IntegerField(help_text="Pass as ?after= to go on.")
    has_more = serializers.BooleanField()


class LLMCallSerializer(serializers.ModelSerializer[LLMCall]):
    """One request to a model, with what it cost. `cost_usd` null: the model had no price then."""

    task_id = serializers.CharField(source="task")

    class Meta:
        model = LLMCall
        fields = [
            *("id", "call_id", "try_number", "attempt", "task_id", "role", "model", "provider", "status"),
            *("error_code", "error_detail", "http_status", "streamed", "prompt_tokens", "completion_tokens"),
            *("is_estimated", "cost_usd", "queue_ms", "first_token_ms", "latency_ms", "opened_at", "closed_at"),
        ]
        read_only_fields = fields


class StoppedSerializer(serializers.Serializer[Any]):
    stopped = serializers.ListField(child=serializers.UUIDField(), help_text="The runs that were asked to stop.")
    at = serializers.DateTimeField(default=timezone.now)
