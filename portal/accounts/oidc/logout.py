"""Signing out on both sides: from the portal at the provider, and from the provider here (back-channel)."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.db import IntegrityError, transaction
from django.http import HttpRequest
from django.shortcuts import resolve_url
from django.utils import timezone

from portal.accounts import sessions
from portal.accounts.models import Session, UsedToken
from portal.accounts.oidc import renewal, tokens
from portal.accounts.oidc.provider import ProviderUnavailable, provider


def end_session_url(request: HttpRequest) -> str:
    """Where a browser ends its session at the provider too; empty when it did not begin there.

    Ask before the portal's session ends (`entering.leave`), and go there afterwards. The provider
    leads back to the sign-in page. OpenID Connect RP-Initiated Logout 1.0.
    """
    if not settings.OIDC_ISSUER or not (id_token := renewal.kept(request.session).get("id_token")):
        return ""
    try:
        address = provider().endpoint("end_session_endpoint")
    except ProviderUnavailable:
        return ""  # the session here ends all the same
    back = settings.PORTAL_URL + resolve_url(settings.LOGOUT_REDIRECT_URL)
    query = {
        "id_token_hint": id_token,
        "client_id": settings.OIDC_CLIENT_ID,
        "post_logout_redirect_uri": back,
    }
    return f"{address}{'&' if '?' in address else '?'}{urlencode(query)}"


def end_sessions(claims: dict[str, Any]) -> int:
    """End the sessions that a verified logout token names: one (`sid`), or all of its subject. How many those were.

    Raises `TokenRefused` for a token that came before.
    """
    issuer = claims["iss"]
    theirs = Session.objects.filter(oidc_issuer=issuer)
    if "sid" in claims:
        theirs = theirs.filter(oidc_sid=claims["sid"])
    else:
        theirs = theirs.filter(user__identities__issuer=issuer, user__identities__subject=claims["sub"])
    digest = hashlib.sha256(f"{issuer}\n{claims['jti']}".encode()).hexdigest()
    until = datetime.fromtimestamp(claims["exp"], UTC) + timedelta(seconds=settings.OIDC_LEEWAY_SECONDS)
    with transaction.atomic():
        try:
            with transaction.atomic():
                UsedToken.objects.create(digest=digest, expires_at=until)
        except IntegrityError as exc:
            raise tokens.TokenRefused("it came before") from exc
        UsedToken.objects.filter(expires_at__lt=timezone.now()).delete()
        ended = list(theirs.defer("session_data"))
        for session in ended:
            sessions.end(session, by=None)
    return len(ended)
