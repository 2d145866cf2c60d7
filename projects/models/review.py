"""Decisions about deliverables, and who beside the editors may make them."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from projects.models.deliverable import Deliverable
from projects.models.stage import Stage


class Review(models.Model):
    """One person's decision about one version. It binds to the version's SHA-256 and never changes."""

    class Decision(models.TextChoices):
        APPROVED = "approved", _("Approved")
        REJECTED = "rejected", _("Sent back")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    deliverable = models.ForeignKey(Deliverable, on_delete=models.CASCADE, related_name="reviews")
    reviewer = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    role = models.CharField(_("as"), max_length=100, blank=True, help_text=_("The role that the reviewer names."))
    decision = models.CharField(_("decision"), max_length=10, choices=Decision.choices)
    comments = models.TextField(_("comments"), blank=True)
    sha256 = models.CharField(max_length=64)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "project_reviews"
        ordering = ["created_at", "id"]
        constraints = [
            models.UniqueConstraint(fields=["deliverable", "reviewer"], name="one_review_a_person_and_version"),
            models.CheckConstraint(condition=Q(decision__in=["approved", "rejected"]), name="review_decision_is_known"),
        ]

    def __str__(self) -> str:
        return f"{self.decision} {self.deliverable_id}"


class Approver(models.Model):
    """A person who may review a stage though they may only see the project; or who stands in for somebody."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    stage = models.ForeignKey(Stage, on_delete=models.CASCADE, related_name="approvers")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    delegated_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    is_escalation = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "project_stage_approvers"
        ordering = ["created_at", "id"]
        constraints = [models.UniqueConstraint(fields=["stage", "user"], name="one_approver_row_a_person")]

    def __str__(self) -> str:
        return f"{self.user}"
