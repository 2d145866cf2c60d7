"""What a request shows to say who it is, and the one place that checks it.

Pages, API, gateway, SSE and WebSockets all come here. A browser's session is read by Django's
middleware; everything that is sent in the header `Authorization` goes through `check`:

    Authorization: Api-Key ap_…       an API key
    Authorization: Bearer ap_…        the same, for clients that know only Bearer
    Authorization: Bearer eyJ…        an access token of the identity provider

Run tokens (`run_…`) belong to the gateway and open nothing else. A request that carries the header
is judged by it alone: one that is refused never falls back to a cookie.
"""

import uuid
from dataclasses import dataclass, field
from datetime import datetime

from django.utils.translation import gettext as _

from portal.accounts.models import Role, Scope, User
from portal.lib.problems import Problem

KEY_PREFIX = "ap_"
RUN_PREFIX = "run_"


class CredentialRefused(Problem):
    """What was shown opens nothing: unknown, expired, revoked, or not for this."""

    status = 401
    code = "authentication_failed"


class CredentialUnchecked(CredentialRefused):
    """Nobody can say now whether what was shown is good: it opens nothing, and is not a bad one either."""

    status = 503
    code = "provider_unavailable"


@dataclass(frozen=True)
class Credential:
    """How somebody came in. `scopes` None: all that the user may do; else a route needs one of them."""

    kind: str  # session, api_key, bearer, development
    # Of the row or token, to ask again whether it still holds; a session's is as good as the session.
    id: str = field(repr=False)
    label: str  # for the audit log: never a secret
    scopes: frozenset[Scope] | None = None
    expires_at: datetime | None = None

    def allows(self, scope: Scope) -> bool:
        """Whether this credential may be used on a route that needs `scope`. Every scope lets read."""
        if self.scopes is None or Scope.ADMIN in self.scopes:
            return True
        return scope is Scope.READ or scope in self.scopes

    @property
    def key_id(self) -> uuid.UUID | None:
        """The API key that it is; None for other kinds. What it starts is counted to it."""
        return uuid.UUID(self.id) if self.kind == "api_key" else None

    @property
    def cap(self) -> Role | None:
        """The role above which the user does not act with this credential; None: none."""
        if self.scopes is None:
            return None
        return max((scope.cap for scope in self.scopes), key=lambda role: role.rank)


def split(header: str) -> str | None:
    """The token in an `Authorization` header; None without a header. Raises `CredentialRefused` for other kinds."""
    if not header.strip():
        return None
    scheme, _blank, token = header.strip().partition(" ")
    token = token.strip()
    is_key = token.startswith(KEY_PREFIX)
    is_one_word = token.isascii() and token.isprintable() and " " not in token and token != ""
    takes = {"bearer": True, "api-key": is_key}
    if not is_one_word or not takes.get(scheme.lower()):
        raise CredentialRefused(
            _("This kind of credential is not taken here."),
            hint=_("Send “Authorization: Api-Key ap_…” or “Authorization: Bearer …”."),
        )
    return token


def check(token: str, *, address: str | None = None) -> tuple[User, Credential]:
    """Whose `token` it is, held to what it allows (`User.acting_as`); the audit log learns which it was.

    Each check counts as a request of the key. `address` is where it came from, kept as the key's last use.
    Raises `CredentialRefused` (`CredentialUnchecked` while that cannot be said), and `limits.TooMany` for a key
    that comes too often.
    """
    from portal.accounts import keys
    from portal.accounts.audit import set_origin
    from portal.accounts.oidc import bearer

    if token.startswith(KEY_PREFIX):
        user, credential = keys.check(token, address=address)
    elif token.startswith(RUN_PREFIX):
        raise CredentialRefused(_("A run's token opens the gateway and nothing else."))
    else:
        user, credential = bearer.check(token)
    set_origin(actor=user, credential=credential.label)
    return user.acting_as(credential.cap), credential
