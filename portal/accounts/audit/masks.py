"""What may stand in the audit log of a change: no secrets, no endless texts, nothing that JSON cannot hold."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from django.db import models

from portal.lib.crypto import EncryptedTextField
from portal.lib.redaction import redact

SET, NOT_SET, SET_ANEW = "set", "not set", "set anew"
MAX_TEXT = 300  # characters of a text; a longer one is cut and says how long it was
MAX_ITEMS = 50  # of a list or a mapping
MAX_DEPTH = 6
_SECRET = re.compile(
    r"(?:^|[_\-.])(?:pass(?:word|wd|phrase)?|secrets?|(?:api|access|private|secret|signing|encryption)[_\-]?keys?|apikey"
    r"|key|token|authorization|cookie|credentials?|digest|session[_\-]?key|otp|dsn)$"
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NOT_STORABLE = re.compile("[\x00\ud800-\udfff]")  # PostgreSQL takes neither NUL nor half a character
_NEVER_TOLD = {"created_at", "updated_at"}


def is_secret(name: str) -> bool:
    """Whether a field of this name holds a secret: `api_key`, `password`, `accessToken`; `max_tokens` does not."""
    return bool(_SECRET.search(_CAMEL.sub("_", name).lower()))


def text(value: str, limit: int = MAX_TEXT) -> str:
    """`value` as any database stores it, cut after `limit` characters with a word on how long it was."""
    value = redact(_NOT_STORABLE.sub("\ufffd", value))
    return value if len(value) <= limit else f"{value[:limit]}… ({len(value)} characters)"


def cleaned(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` fit for the log: what is named like a secret is “set” or “not set”. Numbers with a point become text."""
    return _mapping(values, 1)


def _mapping(values: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in list(values.items())[:MAX_ITEMS]:
        if is_secret(str(name)) and not isinstance(value, bool):
            found[text(str(name))] = value if value in (SET, NOT_SET, SET_ANEW) else (SET if value else NOT_SET)
        else:
            found[text(str(name))] = _value(value, depth + 1)
    if len(values) > MAX_ITEMS:
        found["…"] = f"{len(values) - MAX_ITEMS} more"
    return found


def _value(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, Mapping) and depth <= MAX_DEPTH:
        return _mapping(value, depth)
    if isinstance(value, list | tuple | set | frozenset) and depth <= MAX_DEPTH:
        shown = [_value(item, depth + 1) for item in list(value)[:MAX_ITEMS]]
        return shown if len(value) <= MAX_ITEMS else [*shown, f"… ({len(value)} in all)"]
    if isinstance(value, models.Model):
        return text(str(value.pk))
    # Not every database gives a number with a point back as it was put in: text comes back unchanged.
    return text(str(value))


def state(row: models.Model, *, ignore: Collection[str] = ()) -> dict[str, Any]:
    """The fields of `row` but for `ignore`, named as the API names them: what was made, or deleted."""
    return {name: _shown(row, name, value) for name, value in stored(row, ignore=ignore).items()}


def stored(row: models.Model, *, ignore: Collection[str] = ()) -> dict[str, Any]:
    """As `state`, with what is secret in the clear: to compare, and never to write down."""
    left_out = {*_NEVER_TOLD, *ignore}
    fields = [field for field in row._meta.concrete_fields if not field.primary_key and field.name not in left_out]
    return {field.attname: getattr(row, field.attname) for field in fields}


def differences(
    row: models.Model, before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of two results of `stored`, the fields that differ: as they were, and as they are, without what is secret."""
    was, is_now = changes(before, after)
    told = ({name: _shown(row, name, value) for name, value in side.items()} for side in (was, is_now))
    shown_before, shown_after = told
    for name, value in shown_after.items():
        if value == SET == shown_before[name]:
            shown_after[name] = SET_ANEW
    return shown_before, shown_after


def _shown(row: models.Model, name: str, value: Any) -> Any:
    is_hidden = isinstance(row._meta.get_field(name), EncryptedTextField)
    return (SET if value else NOT_SET) if is_hidden else value


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of two states, the fields that differ: as they were, and as they are."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return {name: before.get(name) for name in names}, {name: after.get(name) for name in names}
