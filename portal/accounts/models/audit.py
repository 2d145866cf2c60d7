"""The audit log: who did what, chained so that no row can be changed or taken away unseen."""

import uuid

from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class AuditEntry(models.Model):
    """One thing that somebody did, or was refused.

    Written in the transaction of the change, still without a number but with a `mac`, an HMAC over
    what it says; the one appender then gives it the next `number` and seals it: `digest` is an HMAC
    over the row and the digest of the one before. Names are kept as text, so that a row outlives whom
    and what it tells of. Rows are never changed after they were sealed, and never deleted. How:
    `portal.accounts.audit.sealing`.
    """

    class Outcome(models.TextChoices):
        DONE = "done", _("Done")
        REFUSED = "refused", _("Refused")
        FAILED = "failed", _("Failed")

    id = models.BigAutoField(primary_key=True)
    uid = models.UUIDField(default=uuid.uuid4, unique=True, help_text=_("A row that was put in again has it twice."))
    number = models.PositiveBigIntegerField(null=True, unique=True)
    at = models.DateTimeField(default=timezone.now)
    action = models.CharField(_("action"), max_length=60, help_text="user.signed_in, crew.changed, …")
    outcome = models.CharField(_("outcome"), max_length=10, choices=Outcome.choices, default=Outcome.DONE)
    count = models.PositiveIntegerField(default=1, help_text=_("Alike refusals of one minute stand in one row."))
    actor_id = models.UUIDField(null=True)
    actor_name = models.CharField(_("who"), max_length=150, blank=True)
    credential = models.CharField(
        max_length=100, blank=True, help_text=_("session, api_key:ap_…, bearer, link, command")
    )
    address = models.GenericIPAddressField(_("from"), null=True)
    user_agent = models.CharField(max_length=300, blank=True)
    target_kind = models.CharField(_("on what"), max_length=40, blank=True)
    target_id = models.CharField(max_length=100, blank=True)
    target_name = models.CharField(max_length=200, blank=True)
    before = models.JSONField(default=dict)
    after = models.JSONField(default=dict)
    alike = models.CharField(
        max_length=64,
        null=True,
        blank=True,
        unique=True,
        help_text=_("Which refusals of which minute are summed up here."),
    )
    mac = models.CharField(max_length=64, help_text=_("HMAC over what it says, from the moment it was written."))
    digest = models.CharField(max_length=64, blank=True)

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "audit entries"
        indexes = [
            models.Index(fields=["at", "id"]),
            models.Index(fields=["actor_id", "id"]),
            models.Index(fields=["action", "id"]),
            models.Index(fields=["target_kind", "target_id", "id"]),
            models.Index(fields=["id"], condition=Q(number__isnull=True), name="audit_not_sealed"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(number__isnull=True, digest="") | (Q(number__isnull=False) & ~Q(digest="")),
                name="audit_sealed_with_a_number",
            ),
            models.CheckConstraint(condition=Q(count__gt=0), name="audit_counts_something"),
        ]

    def __str__(self) -> str:
        return f"{self.number or '–'} {self.action}"


class AuditHead(models.Model):
    """The end of the chain. One row; whoever holds its lock is the appender."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    number = models.PositiveBigIntegerField(default=0)
    digest = models.CharField(max_length=64, blank=True)
    chain_id = models.UUIDField(default=uuid.uuid4, help_text=_("Tells this chain from another database's."))

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="one_audit_head")]

    def __str__(self) -> str:
        return str(self.number)
