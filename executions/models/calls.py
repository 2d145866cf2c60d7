"""The ledger: every request to a model and every call of a tool, with what it cost.

Rows are written by the gateway alone and outlive the execution they belong to.
"""

import uuid
from decimal import Decimal

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from executions.errors import ErrorCode


class LLMCall(models.Model):
    """One upstream request. `call_id` groups the tries (retries, fallbacks) of one gateway request."""

    class Status(models.TextChoices):
        OPEN = "open", _("Under way")
        COMPLETED = "completed", _("Completed")
        FAILED = "failed", _("Failed")
        CANCELLED = "cancelled", _("Cancelled")

    id = models.BigAutoField(primary_key=True)
    call_id = models.UUIDField(default=uuid.uuid4)
    try_number = models.PositiveSmallIntegerField(default=1)
    execution = models.ForeignKey(
        "executions.Execution", on_delete=models.SET_NULL, null=True, related_name="llm_calls", db_index=False
    )
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    api_key = models.ForeignKey("accounts.ApiKey", on_delete=models.SET_NULL, null=True, related_name="+")
    attempt = models.PositiveIntegerField(default=0)
    task = models.CharField(max_length=40, blank=True)
    role = models.CharField(max_length=200, blank=True)
    model = models.CharField(max_length=100, help_text=_("Catalog id; text, so that the row outlives the model."))
    provider = models.CharField(max_length=100)
    gateway = models.CharField(max_length=255, blank=True, help_text=_("The process that carries it out."))
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.OPEN)
    error_code = models.CharField(max_length=20, choices=ErrorCode.choices, blank=True)
    error_detail = models.CharField(max_length=500, blank=True)
    http_status = models.PositiveSmallIntegerField(null=True)
    streamed = models.BooleanField(default=False)
    prompt_tokens = models.PositiveIntegerField(default=0)
    completion_tokens = models.PositiveIntegerField(default=0)
    is_estimated = models.BooleanField(default=False, help_text=_("Tokens were counted here, not by the provider."))
    cost_usd = models.DecimalField(
        null=True, max_digits=16, decimal_places=8, help_text=_("Empty: the model had no price then.")
    )
    # What the call may cost at most: held on the execution and on `budgets` (ids) until it is settled.
    reserved_usd = models.DecimalField(default=0, max_digits=16, decimal_places=8)
    reserved_tokens = models.PositiveBigIntegerField(default=0)
    budgets = models.JSONField(default=list)
    queue_ms = models.PositiveIntegerField(default=0)
    first_token_ms = models.PositiveIntegerField(null=True)
    latency_ms = models.PositiveIntegerField(null=True)
    text = models.TextField(blank=True, help_text=_("The answer so far; saved at most once a second and at the end."))
    opened_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["id"]
        indexes = [
            models.Index(fields=["execution", "id"]),
            models.Index(fields=["model", "opened_at"]),
            models.Index(fields=["opened_at"]),
            models.Index(fields=["gateway"], condition=Q(status="open"), name="llm_calls_open"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(status="open", closed_at__isnull=True) | (~Q(status="open") & Q(closed_at__isnull=False)),
                name="llm_call_closed_when_not_open",
            )
        ]

    def __str__(self) -> str:
        return f"{self.model} {self.status}"


class ToolCall(models.Model):
    """One call of a tool, carried out by the gateway."""

    id = models.BigAutoField(primary_key=True)
    execution = models.ForeignKey(
        "executions.Execution", on_delete=models.SET_NULL, null=True, related_name="tool_calls"
    )
    attempt = models.PositiveIntegerField(default=0)
    task = models.CharField(max_length=40, blank=True)
    role = models.CharField(max_length=200, blank=True)
    tool = models.CharField(max_length=64)
    arguments = models.JSONField(default=dict)
    result = models.TextField(blank=True)
    is_ok = models.BooleanField(default=False)
    latency_ms = models.PositiveIntegerField(default=0)
    at = models.DateTimeField()

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return self.tool


def cost_of(
    prompt_tokens: int, completion_tokens: int, price_in: Decimal | None, price_out: Decimal | None
) -> Decimal | None:
    """What a call costs in US$ at prices per million tokens; None when the model has no price."""
    if price_in is None or price_out is None:
        return None
    return (price_in * prompt_tokens + price_out * completion_tokens) / 1_000_000
