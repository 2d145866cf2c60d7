"""The append-only event log."""

import uuid

from django.db import models


class EventStream(models.Model):
    """The history of one execution (or project): its events are numbered from 1 without gaps.

    Only `executions.events.append` writes `last_seq`.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    last_seq = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return str(self.id)


class ExecutionEvent(models.Model):
    """One line of a stream's history. Rows are only ever added, by `executions.events.append`."""

    id = models.BigAutoField(primary_key=True)
    stream = models.ForeignKey(EventStream, on_delete=models.CASCADE, related_name="events", db_index=False)
    seq = models.BigIntegerField()
    type = models.CharField(max_length=40)
    at = models.DateTimeField()
    attempt = models.PositiveIntegerField(default=0)
    task = models.CharField(max_length=40, blank=True)
    role = models.CharField(max_length=200, blank=True)
    data = models.JSONField(default=dict)

    class Meta:
        ordering = ["stream", "seq"]
        constraints = [
            # Also the index that every reader uses.
            models.UniqueConstraint(fields=["stream", "seq"], name="event_seq_is_unique"),
            models.CheckConstraint(condition=models.Q(seq__gte=1), name="event_seq_counts_from_one"),
        ]

    def __str__(self) -> str:
        return f"{self.seq} {self.type}"
