"""People and service accounts: made, given a role, switched off and on again, deleted.

Pages, API, Django admin, commands and single sign-on all come here. `by` is who does it; None is the
system (a command, the identity provider). There is always an admin left: whoever takes the role away
from one, or switches one off, locks the rows of all admins in one order and looks again.
"""

import secrets
import uuid
from typing import Any

from django.conf import settings
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import models, transaction
from django.db.models import ProtectedError, Q, RestrictedError
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from portal.accounts import audit, limits, sessions
from portal.accounts.models import ApiKey, Invitation, Role, User
from portal.accounts.permissions import require_role
from portal.accounts.signals import user_deactivated
from portal.lib.problems import Conflict

# What people may say about themselves, and admins about them.
FACTS = ("first_name", "last_name", "email", "language")
SIGN_UPS = 20  # tries of one address, those that a form sent back included
SIGN_UPS_SECONDS = 3600


class LastAdmin(Conflict):
    """The portal would be left without anybody who looks after it."""

    code = "last_admin"

    def __init__(self) -> None:
        super().__init__(
            _("This is the last active admin."), hint=_("Make somebody else an admin first, then do it again.")
        )


# --- Making ------------------------------------------------------------------------------------------


def create_person(
    *, username: str, by: User | None, role: Role | str = Role.USER, password: str | None = None, **facts: Any
) -> User:
    """A person with a local account. Without a password nobody can sign in to it until one is set
    (`passwords.make_link`).

    `facts` are of `FACTS`. Raises `ValidationError` by field, `PermissionDenied` unless `by` is an admin.
    """
    with transaction.atomic():
        _require_admin(by)
        # Usable, so that a reset works, and known to nobody.
        user = _made(username, role, password=password, fallback=secrets.token_urlsafe(32), **facts)
        audit.record("user.created", by=by, target=user, after={"role": user.role})
    return user


def sign_up(*, username: str, password: str, address: str | None, **facts: Any) -> User:
    """An account that a stranger at `address` makes for themselves, with the role `SIGN_UP_ROLE`.

    Raises `PermissionDenied` unless `SIGN_UP` is on, `limits.TooMany`, `ValidationError` by field.
    """
    if not settings.SIGN_UP:
        raise PermissionDenied(_("Accounts are made by admins here. Ask one of them."))
    limits.hit(f"sign-up:from:{limits.network_of(address)}", limit=SIGN_UPS, seconds=SIGN_UPS_SECONDS)
    if "@" in User.normalize_username(username):  # a stranger's name must not pass for somebody's mail address
        raise ValidationError({"username": ValidationError(_("Choose a name without “@”."), code="invalid")})
    with transaction.atomic():
        user = _made(username, settings.SIGN_UP_ROLE, password=password, **facts)
        audit.record("user.signed_up", by=user, target=user, after={"role": user.role})
    return user


def create_service_account(*, username: str, by: User | None, role: Role | str = Role.USER, **facts: Any) -> User:
    """An account for scripts: no password, no sign-in, keys that admins make.

    Raises `ValidationError` by field, `PermissionDenied` unless `by` is an admin.
    """
    with transaction.atomic():
        _require_admin(by)
        user = _made(username, role, is_service=True, **facts)
        audit.record("user.created", by=by, target=user, after={"role": user.role, "is_service": True})
    return user


def _made(
    username: str,
    role: Role | str,
    *,
    password: str | None = None,
    fallback: str | None = None,
    is_service: bool = False,
    **facts: Any,
) -> User:
    user = User(username=User.normalize_username(username), role=role, is_service=is_service, **facts)
    if password is not None:
        try:
            validate_password(password, user)
        except ValidationError as exc:
            raise ValidationError({"password": exc.error_list}) from exc
    user.set_password(password if password is not None else fallback)
    user.full_clean()
    # Names that differ by their case alone would pass for one another.
    if User.objects.filter(username__iexact=user.username).exists():
        raise ValidationError({"username": ValidationError(_("Somebody has this name already."), code="unique")})
    user.save(force_insert=True)
    return user


# --- Changing ----------------------------------------------------------------------------------------


def change_facts(user: User, *, by: User | None, **facts: Any) -> User:
    """Change names, mail address or language (`FACTS`): the person themselves, or an admin.

    Raises `ValidationError` by field, `PermissionDenied`.
    """
    with transaction.atomic():
        held = hold(user)[user.pk]
        if by is not None and by.pk != user.pk:
            _require_admin(by)
        before = {name: getattr(held, name) for name in FACTS}
        for name, value in facts.items():
            if name not in FACTS:
                raise TypeError(name)
            setattr(held, name, value)
        held.full_clean(exclude=["password"])
        changed = [name for name in FACTS if getattr(held, name) != before[name]]
        if changed:
            held.save(update_fields=changed)
            after = {name: getattr(held, name) for name in changed}
            audit.record(
                "user.changed", by=by, target=user, before={name: before[name] for name in changed}, after=after
            )
    for name in FACTS:
        setattr(user, name, getattr(held, name))
    return user


def change_role(user: User, role: Role | str, *, by: User | None) -> User:
    """Give `user` another role. Nobody raises their own.

    Raises `LastAdmin`, `PermissionDenied` unless `by` is (still) an admin.
    """
    role = Role(role)
    with transaction.atomic():
        held = hold_with_admins(user, by)
        before = Role(held[user.pk].role)
        if by is not None and by.pk == user.pk and role.rank > by.effective_role.rank:
            raise PermissionDenied(_("Nobody raises their own role. Ask an admin."))
        if role != before:
            if role is not Role.ADMIN:
                _require_another_admin(held, user)
            User.objects.filter(pk=user.pk).update(role=role)
            audit.record("user.role_changed", by=by, target=user, before={"role": before}, after={"role": role})
    user.role = role
    return user


def deactivate(user: User, *, by: User | None) -> User:
    """Switch an account off, at once: its sessions and keys end for good, invitations of and to it are withdrawn,
    and `user_deactivated` ends what goes on in its name. What it owns stays. Safe to repeat.

    Raises `LastAdmin`, `PermissionDenied` unless `by` is (still) an admin.
    """
    with transaction.atomic():
        held = hold_with_admins(user, by)
        _require_another_admin(held, user)
        was_active = held[user.pk].is_active
        User.objects.filter(pk=user.pk).update(is_active=False)
        ended = sessions.end_all(user, by=by)
        keys = ApiKey.objects.filter(user=user, revoked_at=None).update(revoked_at=Now())
        Invitation.objects.filter(Q(user=user) | Q(invited_by=user), answer="").update(
            answer=Invitation.Answer.WITHDRAWN, answered_at=Now(), answered_by=by
        )
        if was_active:
            audit.record("user.deactivated", by=by, target=user, after={"sessions": ended, "keys": keys})
        transaction.on_commit(lambda: user_deactivated.send(User, user=user, by=by), robust=True)
    user.is_active = False
    return user


def reactivate(user: User, *, by: User | None) -> User:
    """Let an account in again. Sessions, keys and runs that ended stay ended. Safe to repeat.

    Raises `PermissionDenied` unless `by` is an admin.
    """
    with transaction.atomic():
        held = hold_with_admins(user, by)
        if not held[user.pk].is_active:
            User.objects.filter(pk=user.pk).update(is_active=True)
            audit.record("user.reactivated", by=by, target=user)
    user.is_active = True
    return user


def delete(user: User, *, by: User | None) -> None:
    """Delete an account that owns nothing: neither things, which are handed on, nor runs, which are not.

    Raises `LastAdmin`, `Conflict` that says what to do while things belong to it, `PermissionDenied`.
    """
    with transaction.atomic():
        held = hold_with_admins(user, by)
        _require_another_admin(held, user)
        audit.record("user.deleted", by=by, target=user, before={"role": user.role})
        try:
            with transaction.atomic():
                held[user.pk].delete()
        except (ProtectedError, RestrictedError) as exc:
            raise Conflict(
                _("“%(name)s” still owns things.") % {"name": user},
                code="user_owns_things",
                hint=_("Hand its things on to somebody and delete its runs first, or deactivate the account instead."),
            ) from exc


# --- Finding -----------------------------------------------------------------------------------------


def matching(users: "models.QuerySet[User]", text: str, *, mail_too: bool = False) -> "models.QuerySet[User]":
    """Those of `users` whose names hold every word of `text`; for admins by mail address too."""
    fields = ("username", "first_name", "last_name", *(["email"] if mail_too else []))
    for word in text.split():
        found = Q()
        for field in fields:
            found |= Q(**{f"{field}__icontains": word})
        users = users.filter(found)
    return users


# --- Locks -------------------------------------------------------------------------------------------


def hold(*people: User | None, others: Q | None = None) -> dict[uuid.UUID, User]:
    """Lock the rows of `people` (and `others`), by their ids in order, until the transaction ends; as they are now.

    Raises `Conflict` when one of `people` was deleted meanwhile.
    """
    wanted = {person.pk for person in people if person is not None}
    rows = User.objects.filter(Q(pk__in=wanted) | others if others is not None else Q(pk__in=wanted))
    held = {row.pk: row for row in rows.select_for_update(no_key=True).order_by("pk")}
    if wanted - held.keys():
        raise Conflict(_("This account is not there any more."), code="person_gone")
    return held


_ADMINS = Q(role=Role.ADMIN, is_active=True, is_service=False)


def hold_with_admins(user: User, by: User | None) -> dict[uuid.UUID, User]:
    """Lock `user`, `by` and all admins: what whoever may change a role holds first, so that none waits for another.

    Raises `PermissionDenied` unless `by` is (still) an admin.
    """
    held = hold(user, by, others=_ADMINS)
    if by is not None:
        # As they are now: an admin who was demoted in this moment is none any more.
        require_role(held[by.pk].acting_as(by.role_cap), Role.ADMIN)
    return held


def _require_admin(by: User | None) -> None:
    if by is not None:
        require_role(by, Role.ADMIN)


def _require_another_admin(held: dict[uuid.UUID, User], user: User) -> None:
    """Raise `LastAdmin` when `user` is the only person who is an active admin. Service accounts do not count."""

    def counts(person: User) -> bool:
        return person.role == Role.ADMIN and person.is_active and not person.is_service

    if counts(held[user.pk]) and not any(counts(person) for key, person in held.items() if key != user.pk):
        raise LastAdmin
