"""Who calls the gateway: a run's engine by its token; a person or a script by API key or access token.

A run's token is judged by its signature here, and by the database when its call is opened. Everything
else is judged by `credentials.check`, as in the API, with every request and before its body is read.
"""

import contextvars
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from django.utils.translation import gettext as _
from starlette.requests import Request

from executions.gateway import tokens
from executions.gateway.catalog import Caller
from executions.gateway.faults import Refusal
from executions.gateway.state import State
from portal.accounts import credentials, throttling
from portal.accounts.audit import refusals
from portal.accounts.credentials import Credential, CredentialRefused
from portal.accounts.limits import TooMany
from portal.accounts.models import Role, Scope, User
from portal.accounts.oidc.provider import FIRST_RETRY_SECONDS, as_known
from portal.accounts.watch import Permit
from portal.lib.addresses import client_address

MOST_AT_ONCE = 64  # calls of one person without a run, in one gateway: each may hold a body of 32 MB
_open: Counter[object] = Counter()


@dataclass(frozen=True)
class Need:
    """What a route asks of people; runs' tokens have what they need."""

    role: Role
    scope: Scope


CALL = Need(Role.USER, Scope.RUN)
LIST = Need(Role.VIEWER, Scope.READ)


@dataclass(frozen=True)
class Visitor:
    """Who calls. `permit` has to go on holding while something of theirs is open; a run's token has none."""

    caller: Caller
    permit: Permit | None = None


async def identify(request: Request, need: Need | None) -> Visitor:
    """Whose request it is. `need` None: it is for runs alone. Raises `Refusal`."""
    state: State = request.app.state.gateway
    token = _token(request)
    if token.startswith(tokens.PREFIX):
        try:
            return Visitor(Caller(*tokens.read(token)))
        except tokens.InvalidToken:
            raise Refusal(401, "invalid_token", "This token was not issued here.") from None
    address = client_address(
        request.client.host if request.client else None, request.headers.get("x-forwarded-for", "")
    )
    await state.keyset.ready(token)
    try:
        user, shown = await state.write(_judged, token, address)
    except CredentialRefused as exc:
        if exc.status != 401:  # nobody can say now whether it is good: it is no bad one, and worth another try
            raise Refusal(exc.status, exc.code, exc.sentence, retry_after=FIRST_RETRY_SECONDS) from None
        await _count_stranger(state, address)
        _note(request, None, 401, exc.code, address)
        raise Refusal(401, exc.code, exc.sentence) from None
    except TooMany as exc:
        raise too_many(exc) from None
    if need is None:
        sentence = _("Tools are called by runs alone, with the token that each run is given.")
        raise _forbidden(request, user, "run_token_needed", sentence, address)
    if not shown.allows(need.scope):
        sentence = _("This needs a key with the scope “%(scope)s”.") % {"scope": need.scope.value}
        raise _forbidden(request, user, "scope_missing", sentence, address)
    if not user.has_role(need.role):
        sentence = _("You may see models, but not call them. Ask an admin.")
        raise _forbidden(request, user, "forbidden", sentence, address)
    return Visitor(Caller(None, user=user.pk, api_key=shown.key_id), Permit(user, shown, need.role))


@contextmanager
def counted(visitor: Visitor) -> Iterator[None]:
    """While a call of theirs is open here. Raises `Refusal` for a person who has too many of them."""
    if visitor.permit is None:
        yield
        return
    key = visitor.caller.user
    if _open[key] >= MOST_AT_ONCE:
        sentence = _("You have %(count)s calls under way. Wait for one of them to end.") % {"count": _open[key]}
        raise Refusal(429, "too_many_at_once", sentence, retry_after=1)
    _open[key] += 1
    try:
        yield
    finally:
        _open[key] -= 1
        if not _open[key]:
            del _open[key]


def ended() -> Refusal:
    """What a caller hears whose key or account ended in the middle of a call."""
    return Refusal(401, CredentialRefused.code, _("What you came with is not good any more: the call was ended."))


def too_many(exc: TooMany) -> Refusal:
    return Refusal(429, exc.code, exc.sentence, retry_after=exc.wait)


def _token(request: Request) -> str:
    try:
        # Sent twice they make one that is none, as where the web server joins them.
        token = credentials.split(", ".join(request.headers.getlist("authorization")))
    except CredentialRefused as exc:
        raise Refusal(401, "invalid_token", exc.sentence) from None
    if token is None:
        sentence = "Send “Authorization: Bearer …”: an API key, an access token, or the token of a run."
        raise Refusal(401, "missing_token", sentence)
    return token


def _judged(token: str, address: str | None) -> tuple[User, Credential]:
    # In a context of its own: what it notes of this request must not be found by the thread's next one.
    return contextvars.copy_context().run(_judge, token, address)


def _judge(token: str, address: str | None) -> tuple[User, Credential]:
    with as_known():
        user, shown = credentials.check(token, address=address)
    throttling.count_user(user)
    return user, shown


async def _count_stranger(state: State, address: str | None) -> None:
    try:
        await state.write(throttling.count_stranger, address)
    except TooMany as exc:
        raise too_many(exc) from None


def _forbidden(request: Request, user: User, code: str, sentence: str, address: str | None) -> Refusal:
    _note(request, user, 403, code, address)
    return Refusal(403, code, sentence)


def _note(request: Request, user: User | None, status: int, code: str, address: str | None) -> None:
    after = {"status": status, "method": request.method, "route": f"gateway:{request.url.path[:100]}", "code": code}
    refusals.refused("request.refused", by=user, after=after, address=address)
