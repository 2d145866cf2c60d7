"""The one door for browsers: every way of signing in ends here, whatever checked who it is."""

from django.contrib.auth import login, logout
from django.http import HttpRequest
from django.utils.translation import gettext as _

from portal.accounts import audit
from portal.accounts.models import Session, User
from portal.accounts.sessions import FACTS
from portal.lib.addresses import address_of
from portal.lib.problems import Problem

LOCAL_BACKEND = "django.contrib.auth.backends.ModelBackend"


class SignInRefused(Problem):
    """Nobody is let in. One sentence for all reasons: it tells a stranger nothing about who is here."""

    status = 401
    code = "sign_in_refused"

    def __init__(self) -> None:
        super().__init__(
            _("You cannot sign in with this."),
            hint=_("Check the name and the password. If they are right, ask an admin."),
        )


def enter(request: HttpRequest, user: User, *, method: Session.Method | str, issuer: str = "", sid: str = "") -> None:
    """Sign `user` in, who has proved to be it: a session with a new key that knows how and from where it began.

    `method` is one of `Session.Method`; `issuer` and `sid` name the identity provider and its session,
    for back-channel logout. Raises `SignInRefused` for people who are deactivated and for service
    accounts, which act by keys only.
    """
    if not user.is_active or user.is_service:
        refused("not_allowed", user=user, method=method)
        raise SignInRefused
    login(request, user, backend=getattr(user, "backend", None) or LOCAL_BACKEND)
    request.session[FACTS] = {
        "method": Session.Method(method).value,
        "address": address_of(request.META),
        "user_agent": request.headers.get("User-Agent", "")[:300],
        "oidc_issuer": issuer,
        "oidc_sid": sid,
    }
    audit.record("user.signed_in", by=user, target=user, after={"method": str(method)})


def leave(request: HttpRequest) -> None:
    """End this browser's session; its row goes, and with it whatever it holds open."""
    if isinstance(request.user, User):
        audit.record("user.signed_out", by=request.user, target=request.user)
    logout(request)


def refused(reason: str, *, user: User | None = None, method: Session.Method | str = Session.Method.PASSWORD) -> None:
    """Remember that somebody was not let in. A name that nobody has is not kept: it may be a password gone astray."""
    audit.refused("user.sign_in_refused", by=None, target=user, after={"reason": reason, "method": str(method)})
