"""The keys of all providers, for whoever has to recognise them (`portal.lib.redaction`)."""

from collections.abc import Iterator
from functools import lru_cache

from crews.models import LLMProvider
from portal.lib.crypto import DecryptionFailed, decrypt
from portal.lib.rotation import stored


def in_use() -> Iterator[str]:
    """Each key in the clear; one that no longer opens is left out. One query, and only new keys are decrypted."""
    for token in stored(LLMProvider, "api_key").values_list("stored", flat=True):
        if key := _opened(token):
            yield key


@lru_cache(maxsize=256)
def _opened(token: str) -> str:
    try:
        return decrypt(token)
    except DecryptionFailed:
        return ""
