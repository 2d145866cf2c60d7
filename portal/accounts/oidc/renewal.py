"""A session that began at the identity provider is renewed there while it is used.

With the refresh token, from server to server: it works alike for pages, htmx, fetch and open sockets, where a
redirect (`prompt=none`) would lose what a form sends and could not be followed by scripts. So whoever is signed
out or switched off there is signed out here after OIDC_RENEW_SECONDS, and roles follow.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.backends.base import SessionBase
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from portal.accounts import audit, limits
from portal.accounts.models import Session, User
from portal.accounts.oidc import identities, tokens
from portal.accounts.oidc.backend import what_is_said
from portal.accounts.oidc.provider import ProviderUnavailable, provider
from portal.accounts.sessions import SessionStore
from portal.lib.crypto import DecryptionFailed, decrypt, encrypt
from portal.lib.rotation import in_batches

logger = logging.getLogger(__name__)

TOKENS, RENEW_AT = "oidc_tokens", "oidc_renew_at"
# Between two tries for one session, whichever process makes them: a refresh token may work only once.
TRY_SECONDS = 10


def keep(session: SessionBase, answer: dict[str, Any]) -> None:
    """Put what the token endpoint answered into the session, encrypted, and say when to renew it."""
    known = {name: answer[name] for name in ("refresh_token", "id_token") if isinstance(answer.get(name), str)}
    session[TOKENS] = encrypt(json.dumps({**kept(session), **known}))
    # A provider that gives none cannot be asked; such a session is good for as long as an outage.
    wait = settings.OIDC_RENEW_SECONDS if "refresh_token" in known else settings.OIDC_OUTAGE_SECONDS
    session[RENEW_AT] = time.time() + wait


def kept(session: SessionBase | dict[str, Any]) -> dict[str, str]:
    """The tokens in a session; none when it did not begin at the provider, or no key opens them."""
    try:
        return dict(json.loads(decrypt(session[TOKENS])))
    except (KeyError, DecryptionFailed):
        return {}


class KeptTokens:
    """The tokens in all sessions, for `portal.lib.rotation`.

    Those that no key opens are left out: they end their session, and it is not worth a key to get them back.
    """

    label = "accounts.Session, tokens of the identity provider"

    def values(self) -> Iterator[tuple[str, str]]:
        """The session's key, and its tokens as they stand there."""
        rows = Session.objects.filter(method=Session.Method.OIDC).values_list("pk", "session_data")
        for key, data in in_batches(rows):
            session = SessionStore().decode(data)
            if kept(session):
                yield key, session[TOKENS]

    def replace(self, pk: str, token: str, fresh: str) -> int:
        """Put `fresh` in the place of `token`, unless the session was written to meanwhile."""
        for data in Session.objects.filter(pk=pk).values_list("session_data", flat=True):
            session = SessionStore().decode(data)
            if session.get(TOKENS) == token:
                changed = SessionStore().encode({**session, TOKENS: fresh})
                return Session.objects.filter(pk=pk, session_data=data).update(session_data=changed)
        return 0


class SessionRenewal:
    """Renews the session that a request comes with, if it is due. Before anybody asks who the user is.

    Whatever else comes along: the header `Authorization` means something to the API alone, and pages and Django
    admin go by the session beside it.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        has_session = settings.SESSION_COOKIE_NAME in request.COOKIES
        if settings.OIDC_ISSUER and has_session and not renew(request.session):
            request.user = AnonymousUser()
        return self.get_response(request)


def renew_open(session_keys: Iterable[str]) -> None:
    """Renew those sessions that are due: for sockets and streams, which stay open without a request."""
    if not settings.OIDC_ISSUER:
        return
    # No request asks for it: what is recorded must not seem to come from whichever was the last one.
    audit.set_origin(actor=None, address=None, user_agent="", credential="")
    for row in Session.objects.filter(pk__in=set(session_keys), method=Session.Method.OIDC):
        if (due_at := row.get_decoded().get(RENEW_AT)) is not None and due_at <= time.time():
            renew(SessionStore(row.session_key))


def renew(session: SessionBase) -> bool:
    """Renew `session` if it is due; False when it is over, and deleted."""
    due_at = session.get(RENEW_AT)
    if due_at is None or due_at > time.time():
        return True
    name = hashlib.sha256(str(session.session_key).encode()).hexdigest()[:40]
    if limits.count(f"oidc-renewal:{name}", seconds=TRY_SECONDS)[0] > 1:
        return True  # somebody else is at it, or was a moment ago
    try:
        return _renew(session)
    except ProviderUnavailable as exc:
        logger.warning("a session could not be renewed: %s", exc)
        if time.time() < due_at + settings.OIDC_OUTAGE_SECONDS:
            return True
        return _end(session, "provider_unavailable")


def _renew(session: SessionBase) -> bool:
    refresh_token = kept(session).get("refresh_token")
    if refresh_token is None:
        return _end(session, "expired")
    status, answer = provider().token({"grant_type": "refresh_token", "refresh_token": refresh_token})
    if status != 200:
        if answer.get("error") == "invalid_grant":
            return _end(session, "ended_at_the_provider")
        raise ProviderUnavailable(f"its token endpoint answers {status}, {str(answer.get('error'))[:60]!r}")
    try:
        said = _said(answer)
        user = identities.settle(said)
    except tokens.TokenRefused as exc:
        logger.warning("a session ends, since what renews it proves nothing: %s", exc)
        return _end(session, "not_proved")
    except identities.IdentityRefused as exc:
        return _end(session, exc.code)
    if str(user.pk) != str(session.get(SESSION_KEY)):
        return _end(session, "another_user")  # an admin gave this identity to somebody else meanwhile
    was_modified = session.modified
    keep(session, answer)
    session.modified = was_modified
    # The data alone: being renewed prolongs no session here, nor does it bring one back that ended meanwhile.
    still_there = Session.objects.filter(pk=session.session_key, expire_date__gt=timezone.now())
    if not still_there.update(session_data=session.encode(dict(session.items()))):
        return _end(session, "")
    return True


def _said(answer: dict[str, Any]) -> identities.Said:
    """Raises `TokenRefused` and `ProviderUnavailable`. The id token is optional at a renewal (Core 12.2)."""
    access_token, id_token = str(answer.get("access_token", "")), answer.get("id_token")
    if isinstance(id_token, str):
        return what_is_said(tokens.id_claims(id_token, access_token=access_token), access_token)
    if settings.OIDC_ROLES_FROM == "id_token":
        raise tokens.TokenRefused("there is no id token in it, which is where roles come from")
    return identities.said_by(tokens.access_claims(access_token))


def _end(session: SessionBase, reason: str) -> bool:
    if reason:
        user = User.objects.filter(pk=session[SESSION_KEY]).first()
        audit.record("session.ended", by=None, target=user, after={"reason": reason})
    session.flush()
    return False
