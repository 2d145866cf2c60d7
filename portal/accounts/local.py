"""Signing in with a local account: name and password, then the second factor where there is one.

    form page    → `check_password` → `begin` → signed in (True), or half (False)
    second page  → `half_signed_in` → `finish`

Tries are counted by address and by name before anything is looked at, so that many at once pass no
limit; those that were right are taken back. All refusals say the same, and take the same time.
"""

import hashlib
import time
import uuid

from django.contrib.auth import authenticate
from django.http import HttpRequest

from portal.accounts import limits, second_factor
from portal.accounts.entering import LOCAL_BACKEND, SignInRefused, enter, refused
from portal.accounts.models import Session, User
from portal.lib.addresses import address_of

TRIES_SECONDS = 300
TRIES_OF_A_NAME = 10
TRIES_OF_AN_ADDRESS = 30
HALF = "portal_half_signed_in"
HALF_SECONDS = 300  # how long somebody may look for their telephone


def check_password(request: HttpRequest, *, username: str, password: str) -> User:
    """Whose name and password these are.

    Raises `SignInRefused` for a wrong name or password, a deactivated person and a service account
    alike, `limits.TooMany` (an attempt too many is refused however right it is).
    """
    username = username.replace("\x00", "\ufffd")  # nobody is called either; PostgreSQL refuses to look for the first
    by_address = f"sign-in:from:{limits.network_of(address_of(request.META))}"
    by_name = f"sign-in:name:{hashlib.sha256(username.casefold().encode()).hexdigest()}"
    try:
        limits.hit(by_address, limit=TRIES_OF_AN_ADDRESS, seconds=TRIES_SECONDS)
        limits.hit(by_name, limit=TRIES_OF_A_NAME, seconds=TRIES_SECONDS)
    except limits.TooMany:
        refused("too_many_tries", user=_named(username))
        raise
    user = authenticate(request, username=username, password=password)
    if not isinstance(user, User) or user.is_service:
        refused("wrong_password", user=_named(username))
        raise SignInRefused
    limits.give_back(by_address)
    limits.forget(by_name)
    return user


def begin(request: HttpRequest, user: User) -> bool:
    """Sign `user` in, whose password was right; False when a second factor is still to be shown (`finish`)."""
    if not second_factor.is_on(user):
        enter(request, user, method=Session.Method.PASSWORD)
        return True
    request.session.cycle_key()
    request.session[HALF] = {"user": str(user.pk), "hash": user.get_session_auth_hash(), "at": int(time.time())}
    return False


def half_signed_in(request: HttpRequest) -> User | None:
    """Who has shown their password in this browser and still owes the second factor; None when that was too long ago.

    A password that changes meanwhile ends it.
    """
    half = request.session.get(HALF)
    if not half or not 0 <= time.time() - half["at"] <= HALF_SECONDS:
        request.session.pop(HALF, None)
        return None
    user = User.objects.filter(pk=uuid.UUID(half["user"]), is_active=True).first()
    if user is None or user.get_session_auth_hash() != half["hash"]:
        request.session.pop(HALF, None)
        return None
    user.backend = LOCAL_BACKEND
    return user


def finish(request: HttpRequest, *, code: str) -> User:
    """Sign in who is half signed in, with a code of the app or a recovery code.

    Raises `SignInRefused` when nobody is (the form of name and password comes first again),
    `second_factor.WrongCode`, `limits.TooMany`.
    """
    user = half_signed_in(request)
    if user is None:
        raise SignInRefused
    try:
        second_factor.verify(user, code)
    except (second_factor.WrongCode, limits.TooMany) as exc:
        refused("too_many_tries" if isinstance(exc, limits.TooMany) else "wrong_code", user=user)
        raise
    del request.session[HALF]
    enter(request, user, method=Session.Method.PASSWORD)
    return user


def _named(username: str) -> User | None:
    return User.objects.filter(username=User.normalize_username(username)[:150]).first()
