"""Definitions that are followed: whatever makes, changes or deletes one of their rows, the log says so.

    audit.follow(Crew, noun="crew")

Pages, API, Django admin and commands save definitions each in their own way; following the rows themselves
leaves no way out, and a new one is in the log before anybody thinks of it. Who does it is who the request
comes from (`Origin.actor`). What goes as a part of something else that is deleted is not named apart.
Statements that touch many rows (`bulk_update`, `QuerySet.update`) are not seen: they are the portal's own.
"""

from collections.abc import Collection
from typing import Any

from django.db import models
from django.db.models import signals

from portal.accounts.audit import masks
from portal.accounts.audit.origin import current_origin
from portal.accounts.audit.record import record

_followed: dict[type[models.Model], tuple[str, frozenset[str]]] = {}
_BEFORE = "_audit_before"


def follow(model: type[models.Model], *, noun: str, ignore: Collection[str] = ()) -> None:
    """Record what happens to rows of `model`, as `<noun>.created`, `.changed`, `.deleted`.

    `ignore`: fields that the portal itself keeps up to date. Its plain many-to-many fields are followed too.
    """
    _followed[model] = (noun, frozenset(ignore))
    signals.pre_save.connect(_before_save, sender=model)
    signals.post_save.connect(_saved, sender=model)
    signals.post_delete.connect(_deleted, sender=model)
    for field in model._meta.local_many_to_many:
        through = field.remote_field.through
        if through is not None and through._meta.auto_created:
            signals.m2m_changed.connect(_related, sender=through)


def _before_save(sender: type[models.Model], instance: models.Model, raw: bool, **_: Any) -> None:
    if not raw and not instance._state.adding:
        row = sender._default_manager.filter(pk=instance.pk).first()
        known = masks.stored(row, ignore=_followed[sender][1]) if row is not None else None
        setattr(instance, _BEFORE, known)


def _saved(
    sender: type[models.Model],
    instance: models.Model,
    created: bool,
    raw: bool,
    update_fields: Collection[str] | None,
    **_: Any,
) -> None:
    if raw:
        return
    (noun, ignored), before = _followed[sender], instance.__dict__.pop(_BEFORE, None)
    if created or before is None:
        after = masks.state(instance, ignore=ignored)
        record(f"{noun}.created", by=current_origin().actor, target=instance, after=after)
        return
    now = masks.stored(instance, ignore=ignored)
    if update_fields is not None:
        named = {sender._meta.get_field(name).attname for name in update_fields}  # type: ignore[union-attr]
        now = {name: value if name in named else before[name] for name, value in now.items()}
    was, is_now = masks.differences(instance, before, now)
    if is_now:
        record(f"{noun}.changed", by=current_origin().actor, target=instance, before=was, after=is_now)


def _deleted(sender: type[models.Model], instance: models.Model, origin: Any = None, **_: Any) -> None:
    began_with = origin.model if isinstance(origin, models.QuerySet) else type(origin)
    if origin is None or began_with is sender:
        noun, ignored = _followed[sender]
        before = masks.state(instance, ignore=ignored)
        record(f"{noun}.deleted", by=current_origin().actor, target=instance, before=before)


def _related(
    sender: type[models.Model],
    instance: models.Model,
    action: str,
    reverse: bool,
    model: type[models.Model],
    pk_set: set[Any] | None,
    **_: Any,
) -> None:
    words = {"post_add": "added", "post_remove": "removed", "pre_clear": "cleared"}
    if action not in words or (not pk_set and action != "pre_clear"):
        return
    followed = model if reverse else type(instance)
    name = next(
        (f.name for f in followed._meta.local_many_to_many if f.remote_field.through is sender),
        sender._meta.model_name or "",
    )
    named = [str(row) for row in model._default_manager.filter(pk__in=pk_set or ())]
    noun = _followed[followed][0]
    record(f"{noun}.changed", by=current_origin().actor, target=instance, after={name: {words[action]: named}})


def _administered(instance: Any, created: bool, **_: Any) -> None:
    """What was done in Django admin to rows that nobody follows: `instance` is its `LogEntry`."""
    model = instance.content_type.model_class() if instance.content_type else None
    if not created or model in _followed:
        return
    kind = model._meta.model_name if model else ""
    word = "created" if instance.is_addition() else "deleted" if instance.is_deletion() else "changed"
    record(
        f"admin.{word}",
        by=instance.user,
        target_kind=kind or "",
        name=instance.object_repr,
        after={"id": instance.object_id, "what": instance.get_change_message()},
    )


def follow_admin() -> None:
    """Record every change that Django admin logs."""
    from django.contrib.admin.models import LogEntry

    signals.post_save.connect(_administered, sender=LogEntry)
