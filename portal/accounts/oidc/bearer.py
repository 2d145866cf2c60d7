"""Access tokens of the identity provider, verified offline."""

import hashlib
import logging
from datetime import UTC, datetime

from django.conf import settings
from django.utils.translation import gettext as _

from portal.accounts.credentials import Credential, CredentialRefused, CredentialUnchecked
from portal.accounts.models import Role, Scope, User
from portal.accounts.oidc import identities, tokens
from portal.accounts.oidc.provider import ProviderUnavailable

logger = logging.getLogger(__name__)

# The role that a token gives is also what it may be used for: an older one never does more than it said then.
_SCOPES: dict[Role, frozenset[Scope] | None] = {
    Role.VIEWER: frozenset({Scope.READ}),
    Role.USER: frozenset({Scope.READ, Scope.RUN, Scope.WRITE}),
    Role.ADMIN: None,
}


def check(token: str) -> tuple[User, Credential]:
    """Whose access token it is; made a user on first use. Raises `CredentialRefused`, `CredentialUnchecked`.

    The provider is not asked, so a token counts until it expires (Keycloak: five minutes), unless the
    user is deactivated here.
    """
    if not settings.OIDC_ISSUER:
        raise CredentialRefused(_("This portal knows no identity provider, so it takes no tokens of one."))
    try:
        claims = tokens.access_claims(token)
    except tokens.TokenRefused as exc:
        logger.info("an access token is refused: %s", exc)
        raise CredentialRefused(
            _("This token is not valid here."), hint=_("Get a new access token for the portal, and send that.")
        ) from exc
    except ProviderUnavailable as exc:
        raise CredentialUnchecked(
            _("The identity provider cannot be reached, and without its keys no token can be checked."),
            hint=_("Try again in a moment, or use an API key."),
        ) from exc
    said = identities.said_by(claims)
    try:
        user = identities.settle(said, is_fresh=False)
    except identities.IdentityRefused as exc:
        raise CredentialRefused(exc.detail, hint=exc.hint, code=exc.code) from exc
    assert said.role is not None  # noqa: S101 - tells the type checker
    return user, Credential(
        kind="bearer",
        id=hashlib.sha256(token.encode()).hexdigest()[:32],
        label=f"bearer:{claims.get('azp', claims.get('client_id'))}"[:100],
        scopes=_SCOPES[said.role],
        expires_at=datetime.fromtimestamp(claims["exp"], UTC),
    )
