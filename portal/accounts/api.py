"""How API requests say who they are, and how API views declare who may use them."""

import uuid
from typing import Any

from django.utils.translation import gettext as _
from drf_spectacular.authentication import SessionScheme
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework import exceptions
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from portal.accounts import credentials, throttling
from portal.accounts.credentials import Credential, CredentialRefused, CredentialUnchecked
from portal.accounts.limits import TooMany
from portal.accounts.models import Role, Scope, User
from portal.accounts.permissions import PUBLIC
from portal.lib.addresses import address_of

SAFE = {"GET", "HEAD", "OPTIONS"}


class _Refused(exceptions.AuthenticationFailed):
    """A credential that opens nothing, as DRF wants to hear it: it answers with a challenge."""

    def __init__(self, why: CredentialRefused) -> None:
        super().__init__(why.detail, code=why.code)
        self.hint = why.hint


class _Unchecked(exceptions.APIException):
    """A credential of which nobody can say now whether it is good."""

    def __init__(self, why: CredentialUnchecked) -> None:
        super().__init__(why.detail, code=why.code)
        self.status_code, self.hint = why.status, why.hint


class _TooMany(exceptions.APIException):
    """A key or a person that came too often."""

    status_code = 429

    def __init__(self, why: TooMany) -> None:
        super().__init__(why.detail, code=why.code)
        self.hint, self.wait = why.hint, why.wait


class ScopeMissing(exceptions.PermissionDenied):
    """The user may do this, but the credential they came with is not for it."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(_("This needs a key with the scope “%(scope)s”.") % {"scope": scope.value}, "scope_missing")
        self.hint = _("Make a key that has it, on your profile page.")


class PortalCredentials(BaseAuthentication):
    """Takes API keys and the identity provider's tokens from the header `Authorization`, as `credentials` judges them.

    Stands before `PortalSession`: a header that is refused is the end, whatever cookie came with it. Counts the
    request to the user, whatever becomes of it then (`throttling`).
    """

    def authenticate(self, request: Request) -> tuple[User, Credential] | None:
        try:
            token = credentials.split(request.META.get("HTTP_AUTHORIZATION", ""))
            if token is None:
                return None
            throttling.leave_to_credentials(request._request)
            user, shown = credentials.check(token, address=address_of(request.META))
            throttling.count_user(user)
            return user, shown
        except CredentialUnchecked as exc:
            raise _Unchecked(exc) from exc
        except CredentialRefused as exc:
            raise _Refused(exc) from exc
        except TooMany as exc:
            raise _TooMany(exc) from exc

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="Agent Portal"'


class PortalSession(SessionAuthentication):
    """A signed-in browser, with CSRF protection."""

    def authenticate(self, request: Request) -> tuple[User, Credential | None] | None:
        found = super().authenticate(request)
        return found and (found[0], getattr(request._request, "credential", None))


def credential(request: Request) -> Credential | None:
    """What an API request came with; None where nothing was asked for."""
    return request.auth if isinstance(request.auth, Credential) else None


def key_id(request: Request) -> uuid.UUID | None:
    """The API key with which a request came, if it did."""
    shown = credential(request)
    return shown.key_id if shown is not None else None


class DeclaredAccess(BasePermission):
    """Looks at what the view declares; a view that declares no role is refused.

    - `read_role` for GET, HEAD and OPTIONS, `write_role` for the rest: the least role, or `PUBLIC`;
    - `read_scope` (READ unless it says otherwise) and `write_scope` (WRITE), and `action_scopes` for
      single actions of a viewset: the scope that an API key needs. Routes for admins need ADMIN.

    Which rows a person may see or change is settled by querysets and `permissions.find`.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        role, scope = needed(view, request.method or "GET")
        if role == PUBLIC:
            return True
        user = request.user
        if not isinstance(role, Role) or not isinstance(user, User):
            return False
        shown = credential(request)
        if shown is not None and not shown.allows(scope):
            raise ScopeMissing(scope)
        return user.has_role(role)

    @staticmethod
    def describe(view: Any, method: str) -> str:
        """What a route needs, for the API's schema."""
        role, scope = needed(view, method)
        return "" if role in {None, PUBLIC} else f"It takes the role `{role}`; an API key needs the scope `{scope}`."


def needed(view: Any, method: str) -> tuple[Role | str | None, Scope]:
    """The role (or `PUBLIC`; None: not declared) and the scope that `view` (or its class) asks of `method`."""
    kind = "read" if method in SAFE else "write"
    role = getattr(view, f"{kind}_role", None)
    if role is Role.ADMIN:
        return role, Scope.ADMIN
    usual = getattr(view, f"{kind}_scope", Scope.READ if kind == "read" else Scope.WRITE)
    return role, getattr(view, "action_scopes", {}).get(getattr(view, "action", None), usual)


class PortalSessionScheme(SessionScheme):
    """Describes `PortalSession` in the API schema."""

    target_class = "portal.accounts.api.PortalSession"


class PortalCredentialsScheme(OpenApiAuthenticationExtension):
    """Describes `PortalCredentials` in the API schema: either form of the header."""

    target_class = "portal.accounts.api.PortalCredentials"
    name = ["apiKey", "bearer"]

    def get_security_requirement(self, auto_schema: Any) -> list[dict[str, list[str]]]:
        return [{name: []} for name in self.name]

    def get_security_definition(self, auto_schema: Any) -> list[dict[str, str]]:
        return [
            {
                "type": "apiKey",
                "in": "header",
                "name": "Authorization",
                "description": "`Api-Key ap_…`: a key of yours, from your profile page or `manage.py api_key create`.",
            },
            {
                "type": "http",
                "scheme": "bearer",
                "description": "An access token of the identity provider, or an API key.",
            },
        ]
