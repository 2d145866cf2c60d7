"""How API requests say who they are, and how API views declare who may use them."""

from typing import Any

from drf_spectacular.authentication import SessionScheme
from rest_framework.authentication import SessionAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from portal.accounts.models import Role, User
from portal.accounts.permissions import PUBLIC

SAFE = {"GET", "HEAD", "OPTIONS"}


class PortalSession(SessionAuthentication):
    """A signed-in browser, with CSRF protection. Names itself, so that a stranger gets 401 and not 403."""

    def authenticate_header(self, request: Request) -> str:
        return "Session"


class DeclaredAccess(BasePermission):
    """Looks at the view's `read_role` and `write_role`; a view that declares neither is refused.

    `read_role` is for GET, HEAD and OPTIONS, `write_role` for the rest; `PUBLIC` needs no sign-in.
    Which rows a person may see or change is settled by querysets and `permissions.find`.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        role = getattr(view, "read_role" if request.method in SAFE else "write_role", None)
        if role == PUBLIC:
            return True
        user = request.user
        return isinstance(role, Role) and isinstance(user, User) and user.has_role(role)


class PortalSessionScheme(SessionScheme):
    """Describes `PortalSession` in the API schema."""

    target_class = "portal.accounts.api.PortalSession"
