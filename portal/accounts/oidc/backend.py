"""mozilla-django-oidc, told where the provider is by its metadata, and whom a token speaks of by `identities`."""

from typing import Any

from django.conf import settings
from django.contrib.auth.backends import ModelBackend
from django.urls import reverse
from django.utils.translation import gettext as _
from mozilla_django_oidc.auth import OIDCAuthenticationBackend
from mozilla_django_oidc.utils import import_from_settings

from portal.accounts.models import User
from portal.accounts.oidc import identities, tokens
from portal.accounts.oidc.provider import ProviderUnavailable, provider
from portal.lib.problems import Problem


class SignInFailed(Problem):
    """The provider did not say who it is, or not in a way that proves it."""

    status = 400
    code = "sign_in_failed"


class ProviderAway(Problem):
    """The provider does not answer."""

    status = 503
    code = "provider_unavailable"

    def __init__(self) -> None:
        super().__init__(
            _("The sign-in service cannot be reached."), hint=_("Try again in a moment. If it stays so, tell an admin.")
        )


def callback_url() -> str:
    """Where the provider sends people back to: an address of PORTAL_URL, whatever a request calls this host."""
    return settings.PORTAL_URL + reverse("oidc_authentication_callback")


def library_setting(name: str, *default: Any) -> Any:
    """A setting as mozilla-django-oidc calls it. Raises `ProviderUnavailable` where metadata are needed."""
    match name:
        case "OIDC_OP_AUTHORIZATION_ENDPOINT":
            return provider().endpoint("authorization_endpoint")
        case "OIDC_RP_CLIENT_ID":
            return settings.OIDC_CLIENT_ID
        case "OIDC_RP_SCOPES":
            return settings.OIDC_SCOPES
        case "OIDC_USE_PKCE" | "OIDC_USE_NONCE":
            return True
        case "OIDC_PKCE_CODE_CHALLENGE_METHOD":
            return "S256"
    return import_from_settings(name, *default)


class ProviderBackend(OIDCAuthenticationBackend):
    """Takes the code that the provider handed out, trades it for tokens, verifies them, and knows the user.

    What came along is left on the request as `oidc_tokens`, for the session. Raises `SignInFailed`,
    `ProviderAway`, `identities.IdentityRefused`.
    """

    get_settings = staticmethod(library_setting)
    # Of users, sessions know only this: who is deactivated is nobody.
    get_user = ModelBackend.get_user

    def __init__(self) -> None:
        # The library's own reads the provider's addresses here, and a backend is made for every request.
        self.UserModel = User
        self.OIDC_RP_CLIENT_ID = settings.OIDC_CLIENT_ID
        self.OIDC_RP_CLIENT_SECRET = settings.OIDC_CLIENT_SECRET

    def authenticate(self, request: Any, **credentials: Any) -> User | None:
        if request is None or "nonce" not in credentials or not settings.OIDC_ISSUER:
            return None  # somebody signs in by name and password
        try:
            found: User | None = super().authenticate(request, **credentials)
        except ProviderUnavailable as exc:
            raise ProviderAway from exc
        except tokens.TokenRefused as exc:
            raise SignInFailed(_("The sign-in service's answer proves nothing: %(why)s.") % {"why": exc}) from exc
        return found

    def get_token(self, payload: dict[str, Any]) -> dict[str, Any]:
        form = {name: payload[name] for name in ("grant_type", "code", "code_verifier")}
        status, answer = provider().token({**form, "redirect_uri": callback_url()})
        if status != 200:
            raise SignInFailed(
                _("The sign-in service did not accept the sign-in (%(why)s).")
                % {"why": str(answer.get("error", status))[:60]},
                hint=_("Try again. If it stays so, tell an admin."),
            )
        if not isinstance(answer.get("id_token"), str) or not isinstance(answer.get("access_token"), str):
            raise SignInFailed(_("The sign-in service did not say who you are."))
        self.request.oidc_tokens = answer
        return answer

    def verify_token(self, token: str, **expected: Any) -> dict[str, Any]:
        access_token = self.request.oidc_tokens["access_token"]
        return tokens.id_claims(token, nonce=expected.get("nonce") or "", access_token=access_token)

    def get_or_create_user(self, access_token: str, id_token: str, payload: dict[str, Any]) -> User:
        self.request.oidc_sid = str(payload.get("sid", ""))[:255]
        return identities.settle(what_is_said(payload, access_token))


def what_is_said(id_claims: dict[str, Any], access_token: str) -> identities.Said:
    """Names from the id token, roles and groups from the token that OIDC_ROLES_FROM names.

    Raises `TokenRefused`, `ProviderUnavailable`.
    """
    if settings.OIDC_ROLES_FROM == "id_token":
        return identities.said_by(id_claims)
    claims = tokens.access_claims(access_token)
    if claims["sub"] != id_claims["sub"]:
        raise tokens.TokenRefused("the access token speaks of somebody else")
    names = {key: id_claims[key] for key in identities.PROFILE if key in id_claims}
    return identities.said_by(claims, names)
