"""Runs in Django admin: to look at. They are started, stopped and deleted on their pages and through the API."""

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.widgets import AutocompleteSelect
from django.db.models import OuterRef, Subquery
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin

from executions import budgets
from executions.models import Attempt, Budget, Execution, ExecutionEvent, LLMCall, TaskRun, ToolCall, Worker
from portal.accounts.models import User
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
    list_display = ["model", "status", "role", "prompt_tokens", "completion_tokens", "cost_usd", "opened_at"]
    list_filter = ["status", "model", "provider", "error_code"]
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
    """A budget's user is picked by name."""

    subject_id = forms.ModelChoiceField(
        User.objects.all(),
        label=_("user"),
        # Searches users as a field that points to one does.
        widget=AutocompleteSelect(Execution._meta.get_field("created_by"), admin.site),
    )

    class Meta:
        model = Budget
        fields = ["subject_id", "period", "limit_usd", "limit_tokens"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.instance._state.adding:
            del self.fields["subject_id"]

    def clean_subject_id(self) -> Any:
        return self.cleaned_data["subject_id"].pk

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if self.errors:
            return
        try:
            budgets.check(self.instance)
        except forms.ValidationError as exc:
            self.add_error(None, exc)


@admin.register(Budget)
class BudgetAdmin(ModelAdmin):
    """What users may spend. Whose it is stays as it was given."""

    form = BudgetForm
    list_display = ["user", "period", "limit_usd", "spent_usd", "limit_tokens", "spent_tokens"]
    list_filter = ["period"]
    fields = ["subject_id", "period", "limit_usd", "limit_tokens"]
    counted = ["spent_usd", "reserved_usd", "spent_tokens", "reserved_tokens", "window_start"]

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ["user", *self.fields[1:], *self.counted] if obj else self.fields

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ["user", *self.counted] if obj else []

    def get_queryset(self, request: HttpRequest) -> Any:
        name = Subquery(User.objects.filter(pk=OuterRef("subject_id")).values("username")[:1])
        return super().get_queryset(request).annotate(username=name)

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> Any:
        if search_term:
            queryset = queryset.filter(username__icontains=search_term)
        return queryset, False

    @admin.display(description=_("user"), ordering="username")
    def user(self, budget: Budget) -> str:
        return str(getattr(budget, "username", None) or _("(deleted)"))

    def save_model(self, request: HttpRequest, obj: Budget, form: Any, change: bool) -> None:
        # What is spent and reserved changes meanwhile, and is not written back.
        obj.save(update_fields=[*form.changed_data, "updated_at"] if change else None)
        budgets.go_on(user=obj.subject_id, by=request.user)  # type: ignore[arg-type]


@admin.register(Worker)
class WorkerAdmin(ReadOnlyAdmin):
    list_display = ["name", "started_at", "seen_at", "max_runs", "is_draining", "isolation"]
