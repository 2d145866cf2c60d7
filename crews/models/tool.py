"""What an agent may call."""

import uuid

from django.core.validators import RegexValidator
from django.db import models
from django.utils.translation import gettext_lazy as _


class Tool(models.Model):
    """Something an agent may call by name. The gateway carries the call out, never the engine."""

    class Kind(models.TextChoices):
        BUILTIN = "builtin", _("Built in")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(_("name"), max_length=64, unique=True, validators=[RegexValidator(r"^[a-z][a-z0-9_]*$")])
    description = models.TextField(_("description"), blank=True)
    kind = models.CharField(_("kind"), max_length=10, choices=Kind.choices, default=Kind.BUILTIN)
    config = models.JSONField(_("configuration"), default=dict, blank=True)
    enabled = models.BooleanField(_("enabled"), default=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
