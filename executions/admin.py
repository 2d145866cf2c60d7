"""Runs in Django admin: to look at. They are started, stopped and deleted on their pages and through the API."""

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.widgets import AutocompleteSelect
from django.db.models import CharField, OuterRef, Subquery, Value
from django.db.models.functions import Coalesce, Concat
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin
from unfold.widgets import UnfoldAdminSelectWidget

from executions import budgets
from executions.models import Attempt, Budget, Execution, ExecutionEvent, LLMCall, TaskRun, ToolCall, Worker
from portal.accounts.models import ApiKey, User
from portal.lib.admin import ReadOnlyAdmin, ReadOnlyInline


class TaskRunInline(ReadOnlyInline):
    model = TaskRun
    fields = ["name", "role", "status", "attempt", "started_at", "ended_at"]
    show_change_link = False


class AttemptInline(ReadOnlyInline):
    model = Attempt
    fields = ["number", "worker", "started_at", "ended_at", "outcome"]
    show_change_link = False


@admin.register(Execution)
class ExecutionAdmin(ReadOnlyAdmin):
    list_display = ["name", "status", "created_by", "created_at", "ended_at", "llm_calls_count", "cost_usd"]
    list_filter = ["status", "engine", "trigger", "error_code"]
    list_select_related = ["created_by"]
    search_fields = ["name", "=id"]
    date_hierarchy = "created_at"
    inlines = [TaskRunInline, AttemptInline]
    fieldsets = [
        (None, {"fields": ["name", "status", "crew", "engine", "created_by", "trigger", "priority"]}),
        (_("Course"), {"fields": ["created_at", "started_at", "ended_at", "attempt", "error_code", "error_message"]}),
        (
            _("Usage"),
            {"fields": ["llm_calls_count", "prompt_tokens", "completion_tokens", "cost_usd", "unpriced_calls"]},
        ),
        (_("In detail"), {"fields": ["events_link", "llm_calls_link", "tool_calls_link", "inputs", "snapshot"]}),
        (_("Result"), {"fields": ["final_output"]}),
    ]
    readonly_fields = ["events_link", "llm_calls_link", "tool_calls_link"]

    @admin.display(description=_("events"))
    def events_link(self, execution: Execution) -> str:
        return _list_link("executionevent", _("events"), stream__id__exact=execution.stream_id)

    @admin.display(description=_("LLM calls"))
    def llm_calls_link(self, execution: Execution) -> str:
        return _list_link("llmcall", _("LLM calls"), execution__id__exact=execution.pk)

    @admin.display(description=_("tool calls"))
    def tool_calls_link(self, execution: Execution) -> str:
        return _list_link("toolcall", _("tool calls"), execution__id__exact=execution.pk)


def _list_link(model: str, label: Any, **query: Any) -> str:
    address = reverse(f"admin:executions_{model}_changelist", query=query)
    return format_html('<a href="{}">{}</a>', address, label)


@admin.register(ExecutionEvent)
class ExecutionEventAdmin(ReadOnlyAdmin):
    list_display = ["seq", "type", "at", "attempt", "role", "stream"]
    list_filter = ["type"]
    search_fields = ["=stream__id"]
    ordering = ["-id"]


@admin.register(LLMCall)
class LLMCallAdmin(ReadOnlyAdmin):
    list_display = ["model", "status", "user", "role", "prompt_tokens", "completion_tokens", "cost_usd", "opened_at"]
    list_filter = ["status", "model", "provider", "error_code"]
    list_select_related = ["user"]
    search_fields = ["=execution__id", "=call_id"]
    date_hierarchy = "opened_at"
    ordering = ["-id"]


@admin.register(ToolCall)
class ToolCallAdmin(ReadOnlyAdmin):
    list_display = ["tool", "is_ok", "role", "latency_ms", "at"]
    list_filter = ["tool", "is_ok"]
    search_fields = ["=execution__id"]
    ordering = ["-id"]


class BudgetForm(forms.ModelForm):
    """A budget is for a user, who is picked by name, or for an API key."""

    subject_id = forms.ModelChoiceField(
        User.objects.all(),
        label=_("user"),
        required=False,
        # Searches users as a field that points to one does.
        widget=AutocompleteSelect(Execution._meta.get_field("created_by"), admin.site),
    )
    api_key = forms.ModelChoiceField(
        ApiKey.objects.filter(revoked_at=None).select_related("user"),
        label=_("API key"),
        required=False,
        widget=UnfoldAdminSelectWidget,
        help_text=_("Instead of a user: for what is done with this key."),
    )

    class Meta:
        model = Budget
        fields = ["subject_id", "period", "limit_usd", "limit_tokens"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.instance._state.adding:
            del self.fields["subject_id"], self.fields["api_key"]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if not self.instance._state.adding:
            return cleaned
        user: Any = cleaned.get("subject_id")
        key: Any = cleaned.get("api_key")
        if bool(user) == bool(key):
            raise forms.ValidationError(_("Name a user or an API key."), code="required")
        self.instance.subject_kind = Budget.Subject.USER if user else Budget.Subject.API_KEY
        return {**cleaned, "subject_id": user.pk if user else key.pk}

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if self.errors:
            return
        try:
            budgets.check(self.instance)
        except forms.ValidationError as exc:
            self.add_error(None, exc)


class SubjectFilter(admin.SimpleListFilter):
    """Whose they are: those of projects stand on the projects' pages."""

    title = _("kind")
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return [(kind.value, kind.label) for kind in (Budget.Subject.USER, Budget.Subject.API_KEY)]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset.filter(subject_kind=self.value()) if self.value() else queryset


@admin.register(Budget)
class BudgetAdmin(ModelAdmin):
    """What users and API keys may spend. Whose it is stays as it was given."""

    form = BudgetForm
    list_display = ["whose", "period", "limit_usd", "spent_usd", "limit_tokens", "spent_tokens"]
    list_filter = ["period", SubjectFilter]
    fields = ["subject_id", "api_key", "period", "limit_usd", "limit_tokens"]
    counted = ["spent_usd", "reserved_usd", "spent_tokens", "reserved_tokens", "window_start"]

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ["whose", *self.fields[2:], *self.counted] if obj else self.fields

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ["whose", *self.counted] if obj else []

    def get_queryset(self, request: HttpRequest) -> Any:
        user = User.objects.filter(pk=OuterRef("subject_id")).values("username")[:1]
        keys = ApiKey.objects.filter(pk=OuterRef("subject_id"))
        said = Concat("user__username", Value(": "), "name", Value(" (ap_"), "prefix", Value("…)"))
        name = Coalesce(Subquery(user), Subquery(keys.values(said=said)[:1], output_field=CharField()))
        given = super().get_queryset(request).exclude(subject_kind=Budget.Subject.ACCESS)  # those stand on projects
        return given.annotate(username=name)

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> Any:
        if search_term:
            queryset = queryset.filter(username__icontains=search_term)
        return queryset, False

    @admin.display(description=_("for"), ordering="username")
    def whose(self, budget: Budget) -> str:
        return str(getattr(budget, "username", None) or _("(deleted)"))

    def save_model(self, request: HttpRequest, obj: Budget, form: Any, change: bool) -> None:
        # What is spent and reserved changes meanwhile, and is not written back.
        obj.save(update_fields=[*form.changed_data, "updated_at"] if change else None)
        budgets.go_on(user=budgets.owner_of(obj), by=request.user)  # type: ignore[arg-type]


@admin.register(Worker)
class WorkerAdmin(ReadOnlyAdmin):
    list_display = ["name", "started_at", "seen_at", "max_runs", "is_draining", "isolation"]
