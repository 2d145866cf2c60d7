"""The API of budgets, and of what a run will probably take."""

from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import Http404
from django.utils.translation import gettext as _
from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import ModelViewSet

from crews.models import Crew
from executions import budgets, estimates
from executions.models import Budget
from executions.models.budget import MOST_TOKENS
from portal.accounts.models import Role
from portal.accounts.permissions import Action, find, person
from portal.lib.problems import InvalidValues, model_errors

_SUBJECTS = {"user_id": Budget.Subject.USER, "api_key_id": Budget.Subject.API_KEY}


class BudgetSerializer(serializers.ModelSerializer[Budget]):
    """What a user, or an API key, may spend in a period, at most; null is no limit. A day and a month are the
    portal's."""

    user_id = serializers.UUIDField(
        required=False, allow_null=True, help_text="Whose runs and calls it limits; stays what it is."
    )
    api_key_id = serializers.UUIDField(
        required=False,
        allow_null=True,
        help_text="Instead of a user: the key whose calls, and the runs started with it, it limits.",
    )
    left_usd = serializers.SerializerMethodField(help_text="Of the limit, beside what is spent and reserved.")
    left_tokens = serializers.SerializerMethodField(help_text="Of the limit, beside what is spent and reserved.")

    class Meta:
        model = Budget
        fields = [
            *("id", "user_id", "api_key_id", "period", "limit_usd", "limit_tokens", "spent_usd", "spent_tokens"),
            *("reserved_usd", "reserved_tokens", "left_usd", "left_tokens"),
            *("window_start", "created_at", "updated_at"),
        ]
        read_only_fields = ["spent_usd", "spent_tokens", "reserved_usd", "reserved_tokens", "window_start"]
        extra_kwargs = {
            "spent_usd": {"help_text": "Since `window_start`."},
            "reserved_usd": {"help_text": "What calls under way may cost at most."},
            "limit_tokens": {"max_value": MOST_TOKENS},
        }

    @extend_schema_field(serializers.DecimalField(max_digits=16, decimal_places=8, allow_null=True))
    def get_left_usd(self, budget: Budget) -> str | None:
        left = budgets.left_of(budget).usd
        return None if left is None else f"{left:.8f}"

    def get_left_tokens(self, budget: Budget) -> int | None:
        return budgets.left_of(budget).tokens

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        named = {name: attrs.pop(name, None) for name in _SUBJECTS}
        if self.instance is not None:
            if not self.partial:
                attrs = {"limit_usd": None, "limit_tokens": None, **attrs}
            return attrs
        given = [name for name, value in named.items() if value is not None]
        if len(given) != 1:
            raise serializers.ValidationError({"user_id": _("Name a user or an API key.")}, "required")
        return {**attrs, "subject_kind": _SUBJECTS[given[0]], "subject_id": named[given[0]]}

    def save(self, **kwargs: Any) -> Budget:
        budget = self.instance or Budget()
        changed = {**self.validated_data, **kwargs}
        for name, value in changed.items():
            setattr(budget, name, value)
        try:
            budgets.check(budget)
        except ValidationError as exc:
            raise InvalidValues(model_errors(exc, {"subject_id": _field_of(budget)})) from exc
        # What is spent and reserved changes meanwhile, and is not written back.
        if self.instance is None:
            budget.save(force_insert=True)
        elif changed:
            budget.save(update_fields=[*changed, "updated_at"])
        self.instance = budget
        return budget


def _field_of(budget: Budget) -> str:
    return next(name for name, kind in _SUBJECTS.items() if kind == budget.subject_kind)


class BudgetFilter(filters.FilterSet):
    user_id = filters.UUIDFilter(method="about")
    api_key_id = filters.UUIDFilter(method="about")

    class Meta:
        model = Budget
        fields = ["user_id", "api_key_id", "period"]

    def about(self, queryset: Any, name: str, value: Any) -> Any:
        return queryset.filter(subject_kind=_SUBJECTS[name], subject_id=value)


class BudgetViewSet(ModelViewSet[Budget]):
    """Limits of what users and API keys may spend, in money and tokens. For admins."""

    noun = "a budget"
    nouns = "budgets"
    read_role = Role.ADMIN
    write_role = Role.ADMIN
    lookup_value_converter = "uuid"
    queryset = budgets.of_people()
    serializer_class = BudgetSerializer
    filterset_class = BudgetFilter
    ordering_fields = ("created_at", "period", "spent_usd", "spent_tokens")
    ordering = "created_at"

    def get_object(self) -> Budget:
        for budget in budgets.current(self.get_queryset().filter(pk=self.kwargs["pk"])):
            return budget
        raise Http404

    def paginate_queryset(self, queryset: Any) -> Any:
        page = super().paginate_queryset(queryset) or []
        fresh = {budget.pk: budget for budget in budgets.current(Budget.objects.filter(pk__in=[b.pk for b in page]))}
        return [fresh[budget.pk] for budget in page if budget.pk in fresh]

    def perform_create(self, serializer: Any) -> None:
        with transaction.atomic():
            serializer.save()

    def perform_update(self, serializer: Any) -> None:
        with transaction.atomic():
            budget = serializer.save()
        budgets.go_on(user=budgets.owner_of(budget), by=person(self.request))

    def perform_destroy(self, instance: Budget) -> None:
        instance.delete()
        budgets.go_on(user=budgets.owner_of(instance), by=person(self.request))


class MyBudgetsView(APIView):
    """Your own budgets, and those of your API keys."""

    read_role = Role.VIEWER
    write_role = Role.USER

    @extend_schema(operation_id="budgets_mine", responses=BudgetSerializer(many=True))
    def get(self, request: Request) -> Response:
        """What limits your runs and calls, and how much of it is used."""
        return Response(BudgetSerializer(budgets.of_person(person(request).pk), many=True).data)


class _MoneySpread(serializers.Serializer[Any]):
    """The middle, and the first and last tenth; with few runs, the smallest and the largest."""

    median = serializers.DecimalField(max_digits=16, decimal_places=8)
    low = serializers.DecimalField(max_digits=16, decimal_places=8)
    high = serializers.DecimalField(max_digits=16, decimal_places=8)

    class Meta:
        ref_name = "MoneySpread"


class _NumberSpread(serializers.Serializer[Any]):
    """The middle, and the first and last tenth; with few runs, the smallest and the largest."""

    median = serializers.FloatField()
    low = serializers.FloatField()
    high = serializers.FloatField()

    class Meta:
        ref_name = "NumberSpread"


class EstimateSerializer(serializers.Serializer[Any]):
    """What a run of the crew will probably take. Null: not known yet."""

    runs = serializers.IntegerField(help_text="So many completed runs it was learnt from.")
    is_known = serializers.BooleanField()
    cost_usd = _MoneySpread(allow_null=True)
    tokens = _NumberSpread(allow_null=True)
    seconds = _NumberSpread(allow_null=True, help_text="At work: neither in the queue nor waiting for people.")


class EstimateView(APIView):
    """The estimate of a crew."""

    read_role = Role.VIEWER
    write_role = Role.USER

    @extend_schema(operation_id="crews_estimate", responses=EstimateSerializer)
    def get(self, request: Request, crew_id: str) -> Response:
        """What a run will probably cost and how long it will take, from the crew's completed runs that you may see."""
        user = person(request)
        crew = find(Crew.objects.all(), user, Action.SEE, pk=crew_id)
        return Response(EstimateSerializer(estimates.of(crew, user)).data)
