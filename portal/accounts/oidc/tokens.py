"""Tokens of the identity provider, verified without asking it: who signed them, for whom, until when, and what for.

Only asymmetric algorithms are taken (`OIDC_ALGORITHMS`), only keys that the provider publishes: what a
token's own header brings along (`jwk`, `jku`, `x5u`, `x5c`) is never looked at. RFC 8725 lists the traps.
"""

import base64
import binascii
import hashlib
import hmac
import json
import math
import re
import time
from typing import Any, NoReturn

import jwt
from django.conf import settings

from portal.accounts.oidc.provider import provider

Claims = dict[str, Any]

MAX_LENGTH = 16 * 1024  # characters
MAX_LENGTH_OF_NAMES = 255
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
LOGOUT_SECONDS = 600  # how old a logout token may be, whatever it says itself
_PARTS = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_ACCESS_TYPES = {"at+jwt", "application/at+jwt"}  # RFC 9068
_LOGOUT_TYPES = {"logout+jwt", "application/logout+jwt"}


class TokenRefused(Exception):
    """The token proves nothing; the message is for the log, not for who sent it."""


def access_claims(token: str) -> Claims:
    """What an access token for the portal says. Raises `TokenRefused`, `ProviderUnavailable`."""
    header, claims = _verified(token, settings.OIDC_AUDIENCE, "sub")
    kind, header_kind = _kind(claims.get("typ")), _kind(header.get("typ"))
    if kind != "bearer" and not (kind == "" and header_kind in _ACCESS_TYPES):
        raise TokenRefused(f"not an access token but {claims.get('typ') or header.get('typ')!r}")
    if header_kind not in {"", "jwt", *_ACCESS_TYPES} or "events" in claims:
        raise TokenRefused("not an access token")
    if "cnf" in claims:
        raise TokenRefused("bound to a key of its client, and the portal checks no such proof")
    party = claims.get("azp", claims.get("client_id"))
    if not isinstance(party, str) or party not in settings.OIDC_AUTHORIZED_PARTIES:
        raise TokenRefused(f"made for the client {party!r}, which is not in OIDC_AUTHORIZED_PARTIES")
    return claims


def id_claims(token: str, *, nonce: str | None = None, access_token: str | None = None) -> Claims:
    """What an id token says (OpenID Connect Core 1.0, 3.1.3.7 and 12.2).

    `nonce` is that of the sign-in, None at a renewal; `access_token` is the one that came with it.
    Raises `TokenRefused`, `ProviderUnavailable`.
    """
    header, claims = _verified(token, settings.OIDC_CLIENT_ID, "sub")
    if _kind(claims.get("typ")) not in {"", "id"} or _kind(header.get("typ")) not in {"", "jwt"} or "events" in claims:
        raise TokenRefused("not an id token")
    if claims.get("azp", settings.OIDC_CLIENT_ID) != settings.OIDC_CLIENT_ID:
        raise TokenRefused("made for another client")
    if isinstance(claims["aud"], list) and len(claims["aud"]) > 1 and "azp" not in claims:
        raise TokenRefused("made for several and says not for which")
    if nonce is not None and not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
        raise TokenRefused("the nonce is not that of this sign-in")
    if access_token is not None and "at_hash" in claims:
        _check_hash(str(claims["at_hash"]), access_token, str(header["alg"]))
    return claims


def logout_claims(token: str) -> Claims:
    """What a logout token says (OpenID Connect Back-Channel Logout 1.0, 2.6); replay is the caller's to check.

    Raises `TokenRefused`, `ProviderUnavailable`.
    """
    header, claims = _verified(token, settings.OIDC_CLIENT_ID, "jti")
    if _kind(claims.get("typ")) not in {"", "logout"} or _kind(header.get("typ")) not in {"", "jwt", *_LOGOUT_TYPES}:
        raise TokenRefused("not a logout token")
    events = claims.get("events")
    if not isinstance(events, dict) or not isinstance(events.get(LOGOUT_EVENT), dict):
        raise TokenRefused("it tells of no logout")
    if "nonce" in claims:
        raise TokenRefused("a logout token has no nonce")
    if "sid" not in claims and "sub" not in claims:
        raise TokenRefused("it says neither whose session ended nor which")
    if claims["iat"] < time.time() - LOGOUT_SECONDS - settings.OIDC_LEEWAY_SECONDS:
        raise TokenRefused("it was made long ago")
    return claims


def _verified(token: str, audience: str, *required: str) -> tuple[dict[str, Any], Claims]:
    header = _parsed(token)
    algorithm, key_id = header.get("alg"), header.get("kid")
    if algorithm not in settings.OIDC_ALGORITHMS:
        raise TokenRefused(f"signed with {algorithm!r}, which is not in OIDC_ALGORITHMS")
    if "crit" in header or "b64" in header:
        raise TokenRefused("its header asks for an extension")  # RFC 7515, 4.1.11
    if not isinstance(key_id, str) or not key_id:
        raise TokenRefused("it does not name its key")
    issuer = provider()
    key = issuer.key(key_id, algorithm)
    if key is None:
        raise TokenRefused("the provider has no such key")
    try:
        claims: Claims = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=audience,
            issuer=issuer.issuer,
            leeway=settings.OIDC_LEEWAY_SECONDS,
            options={"require": ["iss", "aud", "exp", "iat", *required]},
        )
    except (jwt.PyJWTError, ValueError) as exc:
        raise TokenRefused(str(exc)) from exc
    for name in ("sub", "sid", "jti"):
        value = claims.get(name, "-")
        if not isinstance(value, str) or not 0 < len(value) <= MAX_LENGTH_OF_NAMES or not value.isprintable():
            raise TokenRefused(f"{name} is not a short text")
    return header, claims


def _parsed(token: str) -> dict[str, Any]:
    """The header of a well-formed token. JSON that two readers could understand differently is refused."""
    if len(token) > MAX_LENGTH:
        raise TokenRefused("too long")
    if not _PARTS.fullmatch(token):
        raise TokenRefused("not a signed token in three parts")
    header, claims, _signature = token.split(".")
    for name, value in (parsed := _object(claims)).items():
        # Dates that are no plain numbers are read differently by different readers, or end in an overflow.
        if name in {"exp", "iat", "nbf"} and (
            isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value)
        ):
            raise TokenRefused(f"{name} is not a number")
    if "iss" not in parsed:
        raise TokenRefused("it names no issuer")
    return _object(header)


def _object(part: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _value in pairs}) != len(pairs):
            raise TokenRefused("a name stands in it twice")
        return dict(pairs)

    def not_json(constant: str) -> NoReturn:
        raise TokenRefused(f"{constant} is not JSON")

    try:
        text = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)).decode()
        value = json.loads(text, object_pairs_hook=unique, parse_constant=not_json)
    except (binascii.Error, ValueError, RecursionError) as exc:
        raise TokenRefused("not JSON in base64url") from exc
    if not isinstance(value, dict):
        raise TokenRefused("not a JSON object")
    return value


def _kind(value: Any) -> str:
    return "" if value is None else str(value).lower()


def _check_hash(expected: str, access_token: str, algorithm: str) -> None:
    """Core 3.1.3.6: the left half of the access token's hash, so that the two belong together."""
    size = algorithm[-3:]
    if size not in {"256", "384", "512"}:
        return  # EdDSA: which hash that is nobody has settled
    digest = hashlib.new(f"sha{size}", access_token.encode()).digest()
    half = base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode()
    if not hmac.compare_digest(half.encode(), expected.encode()):
        raise TokenRefused("the access token does not belong to the id token")
