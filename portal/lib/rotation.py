"""Bringing everything that is encrypted under the first of ENCRYPTION_KEYS, so that an older one can go.

Columns of encrypted text are found by themselves; who keeps such text in another form registers the place.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from django.apps import apps
from django.db import models
from django.db.models.functions import Cast

from portal.lib.crypto import DecryptionFailed, EncryptedTextField, decrypt, encrypt, is_current

BATCH = 200  # rows looked at in one query


@dataclass
class Found:
    """What stands in one place: values in all, of them under an older key, and under none that we have."""

    label: str
    values: int = 0
    old: int = 0
    lost: int = 0


class Place(Protocol):
    """Where encrypted text stands."""

    @property
    def label(self) -> str:
        """What people call it."""

    def values(self) -> Iterator[tuple[Any, str]]:
        """The key of each row that has a value there, and the text as it stands in the database."""

    def replace(self, pk: Any, token: str, fresh: str) -> int:
        """Put `fresh` there, if the row still holds `token`; how many rows that were."""


@dataclass(frozen=True)
class Column:
    """A field with encrypted text."""

    model: type[models.Model]
    name: str

    @property
    def label(self) -> str:
        return f"{self.model._meta.label}.{self.name}"

    def values(self) -> Iterator[tuple[Any, str]]:
        return in_batches(stored(self.model, self.name).values_list("pk", "stored"))

    def replace(self, pk: Any, token: str, fresh: str) -> int:
        value = models.Value(fresh, output_field=models.TextField())
        return stored(self.model, self.name).filter(pk=pk, stored=token).update(**{self.name: value})


_registered: list[Place] = []


def register(place: Place) -> None:
    """Let what stands in `place`, which is no column of its own, be brought under the first key too."""
    _registered.append(place)


def places() -> Iterator[Place]:
    """Everywhere that encrypted text stands."""
    for model in apps.get_models(include_auto_created=True):
        for field in model._meta.local_concrete_fields:
            if isinstance(field, EncryptedTextField) and not model._meta.proxy:
                yield Column(model, field.attname)
    yield from _registered


def stored(model: type[models.Model], name: str) -> models.QuerySet[Any]:
    """The rows that have a value there, with the text as it stands in the database as `stored`."""
    rows = model._base_manager.annotate(stored=Cast(name, models.TextField()))
    return rows.exclude(stored=None).exclude(stored="").order_by("pk")


def look(place: Place) -> Found:
    """Count, and change nothing."""
    found = Found(place.label)
    for _pk, token in place.values():
        _judge(found, token)
    return found


def rotate(place: Place) -> tuple[int, Found]:
    """Encrypt anew what an older key wrote; how many values that were, and what was found.

    Each row is changed on its own, and only if it still holds what was read: who writes at the same
    moment wins, and whatever ends this in the middle, the next time goes on with the rest.
    """
    found, changed = Found(place.label), 0
    for pk, token in place.values():
        if _judge(found, token):
            changed += place.replace(pk, token, encrypt(decrypt(token)))
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


def in_batches(rows: "models.QuerySet[Any, tuple[Any, Any]]") -> Iterator[tuple[Any, Any]]:
    """`rows`, pairs that begin with the primary key, by queries that hold nothing open while rows are changed."""
    rows, last = rows.order_by("pk"), None
    while True:
        batch = list((rows if last is None else rows.filter(pk__gt=last))[:BATCH])
        yield from batch
        if len(batch) < BATCH:
            return
        last = batch[-1][0]
