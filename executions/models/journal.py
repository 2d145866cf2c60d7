"""The journal: what models and tools have answered, so that no answer is paid for twice."""

import uuid

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _


class JournalEntry(models.Model):
    """One request of an execution and its answer.

    A request is told by its task, its canonical form (`request_hash`, SHA-256) and its ordinal among
    equal ones. An entry is `open` while `holder`, an instance of a gateway, carries the request out;
    `done` once the answer is here; `lost` when its holder died or the request failed: then whoever
    asks next carries it out.
    """

    class Kind(models.TextChoices):
        LLM = "llm", _("Model")
        TOOL = "tool", _("Tool")

    class State(models.TextChoices):
        OPEN = "open", _("Under way")
        DONE = "done", _("Answered")
        LOST = "lost", _("Lost")

    id = models.BigAutoField(primary_key=True)
    execution = models.ForeignKey(
        "executions.Execution", on_delete=models.CASCADE, related_name="journal", db_index=False
    )
    kind = models.CharField(max_length=4, choices=Kind.choices, default=Kind.LLM)
    task = models.CharField(max_length=40, blank=True)
    request_hash = models.CharField(max_length=64)
    ordinal = models.PositiveIntegerField(default=0)
    state = models.CharField(max_length=4, choices=State.choices, default=State.OPEN)
    holder = models.CharField(max_length=255, help_text=_("The gateway instance that carries it out."))
    attempt = models.PositiveIntegerField(help_text=_("That made the request first."))
    role = models.CharField(max_length=40, blank=True, help_text=_("The agent's key."))
    model = models.CharField(max_length=100, blank=True, help_text=_("The catalog id that answered, or the tool."))
    call_id = models.UUIDField(default=uuid.uuid4)
    answer = models.JSONField(null=True)
    opened_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["id"]
        indexes = [models.Index(fields=["holder"], condition=Q(state="open"), name="journal_open")]
        constraints = [
            models.UniqueConstraint(
                fields=["execution", "kind", "task", "request_hash", "ordinal"], name="one_journal_entry_a_request"
            ),
            models.CheckConstraint(
                condition=Q(state="done", answer__isnull=False) | (~Q(state="done") & Q(answer__isnull=True)),
                name="journal_answer_when_done",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.request_hash[:8]} {self.state}"
