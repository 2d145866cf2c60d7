"""Who else may see or edit a thing, and whose it is: for everything that has an access list (`models.Guarded`).

A kind of thing joins in with one line where its app starts (`sharing.register(Crew, noun=_("Crew"))`);
its API gets the routes from `portal.accounts.rest.access`. What a person must be to share is settled by
`permissions`: the owner or an admin. The rows are locked in one order: people, the access list, what hangs on it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.db.models.functions import Now
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _

from portal.accounts import audit
from portal.accounts.models import AccessGrant, AccessList, Guarded, Invitation, Role, User, Visibility
from portal.accounts.people import hold
from portal.accounts.permissions import Action, require
from portal.lib.problems import Conflict

Level = AccessGrant.Level


@dataclass(frozen=True)
class Kind:
    """A kind of thing that can be shared: its model, and what people call it."""

    model: type[Guarded]
    noun: Any  # lazy text: "Crew"


_kinds: dict[type[Guarded], Kind] = {}


def register(model: type[Guarded], *, noun: Any) -> None:
    """Let things of `model` be shared by invitation and handed on."""
    _kinds[model] = Kind(model, noun)


def name_of(thing: Guarded) -> str:
    """What an invitation says it is for: “Crew: Newsletter”."""
    kind = _kinds.get(type(thing))
    return (f"{kind.noun}: {thing}" if kind else str(thing))[:200]


def thing_of(access: AccessList) -> Guarded | None:
    """The thing that an access list guards; None when it is gone. A query for each kind until it is found."""
    for kind in _kinds.values():
        if found := kind.model._default_manager.filter(access=access).first():
            return found
    return None


def set_visibility(thing: Guarded, visibility: Visibility | str, *, by: User | None) -> None:
    """Show a thing to everybody, or take that back. Raises `PermissionDenied`."""
    with transaction.atomic():
        access = lock(thing, by=by)
        before = access.visibility
        if visibility == before:
            return
        access.visibility = visibility
        access.full_clean()
        access.save(update_fields=["visibility"])
        audit.record(
            _action(thing, "shared"),
            by=by,
            target=thing,
            before={"visibility": before},
            after={"visibility": str(visibility)},
        )


def members(thing: Guarded) -> list[AccessGrant]:
    """Who was let in beside the owner, by name. One query."""
    return list(AccessGrant.objects.filter(access=thing.access_id).select_related("user").order_by("user__username"))


def grant(thing: Guarded, user: User, level: Level | str, *, by: User | None) -> AccessGrant:
    """Let `user` in at `level` without asking them, or change the level of who is in.

    Raises `PermissionDenied`, `Conflict` for the owner and for who is deactivated.
    """
    with transaction.atomic():
        held = hold(user, by)
        access = lock(thing, by=by)
        if access.owner_id == user.pk:
            raise Conflict(_("The owner may do everything already."), code="is_owner")
        if not held[user.pk].is_active:
            raise Conflict(_("This account is deactivated."), code="person_inactive")
        old = AccessGrant.objects.filter(access=access, user=user).first()
        given, _is_new = AccessGrant.objects.update_or_create(
            access=access, user=user, defaults={"level": Level(level)}
        )
        Invitation.objects.filter(access=access, user=user, answer="").update(
            answer=Invitation.Answer.WITHDRAWN, answered_at=Now(), answered_by=by
        )
        if old is None or old.level != given.level:
            record_grant(thing, user, before=old.level if old else None, after=given.level, by=by)
    return given


def withdraw(thing: Guarded, user: User, *, by: User | None) -> None:
    """Let `user` in no more; who was let in may go by themselves. Safe to repeat. Raises `PermissionDenied`."""
    with transaction.atomic():
        access = lock(thing, by=None if by is not None and by.pk == user.pk else by)
        old = AccessGrant.objects.filter(access=access, user=user).first()
        if old is not None:
            old.delete()
            record_grant(thing, user, before=old.level, after=None, by=by)


def hand_on(thing: Guarded, *, to: User, by: User | None, keep: Level | str | None = Level.EDITOR) -> None:
    """Make `to` the owner. The owner until now stays on as `keep` (None: is let in no more).

    Open invitations are withdrawn: the new owner decides who comes in. Raises `PermissionDenied` unless
    `by` is (still) the owner or an admin, `Conflict` when `to` cannot own things.
    """
    with transaction.atomic():
        held = hold(to, by)
        access = lock(thing, by=by)
        new = held[to.pk]
        if access.owner_id == new.pk:
            raise Conflict(_("This belongs to them already."), code="is_owner")
        if not new.has_role(Role.USER):
            raise Conflict(
                _("“%(name)s” cannot own this.") % {"name": new},
                code="cannot_own",
                hint=_("The new owner needs an active account with the role “user” or “admin”."),
            )
        before = access.owner
        access.owner = new
        access.save(update_fields=["owner"])
        AccessGrant.objects.filter(access=access, user=new).delete()
        if keep is not None:
            AccessGrant.objects.create(access=access, user=before, level=Level(keep))
        Invitation.objects.filter(access=access, answer="").update(
            answer=Invitation.Answer.WITHDRAWN, answered_at=Now(), answered_by=by
        )
        audit.record(
            "access.handed_on",
            by=by,
            target=thing,
            before={"owner": before.get_username()},
            after={"owner": new.get_username(), "former_owner": str(keep) if keep else None},
        )


def lock(thing: Guarded, *, by: User | None, action: Action = Action.SHARE) -> AccessList:
    """Lock the access list of `thing`, as it is now, until the transaction ends; None for `by` asks for no right.

    Raises `PermissionDenied` unless `by` may do `action`, `Http404` when the thing was deleted meanwhile.
    """
    # Without a join: PostgreSQL finds no row when what it waited for has another owner than the one it joined.
    thing.access = get_object_or_404(AccessList.objects.select_for_update(no_key=True), pk=thing.access_id)
    if by is not None:
        require(by, action, thing)
    return thing.access


def record_grant(thing: Any, user: User, *, before: str | None, after: str | None, by: User | None) -> None:
    """Tell the audit log that somebody was let in, at another level, or no more."""
    audit.record(
        "access.granted" if after else "access.withdrawn",
        by=by,
        target=thing,
        before={"user": user.get_username(), "level": before},
        after={"user": user.get_username(), "level": after},
    )


def _action(thing: Guarded, verb: str) -> str:
    return f"{thing._meta.model_name}.{verb}"


def owned_by(user: User) -> Iterable[Guarded]:
    """What belongs to `user`, kind by kind: what is to be handed on before an account is deleted."""
    for kind in _kinds.values():
        yield from kind.model._default_manager.filter(access__owner=user)
