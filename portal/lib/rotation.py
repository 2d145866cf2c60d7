"""Bringing everything that is encrypted under the first of ENCRYPTION_KEYS, so that an older one can go."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.db import models
from django.db.models.functions import Cast

from portal.lib.crypto import DecryptionFailed, EncryptedTextField, decrypt, encrypt, is_current

BATCH = 200  # rows looked at in one query


@dataclass
class Found:
    """What stands in one column: values in all, of them under an older key, and under none that we have."""

    label: str
    values: int = 0
    old: int = 0
    lost: int = 0


def columns() -> Iterator[tuple[type[models.Model], str]]:
    """Every model and field with encrypted text."""
    for model in apps.get_models(include_auto_created=True):
        for field in model._meta.local_concrete_fields:
            if isinstance(field, EncryptedTextField) and not model._meta.proxy:
                yield model, field.attname


def stored(model: type[models.Model], name: str) -> models.QuerySet[Any]:
    """The rows that have a value there, with the text as it stands in the database as `stored`."""
    rows = model._base_manager.annotate(stored=Cast(name, models.TextField()))
    return rows.exclude(stored=None).exclude(stored="").order_by("pk")


def look(model: type[models.Model], name: str) -> Found:
    """Count, and change nothing."""
    found = Found(f"{model._meta.label}.{name}")
    for _pk, token in _all(model, name):
        _judge(found, token)
    return found


def rotate(model: type[models.Model], name: str) -> tuple[int, Found]:
    """Encrypt anew what an older key wrote; how many values that were, and what was found.

    Each row is changed on its own, and only if it still holds what was read: who writes at the same
    moment wins, and whatever ends this in the middle, the next time goes on with the rest.
    """
    found, changed = Found(f"{model._meta.label}.{name}"), 0
    for pk, token in _all(model, name):
        if _judge(found, token):
            fresh = models.Value(encrypt(decrypt(token)), output_field=models.TextField())
            changed += stored(model, name).filter(pk=pk, stored=token).update(**{name: fresh})
    return changed, found


def _judge(found: Found, token: str) -> bool:
    """Count a value; True when an older key wrote it."""
    found.values += 1
    if is_current(token):
        return False
    try:
        decrypt(token)
    except DecryptionFailed:
        found.lost += 1
        return False
    found.old += 1
    return True


def _all(model: type[models.Model], name: str) -> Iterator[tuple[Any, str]]:
    last = None
    while True:
        rows = stored(model, name) if last is None else stored(model, name).filter(pk__gt=last)
        batch = list(rows.values_list("pk", "stored")[:BATCH])
        yield from batch
        if len(batch) < BATCH:
            return
        last = batch[-1][0]
