"""Secrets kept out of what is written down: by value, wherever they turn up, and by shape.

    redact("refused: key sk-abc…")        "refused: key [hidden]"

Known by value are the secrets of the settings (`know`, once at the start), every text that an
`EncryptedTextField` was read from or written to in this process (`remember`), and what the registered
sources say (`source`; `refresh` asks them, at most once a second). Each is found as it is and as it
stands in URLs, in JSON and in base64. Known by shape are our own keys and tokens, and JSON web tokens.

What is looked for is found with `in`, one value after the other: over a kilobyte that takes a few
microseconds, where one expression of all values would try each of them at each character.
"""

import base64
import json
import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote, quote_plus, unquote, urlsplit

HIDDEN = "[hidden]"
MIN_CHARACTERS = 8  # a shorter one would be found in everyday words
MAX_REMEMBERED = 200  # of the texts that this process has opened, the latest
REFRESH_SECONDS = 1.0

# Ours: API keys and run tokens; and whatever has the shape of a JSON web token.
# In JSON a word may follow an escape: `\\n` before it does not make its first letter the middle of one.
_START = r"(?:(?<![0-9A-Za-z_])|(?<=\\[nrtbf]))"
_SHAPES = re.compile(
    _START + r"(?:ap_[0-9A-Za-z]{6,12}_[\w-]{40,}|run_[0-9a-f]{32}\.\d+:[\w-]{20,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,})"
)
_SHAPE_SIGNS = ("ap_", "run_", "eyJ")

_lock = threading.Lock()
_known: set[str] = set()  # forms, for as long as the process lives
_remembered: OrderedDict[str, tuple[str, ...]] = OrderedDict()  # secret → its forms
_sources: list[Callable[[], Iterable[str]]] = []
_from_sources: set[str] = set()
_forms: tuple[str, ...] = ()  # all of them, the longest first
_refreshed_at = float("-inf")


def forms_of(secret: str) -> set[str]:
    """How a secret may be written; nothing for one that is too short to be told from other words."""
    if len(secret) < MIN_CHARACTERS:
        return set()
    forms = {secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1]}
    data = secret.encode("utf-8", "replace")
    for before in range(3):
        # Wherever it stands in what was encoded: the characters that depend on its neighbours are left off.
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(bytes(before) + data).decode().rstrip("=")
            first, last = -(-before * 8 // 6), (before + len(data)) * 8 // 6
            if last - first >= MIN_CHARACTERS:
                forms.add(text[first:last])
    return forms


def know(*secrets: str) -> None:
    """Hide these for as long as the process lives."""
    with _lock:
        for secret in secrets:
            _known.update(forms_of(secret))
        _put_together()


def know_urls(*urls: str) -> None:
    """Hide the passwords in these URLs; a short or simple one only where it stands in a URL."""
    for url in urls:
        password = urlsplit(url).password if "@" in url else None
        if password:
            with _lock:
                _known.update({f":{password}@", f":{unquote(password)}@"})
            know(*(text for text in {password, unquote(password)} if len(text) > MIN_CHARACTERS * 2 - 1))


def remember(secret: str) -> None:
    """Hide a text that was opened just now."""
    if not secret or len(secret) < MIN_CHARACTERS:
        return
    with _lock:
        if secret in _remembered:
            _remembered.move_to_end(secret)
            return
        _remembered[secret] = tuple(forms_of(secret))
        if len(_remembered) > MAX_REMEMBERED:
            _remembered.popitem(last=False)
        _put_together()


def source(secrets: Callable[[], Iterable[str]]) -> None:
    """Have `refresh` ask `secrets` for what is to be hidden now."""
    _sources.append(secrets)


def refresh() -> None:
    """Ask the sources again, at most once a second. They may ask the database."""
    global _from_sources, _refreshed_at
    now = time.monotonic()
    if now - _refreshed_at < REFRESH_SECONDS:
        return
    _refreshed_at = now
    found = {form for ask in _sources for secret in ask() for form in forms_of(secret)}
    if found != _from_sources:
        with _lock:
            _from_sources = found
            _put_together()


def _put_together() -> None:
    global _forms
    forms = _known | _from_sources
    forms.update(form for remembered in _remembered.values() for form in remembered)
    _forms = tuple(sorted(forms, key=len, reverse=True))


def redact(text: str) -> str:
    """`text` without the secrets."""
    for form in _forms:
        if form in text:
            text = text.replace(form, HIDDEN)
    for sign in _SHAPE_SIGNS:
        if sign in text:
            return _SHAPES.sub(HIDDEN, text)
    return text


def redact_data(value: Any) -> Any:
    """JSON values without the secrets in their texts and keys."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact(key) if isinstance(key, str) else key: redact_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_data(item) for item in value]
    return value


class Stream:
    """Hides `forms` (`forms_of` a secret) in a text that comes in pieces, where they may stand across the ends.

    `feed` gives what is certain; what may be the beginning of a secret waits for the next piece, or for `end`.
    """

    def __init__(self, forms: tuple[str, ...]) -> None:
        self._forms = tuple(sorted(forms, key=len, reverse=True))
        self._held = ""

    def feed(self, piece: str) -> str:
        text = self._held + piece
        for form in self._forms:
            if form in text:
                text = text.replace(form, HIDDEN)
        keep = self._unfinished(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> str:
        rest, self._held = self._held, ""
        return rest

    def _unfinished(self, text: str) -> int:
        """How many characters at the end of `text` are the beginning of a secret."""
        keep = 0
        for form in self._forms:
            most = min(len(form) - 1, len(text))
            # Mostly its first character is not even there.
            at = text.find(form[0], len(text) - most)
            while at != -1 and not form.startswith(text[at:]):
                at = text.find(form[0], at + 1)
            if at != -1:
                keep = max(keep, len(text) - at)
        return keep


class RedactingFormatter(logging.Formatter):
    """A log line without secrets, its arguments and its traceback included."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))
