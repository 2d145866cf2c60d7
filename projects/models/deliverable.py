"""What stages produce: versioned documents and code bundles, comments on them, and who looked at them."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from executions.models import Execution
from projects.models.project import Project
from projects.models.stage import Stage


class Deliverable(models.Model):
    """One version of a document or code bundle. A change makes a new version of the same `lineage`.

    What it holds never changes once it is stored; `sha256` is over its content and files, and an approval
    binds to it. Text stands in `content` (Markdown), the files of a code bundle in `DeliverableFile` rows, and
    what was uploaded (PDF, image) in `upload`.
    """

    # What lists do not show, however long it is.
    HEAVY = ("content", "prompt", "search_text", "metadata", "review_comments")

    class Type(models.TextChoices):
        REQUIREMENT = "requirement", _("Requirements")
        DESIGN_DOC = "design_doc", _("Design")
        UI_WIREFRAME = "ui_wireframe", _("UI wireframe")
        API_SPEC = "api_spec", _("API specification")
        ARCHITECTURE = "architecture", _("Architecture")
        TASK_PLAN = "task_plan", _("Task plan")
        CODE = "code", _("Code")
        TEST_PLAN = "test_plan", _("Test plan")
        REPORT = "report", _("Report")
        DOCUMENT = "document", _("Document")
        PLAN = "plan", _("Plan")

    class FileType(models.TextChoices):
        MARKDOWN = "markdown", "Markdown"
        PDF = "pdf", "PDF"
        IMAGE = "image", _("Image")
        CODE = "code", _("Code")
        JSON = "json", "JSON"

    class Status(models.TextChoices):
        DRAFT = "draft", _("Draft")
        REVIEW = "review", _("In review")
        APPROVED = "approved", pgettext_lazy("deliverable", "Approved")
        REJECTED = "rejected", pgettext_lazy("deliverable", "Sent back")

        @property
        def tone(self) -> str:
            return {"draft": "neutral", "review": "warning", "approved": "success", "rejected": "danger"}[self.value]

        @property
        def icon(self) -> str:
            return {"draft": "pencil", "review": "user-round", "approved": "check", "rejected": "undo-2"}[self.value]

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="deliverables")
    stage = models.ForeignKey(Stage, on_delete=models.CASCADE, related_name="deliverables")
    deliverable_type = models.CharField(_("type"), max_length=20, choices=Type.choices)
    title = models.CharField(_("title"), max_length=200)
    description = models.TextField(_("description"), blank=True)
    content = models.TextField(_("content"), blank=True)
    upload = models.FileField(upload_to="deliverables/", blank=True)
    file_type = models.CharField(_("file type"), max_length=10, choices=FileType.choices, default=FileType.MARKDOWN)
    file_size = models.PositiveBigIntegerField(_("size, bytes"), default=0)
    sha256 = models.CharField(max_length=64, editable=False)
    lineage = models.UUIDField(default=uuid.uuid4, editable=False)
    version = models.CharField(_("version"), max_length=20, default="1.0", editable=False)
    is_latest = models.BooleanField(default=True, editable=False)
    parent_deliverable = models.ForeignKey(
        "self", on_delete=models.SET_NULL, null=True, blank=True, related_name="children", editable=False
    )
    status = models.CharField(_("status"), max_length=10, choices=Status.choices, default=Status.DRAFT)
    created_by_role = models.CharField(_("made by role"), max_length=100, blank=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+",
        help_text=_("Who wrote this version by hand; empty when a role did."),
    )  # fmt: skip
    reviewed_by_role = models.CharField(_("reviewed by role"), max_length=100, blank=True)
    approved_by_role = models.CharField(_("approved by role"), max_length=100, blank=True)
    review_comments = models.TextField(_("review comments"), blank=True)
    tags = models.JSONField(_("tags"), default=list, blank=True)
    metadata = models.JSONField(default=dict, blank=True)
    # Who made it: the run, the model of its role then, and what the role was asked.
    execution = models.ForeignKey(
        Execution, on_delete=models.SET_NULL, null=True, blank=True, related_name="deliverables"
    )
    llm_model = models.CharField(_("LLM model"), max_length=100, blank=True)
    prompt = models.TextField(_("prompt"), blank=True)
    search_text = models.TextField(editable=False, blank=True, help_text=_("Its words as search looks for them."))
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        db_table = "project_deliverables"
        ordering = ["-created_at", "-id"]
        indexes = [
            models.Index(fields=["project", "-created_at", "-id"], name="deliverables_by_project"),
            models.Index(fields=["project", "deliverable_type", "is_latest"], name="deliverables_by_type"),
            models.Index(fields=["stage", "-created_at", "-id"], name="deliverables_by_stage"),
            models.Index(fields=["lineage", "-created_at"], name="deliverables_by_lineage"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["lineage", "version"], name="versions_of_a_lineage_differ"),
            models.UniqueConstraint(fields=["lineage"], condition=Q(is_latest=True), name="one_latest_a_lineage"),
            models.CheckConstraint(
                condition=Q(status__in=["draft", "review", "approved", "rejected"]), name="deliverable_status_is_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.title} {self.version}"

    def get_absolute_url(self) -> str:
        return reverse("projects:deliverable-detail", args=[self.pk])


class DeliverableFile(models.Model):
    """One text file of a code bundle; `path` is relative, with forward slashes."""

    id = models.BigAutoField(primary_key=True)
    deliverable = models.ForeignKey(Deliverable, on_delete=models.CASCADE, related_name="files")
    path = models.CharField(max_length=250)
    content = models.TextField(blank=True)
    size = models.PositiveIntegerField(default=0)

    class Meta:
        db_table = "project_deliverable_files"
        ordering = ["path"]
        constraints = [models.UniqueConstraint(fields=["deliverable", "path"], name="paths_of_a_bundle_differ")]

    def __str__(self) -> str:
        return self.path


class Comment(models.Model):
    """What a person says about a version."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    deliverable = models.ForeignKey(Deliverable, on_delete=models.CASCADE, related_name="comments")
    author = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    text = models.TextField(_("comment"), max_length=10_000)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "project_deliverable_comments"
        ordering = ["created_at", "id"]

    def __str__(self) -> str:
        return self.text[:50]


class DeliverableAccess(models.Model):
    """One line of the access log: who (or which role's run) read, edited, downloaded or shared a deliverable.

    Rows are only added. `accessed_by_role` is a label; it grants nothing.
    """

    class Kind(models.TextChoices):
        READ = "read", _("Read")
        EDIT = "edit", _("Edit")
        DOWNLOAD = "download", _("Download")
        SHARE = "share", _("Share")

    id = models.BigAutoField(primary_key=True)
    deliverable = models.ForeignKey(Deliverable, on_delete=models.CASCADE, related_name="accesses", db_index=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="accesses", db_index=False)
    accessed_by_role = models.CharField(_("role"), max_length=100, blank=True)
    accessed_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    access_type = models.CharField(_("access"), max_length=10, choices=Kind.choices)
    access_details = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "deliverable_access_log"
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["deliverable", "-id"], name="accesses_by_deliverable"),
            models.Index(fields=["project", "-id"], name="accesses_by_project"),
        ]

    def __str__(self) -> str:
        return f"{self.access_type} {self.deliverable_id}"
