"""Limits in money and tokens that hold over many runs."""

import uuid

from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

MOST_TOKENS = 2**53 - 1  # of a limit: what JSON keeps exactly everywhere


class Budget(models.Model):
    """What a subject may spend in a period, at most; the gateway reserves from it before every call.

    `spent` and `reserved` count since `window_start`. An execution's own limit stands on the execution.
    """

    class Subject(models.TextChoices):
        """`ACCESS`: what an access list guards together, all runs of a project that is."""

        USER = "user", _("User")
        API_KEY = "api_key", _("API key")
        ACCESS = "access", _("Project")

    class Period(models.TextChoices):
        TOTAL = "total", _("In all")
        DAY = "day", _("A day")
        MONTH = "month", _("A month")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    subject_kind = models.CharField(_("for"), max_length=10, choices=Subject.choices, default=Subject.USER)
    subject_id = models.UUIDField(_("whom"))
    period = models.CharField(_("period"), max_length=10, choices=Period.choices, default=Period.TOTAL)
    limit_usd = models.DecimalField(_("limit, US$"), max_digits=12, decimal_places=6, null=True, blank=True)
    limit_tokens = models.PositiveBigIntegerField(_("limit, tokens"), null=True, blank=True)
    spent_usd = models.DecimalField(_("spent, US$"), default=0, max_digits=16, decimal_places=8)
    spent_tokens = models.PositiveBigIntegerField(_("spent, tokens"), default=0)
    reserved_usd = models.DecimalField(default=0, max_digits=16, decimal_places=8)
    reserved_tokens = models.PositiveBigIntegerField(default=0)
    window_start = models.DateTimeField(default=timezone.now)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["created_at", "id"]
        constraints = [
            models.UniqueConstraint(fields=["subject_kind", "subject_id", "period"], name="one_budget_a_period"),
            models.CheckConstraint(
                condition=Q(limit_usd__isnull=False) | Q(limit_tokens__isnull=False), name="budget_limits_something"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.subject_kind} {self.subject_id} ({self.period})"

    @property
    def user_id(self) -> uuid.UUID | None:
        """The user whom it limits; None where it is about something else."""
        return self.subject_id if self.subject_kind == self.Subject.USER else None

    @property
    def api_key_id(self) -> uuid.UUID | None:
        """The API key that it limits; None where it is about something else."""
        return self.subject_id if self.subject_kind == self.Subject.API_KEY else None
