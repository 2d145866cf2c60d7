"""What checking access tokens needs of the identity provider, read beside the database threads.

The calls of every run pass through those, and strangers can have the provider asked: a token needs only to
name a key that is not known.
"""

import asyncio

import jwt
from django.conf import settings

from portal.accounts.oidc.provider import provider

PATIENCE = 3.0  # seconds that a token waits for newer keys than the known ones


class KeySet:
    """Has the provider asked by one thread at a time, whoever waits for it. Of one event loop."""

    def __init__(self) -> None:
        self._reading: asyncio.Future[None] | None = None

    async def ready(self, token: str) -> None:
        """Wait for what has to be read to check `token`; in the end it may be missing all the same.

        While somebody else has it read, a known key goes on.
        """
        signer = _signer(token)
        if not settings.OIDC_ISSUER or signer is None:
            return
        issuer = provider()
        if not issuer.is_due(*signer):
            return
        if self._reading is None or self._reading.done():
            self._reading = asyncio.ensure_future(asyncio.to_thread(issuer.renew, *signer))
        elif issuer.knows(*signer):
            return
        await asyncio.wait((self._reading,), timeout=PATIENCE if issuer.is_known else None)


def _signer(token: str) -> tuple[str, str] | None:
    """The id and the algorithm of the key that a token says it was signed with; None for what is refused unread."""
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError):
        return None
    key_id, algorithm = header.get("kid"), header.get("alg")
    if algorithm not in settings.OIDC_ALGORITHMS or not isinstance(key_id, str):
        return None
    return key_id, algorithm
