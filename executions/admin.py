"""Runs in Django admin: to look at. They are started, stopped and deleted on their pages and through the API."""

from typing import Any

from django.contrib import admin
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from executions.models import Attempt, Execution, ExecutionEvent, LLMCall, TaskRun, ToolCall, Worker
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


@admin.register(Worker)
class WorkerAdmin(ReadOnlyAdmin):
    list_display = ["name", "started_at", "seen_at", "max_runs", "isolation"]
