"""What control over runs takes and gives, for programs."""

from typing import Any

from rest_framework import serializers

from executions.api.serializers import BudgetField, CatalogModelField, TokensField
from executions.approvals import Decision
from executions.compare import Pair, TaskPair
from executions.forks import TASK_TEXTS
from executions.models import Execution


class PauseSerializer(serializers.Serializer[Any]):
    at_once = serializers.BooleanField(
        default=False, help_text="Cut off the tasks under way, which are done again later."
    )


class ChangeSerializer(serializers.Serializer[Any]):
    """What may change about a run; what is not named stays."""

    budget_usd = BudgetField(required=False, allow_null=True, help_text="null: no limit.")
    budget_tokens = TokensField(required=False, allow_null=True, help_text="null: no limit.")
    priority = serializers.IntegerField(min_value=1, max_value=9, required=False, help_text="9 goes first.")


class RoleModelSerializer(serializers.Serializer[Any]):
    """Which model a role uses."""

    role_name = serializers.CharField(max_length=200)
    llm_model = CatalogModelField()


class MappingsSerializer(serializers.Serializer[Any]):
    mappings = RoleModelSerializer(many=True, allow_empty=False)


class RoleModelsSerializer(serializers.Serializer[Execution]):
    """Which model each role of a run uses."""

    mappings = serializers.SerializerMethodField()

    def get_mappings(self, execution: Execution) -> list[dict[str, str]]:
        rows = execution.role_models.order_by("pk").values_list("role", "llm_model_id")
        return [{"role_name": role, "llm_model": model} for role, model in rows]


class TaskEditSerializer(serializers.Serializer[Any]):
    """Other texts for a task; `{field_name}` in them stands for an input."""

    task_id = serializers.CharField()
    description = serializers.CharField(required=False, trim_whitespace=False)
    expected_output = serializers.CharField(required=False, trim_whitespace=False)


class AgentEditSerializer(serializers.Serializer[Any]):
    """Other texts or parameters for an agent."""

    agent_id = serializers.CharField()
    role = serializers.CharField(required=False)
    goal = serializers.CharField(required=False, trim_whitespace=False)
    backstory = serializers.CharField(required=False, trim_whitespace=False, allow_blank=True)
    llm_config = serializers.DictField(required=False, help_text="temperature, max_tokens…")


class ForkSerializer(serializers.Serializer[Any]):
    """From where to run again, and what is other than it was; what is not named stays."""

    task_id = serializers.CharField(help_text="A finished task of the run: it and what depends on it runs again.")
    inputs = serializers.DictField(required=False, help_text="Values by field name; those not named stay.")
    tasks = TaskEditSerializer(many=True, required=False)
    agents = AgentEditSerializer(many=True, required=False)
    mappings = RoleModelSerializer(many=True, required=False)
    model = CatalogModelField(required=False, allow_null=True, help_text="For every role that is not named.")
    budget_usd = BudgetField(required=False, allow_null=True, help_text="null: no limit.")
    budget_tokens = TokensField(required=False, allow_null=True, help_text="null: no limit.")
    priority = serializers.IntegerField(min_value=1, max_value=9, required=False, allow_null=True)

    def edits(self) -> dict[str, Any]:
        """The arguments of `forks.fork`."""
        asked = dict(self.validated_data)
        tasks = {row.pop("task_id"): row for row in map(dict, asked.pop("tasks", []))}
        agents = {row.pop("agent_id"): row for row in map(dict, asked.pop("agents", []))}
        for edit in agents.values():
            if "llm_config" in edit:
                edit["llm"] = edit.pop("llm_config")
        models = {row["role_name"]: row["llm_model"] for row in asked.pop("mappings", [])}
        return {"task": asked.pop("task_id"), **asked, "tasks": tasks, "agents": agents, "models": models}


class AnswerSerializer(serializers.Serializer[Any]):
    """A decision: `edit` needs `text`, `reject` needs `feedback`."""

    decision = serializers.ChoiceField(choices=Decision.choices)
    text = serializers.CharField(
        required=False, allow_blank=True, trim_whitespace=False, help_text="Approved instead of the work."
    )
    feedback = serializers.CharField(required=False, allow_blank=True, help_text="What the agent is to do differently.")


class LinkSerializer(serializers.Serializer[Any]):
    """A signed link that answers a question as you, without signing in."""

    url = serializers.CharField()
    days = serializers.IntegerField(help_text="How long it is good.")


# --- Comparing -----------------------------------------------------------------------------------------


class CompareSerializer(serializers.Serializer[Any]):
    a = serializers.UUIDField()
    b = serializers.UUIDField()


class PieceSerializer(serializers.Serializer[Any]):
    """A stretch of text on the way from the left to the right."""

    kind = serializers.ChoiceField(choices=["same", "added", "removed"])
    text = serializers.CharField()


class PairSerializer(serializers.Serializer[Pair]):
    """One thing of both runs; `pieces` where both are texts that differ."""

    name = serializers.CharField()
    left = serializers.JSONField()
    right = serializers.JSONField()
    is_same = serializers.BooleanField()
    pieces = PieceSerializer(many=True)


class UsageSerializer(serializers.Serializer[Any]):
    """What a run or a task took; `cost_usd` leaves out `unpriced` calls."""

    status = serializers.CharField()
    seconds = serializers.FloatField(allow_null=True)
    calls = serializers.IntegerField()
    prompt_tokens = serializers.IntegerField()
    completion_tokens = serializers.IntegerField()
    cost_usd = serializers.DecimalField(max_digits=16, decimal_places=8)
    unpriced = serializers.IntegerField()


class TaskPairSerializer(serializers.Serializer[TaskPair]):
    """A task of both runs; what only one has is null on the other side."""

    task_id = serializers.CharField(source="key")
    name = serializers.CharField()
    is_same = serializers.BooleanField()
    is_inherited = serializers.SerializerMethodField(help_text="The run on the right took its output over.")
    texts = PairSerializer(many=True, help_text=f"{', '.join(TASK_TEXTS)}, the agent's texts and model.")
    output = PairSerializer()
    left_usage = UsageSerializer(allow_null=True)
    right_usage = UsageSerializer(allow_null=True)

    def get_is_inherited(self, pair: TaskPair) -> bool:
        return pair.right is not None and pair.right.is_inherited


class ComparisonSerializer(serializers.Serializer[Any]):
    left_id = serializers.UUIDField(source="left.pk")
    right_id = serializers.UUIDField(source="right.pk")
    is_same = serializers.BooleanField()
    inputs = PairSerializer(many=True)
    tasks = TaskPairSerializer(many=True)
    output = PairSerializer()
    left_usage = UsageSerializer()
    right_usage = UsageSerializer()
