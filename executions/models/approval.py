"""Questions to people: what a run waits for until somebody has decided."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy


class Approval(models.Model):
    """One question about one piece of work. Decided once; the decision never changes.

    `output` is the work as the agent gave it, `text` what was approved instead where a person edited
    it, `feedback` what a rejection asks for. `round` counts the questions about the same task from 1.
    """

    class Status(models.TextChoices):
        OPEN = "open", pgettext_lazy("question", "Open")
        APPROVED = "approved", _("Approved")
        EDITED = "edited", _("Approved with edits")
        REJECTED = "rejected", _("Sent back")
        EXPIRED = "expired", _("Expired")
        CANCELLED = "cancelled", _("Cancelled")

        @property
        def tone(self) -> str:
            return {"open": "warning", "approved": "success", "edited": "success", "rejected": "danger"}.get(
                self.value, "neutral"
            )

        @property
        def icon(self) -> str:
            return {"open": "user-round", "approved": "check", "edited": "pencil", "rejected": "undo-2"}.get(
                self.value, "square"
            )

    class Via(models.TextChoices):
        PORTAL = "portal", _("In the portal")
        API = "api", _("Through the API")
        LINK = "link", _("By a signed link")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    execution = models.ForeignKey(
        "executions.Execution", on_delete=models.CASCADE, related_name="approvals", db_index=False
    )
    task = models.CharField(max_length=40, help_text=_("The task's key in the RunSpec."))
    name = models.CharField(_("name"), max_length=200)
    role = models.CharField(_("role"), max_length=200, blank=True)
    attempt = models.PositiveIntegerField(default=0)
    round = models.PositiveIntegerField(_("round"), default=1)
    status = models.CharField(_("status"), max_length=10, choices=Status.choices, default=Status.OPEN)
    output = models.TextField(_("work"))
    text = models.TextField(_("edited text"), blank=True)
    feedback = models.TextField(_("feedback"), blank=True)
    requested_at = models.DateTimeField(_("asked"))
    remind_at = models.DateTimeField(_("next reminder"), null=True)
    expires_at = models.DateTimeField(_("expires"), null=True)
    answered_at = models.DateTimeField(_("answered"), null=True)
    answered_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+", verbose_name=_("answered by")
    )
    answered_via = models.CharField(_("answered"), max_length=10, choices=Via.choices, blank=True)

    class Meta:
        ordering = ["-requested_at", "-id"]
        indexes = [
            models.Index(fields=["execution", "requested_at"]),
            models.Index(fields=["-requested_at", "-id"], name="approvals_by_age"),
            models.Index(fields=["-requested_at", "-id"], condition=Q(status="open"), name="approvals_open"),
            models.Index(fields=["expires_at"], condition=Q(status="open"), name="approvals_expiring"),
            models.Index(fields=["remind_at"], condition=Q(status="open"), name="approvals_to_remind"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(status="open", answered_at__isnull=True)
                | (~Q(status="open") & Q(answered_at__isnull=False)),
                name="approval_answered_when_not_open",
            ),
            models.UniqueConstraint(fields=["execution", "task", "round"], name="approval_rounds_differ"),
            models.UniqueConstraint(
                fields=["execution", "task"], condition=Q(status="open"), name="one_open_approval_a_task"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.round})"

    @property
    def result(self) -> str:
        """The text that was approved."""
        return self.text if self.status == self.Status.EDITED else self.output
