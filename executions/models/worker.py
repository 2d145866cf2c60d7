"""Which runners are alive."""

from datetime import timedelta
from typing import Self

from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

SEEN_WITHIN = timedelta(seconds=30)


class WorkerQuerySet(models.QuerySet["Worker"]):
    def alive(self) -> Self:
        """Runners that were heard of lately, by the database's clock."""
        return self.filter(seen_at__gt=Now() - SEEN_WITHIN)


class Worker(models.Model):
    """A runner's sign of life: one row a machine, renewed every few seconds."""

    name = models.CharField(_("name"), primary_key=True, max_length=200)
    started_at = models.DateTimeField(_("started"))
    seen_at = models.DateTimeField(_("seen"))
    max_runs = models.PositiveIntegerField(_("runs at once"))
    isolation = models.CharField(_("isolation"), max_length=20, blank=True)
    engines = models.JSONField(_("engines"), default=dict)
    is_draining = models.BooleanField(
        _("drains"), default=False, help_text=_("Finishes what it carries and takes nothing new.")
    )

    objects = WorkerQuerySet.as_manager()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class GatewayInstance(models.Model):
    """One life of a gateway process: what it has open (calls, journal entries) is held while its lease lasts.

    A process that starts again is another instance, so what its earlier life left open is known at once.
    """

    instance = models.CharField(primary_key=True, max_length=255)
    name = models.CharField(max_length=255, db_index=True, help_text=_("Host and port, the same in every life."))
    started_at = models.DateTimeField()
    lease_until = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return self.instance
