"""Text encrypted at rest, with keys that can be rotated."""

import base64
import hashlib
from dataclasses import dataclass, field
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.db import models

from portal.lib import redaction


class DecryptionFailed(Exception):
    """None of ENCRYPTION_KEYS opens this value; put the key that wrote it back into the list."""


def _box() -> MultiFernet:
    return MultiFernet([_fernet(key) for key in settings.ENCRYPTION_KEYS])


def _fernet(key: str) -> Fernet:
    # Any text may serve as a key: hashing gives Fernet the 32 bytes it wants.
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest()))


def encrypt(text: str) -> str:
    """`text` under the first of ENCRYPTION_KEYS, as URL-safe text."""
    return _box().encrypt(text.encode()).decode()


def decrypt(token: str) -> str:
    """What `encrypt` was given, opened with any of ENCRYPTION_KEYS. Raises `DecryptionFailed`."""
    try:
        return _box().decrypt(token.encode()).decode()
    except InvalidToken as exc:
        raise DecryptionFailed(str(DecryptionFailed.__doc__)) from exc


def is_current(token: str) -> bool:
    """Whether the first of ENCRYPTION_KEYS wrote `token`."""
    try:
        _fernet(settings.ENCRYPTION_KEYS[0]).decrypt(token.encode())
    except InvalidToken:
        return False
    return True


@dataclass(frozen=True)
class Unreadable:
    """What an encrypted field holds whose stored text none of ENCRYPTION_KEYS opens.

    It counts as set, and is stored again as it was, so that the missing key may still come back. It is no text:
    who wants one of it gets `DecryptionFailed`.
    """

    token: str = field(repr=False)

    def __str__(self) -> str:
        raise DecryptionFailed(str(DecryptionFailed.__doc__))


class EncryptedTextField(models.TextField):
    """Text that stands encrypted in the database and in the clear on the instance.

    Cannot be filtered on: equal texts are stored differently each time. Empty text stays empty, so
    that "is it set?" needs no key. What was read or written is kept out of logs and events from then on.
    What cannot be opened is `Unreadable`: a row's other fields are as good as ever.
    """

    def get_prep_value(self, value: Any) -> Any:
        if isinstance(value, Unreadable):
            return value.token
        if value:
            redaction.remember(value)
        return encrypt(value) if value else value

    def from_db_value(self, value: str | None, *_: Any) -> str | Unreadable | None:
        if not value:
            return value
        try:
            text = decrypt(value)
        except DecryptionFailed:
            return Unreadable(value)
        redaction.remember(text)
        return text

    def to_python(self, value: Any) -> Any:
        return value if isinstance(value, Unreadable) else super().to_python(value)
