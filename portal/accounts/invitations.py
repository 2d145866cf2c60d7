"""Offers to join a thing as an editor or a viewer: to somebody who is here, or to whoever holds a mailed link.

The rows are locked in the order of `portal.accounts.sharing`, the invitation after its access list.
"""

import hashlib
import secrets
import uuid
from datetime import timedelta

from django.conf import settings
from django.core.validators import validate_email
from django.db import models, transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.urls import reverse
from django.utils import timezone, translation
from django.utils.formats import date_format
from django.utils.translation import gettext as _

from portal.accounts import audit, limits, mail, sharing
from portal.accounts.models import AccessGrant, AccessList, Guarded, Invitation, Role, User
from portal.accounts.people import hold
from portal.accounts.permissions import Action, can, require
from portal.lib.problems import Conflict, Problem

DAYS = 7  # how long an invitation is open
A_DAY = 100  # invitations of one person at most
Level = AccessGrant.Level
Answer = Invitation.Answer


class InvitationClosed(Conflict):
    """It was answered, withdrawn, or is too old; or who made it may let nobody in any more."""

    code = "invitation_closed"

    def __init__(self) -> None:
        super().__init__(_("This invitation is not open any more."), hint=_("Ask for a new one."))


class InvitationUnknown(Problem):
    """No invitation, or somebody else's."""

    status = 404
    code = "not_found"

    def __init__(self) -> None:
        super().__init__(_("There is no such invitation for you."), hint=_("Copy the whole link."))


def invite(
    thing: Guarded,
    *,
    level: Level | str,
    by: User,
    user: User | None = None,
    email: str = "",
    days: int = DAYS,
) -> tuple[Invitation, str]:
    """Offer `thing` to `user`, or to whoever gets a link at `email`; the token of its link, which is not kept.

    One that is still open for the same person is withdrawn. Tell them with `tell`, after the transaction.
    Raises `PermissionDenied`, `ValidationError` (email), `Conflict`, `limits.TooMany`.
    """
    if (user is None) == (not email):
        raise TypeError("an invitation is for a user or for an address")
    if email:
        validate_email(email)
    require(by, Action.SHARE, thing)
    limits.hit(f"invite:{by.pk}", limit=A_DAY, seconds=86_400)
    token = secrets.token_urlsafe(32)
    with transaction.atomic():
        held = hold(user, by)
        access = sharing.lock(thing, by=by)
        if user is not None:
            _require_invitable(access, held[user.pk], level)
        same = Invitation.objects.filter(user=user) if user else Invitation.objects.filter(email__iexact=email)
        _close(same.filter(access=access, answer=""), Answer.WITHDRAWN, by)
        invitation = Invitation.objects.create(
            access=access,
            level=Level(level),
            thing=sharing.name_of(thing),
            user=user,
            email="" if user else email,
            token_digest=_digest(token),
            invited_by=by,
            expires_at=timezone.now() + timedelta(days=days),
        )
        whom = user.get_username() if user else email
        audit.record("invitation.created", by=by, target=thing, after={"for": whom, "level": invitation.level})
    return invitation, token


def link_of(token: str) -> str:
    """The address at which the holder of `token` answers, signed in."""
    return settings.PORTAL_URL + reverse("accounts:invitation", args=[token])


def tell(invitation: Invitation, token: str) -> bool:
    """Mail the link to whom it is for; False when no mail went out, and the link is to be handed over by hand."""
    person = invitation.user
    address = person.email if person else invitation.email
    if not address or not settings.EMAIL_URL:
        return False
    with translation.override((person.language if person else "") or settings.LANGUAGE_CODE):
        named = {"who": invitation.invited_by.get_username(), "thing": invitation.thing}
        until = date_format(timezone.localtime(invitation.expires_at), "DATETIME_FORMAT")
        paragraphs = [
            _("%(who)s invites you to “%(thing)s”, as: %(level)s.")
            % {**named, "level": invitation.get_level_display()},
            _("Answer here, after signing in:"),
            link_of(token),
            _("The invitation is open until %(until)s.") % {"until": until},
        ]
        return bool(mail.send([mail.message(address, _("%(who)s invites you to “%(thing)s”") % named, paragraphs)]))


def open_for(user: User) -> "models.QuerySet[Invitation]":
    """The invitations that `user` can answer, the newest first."""
    return _open().filter(user=user).select_related("invited_by")


def open_of(thing: Guarded) -> "models.QuerySet[Invitation]":
    """The open invitations to `thing`, the newest first."""
    return _open().filter(access=thing.access_id).select_related("invited_by", "user")


def made_by(user: User) -> "models.QuerySet[Invitation]":
    """The open invitations that `user` made, the newest first."""
    return _open().filter(invited_by=user).select_related("invited_by", "user")


def known_to(user: User) -> "models.QuerySet[Invitation]":
    """Open ones that `user` may answer or take back: for them, by them, to what is theirs; all for admins."""
    rows = _open().select_related("invited_by", "access__owner")
    return rows if user.has_role(Role.ADMIN) else rows.filter(Q(user=user) | Q(invited_by=user) | Q(access__owner=user))


def find(token: str, *, by: User) -> Invitation:
    """The invitation of a link, if `by` may answer it. Raises `InvitationUnknown`, `InvitationClosed`."""
    invitation = Invitation.objects.select_related("invited_by", "access").filter(token_digest=_digest(token)).first()
    if invitation is None or invitation.user_id not in {None, by.pk}:
        raise InvitationUnknown
    if not _is_open(invitation):
        raise InvitationClosed
    return invitation


def accept(invitation: Invitation, *, by: User) -> AccessGrant | None:
    """Join at the offered level; who is in at a higher one keeps it. None for the owner, who needs no grant.

    `invitation` comes from `find` or `open_for`. Accepted once: of two who hold a link the first one
    joins. Raises `InvitationUnknown`, `InvitationClosed`.
    """
    with transaction.atomic():
        held = _held(invitation, by)
        access = invitation.access
        if not can(invitation.invited_by, Action.SHARE, invitation) or not held[by.pk].is_active:
            raise InvitationClosed
        _close(Invitation.objects.filter(pk=invitation.pk), Answer.ACCEPTED, by)
        _reload(invitation)
        thing = sharing.thing_of(access)
        audit.record("invitation.accepted", by=by, target=thing or invitation, after={"level": invitation.level})
        if access.owner_id == by.pk:
            return None
        old = AccessGrant.objects.filter(access=access, user=by).first()
        if old is not None and old.level in {Level.EDITOR, invitation.level}:
            return old
        grant, _is_new = AccessGrant.objects.update_or_create(
            access=access, user=by, defaults={"level": invitation.level}
        )
        sharing.record_grant(
            thing or invitation, by, before=old.level if old else None, after=grant.level, by=invitation.invited_by
        )
    return grant


def decline(invitation: Invitation, *, by: User) -> None:
    """Say no. Raises `InvitationUnknown`, `InvitationClosed`."""
    with transaction.atomic():
        _held(invitation, by)
        _close(Invitation.objects.filter(pk=invitation.pk), Answer.DECLINED, by)
        _reload(invitation)
        audit.record("invitation.declined", by=by, target=sharing.thing_of(invitation.access) or invitation)


def withdraw(invitation: Invitation, *, by: User) -> None:
    """Take an offer back: who made it, the owner of the thing, or an admin.

    Raises `PermissionDenied`, `InvitationClosed`.
    """
    with transaction.atomic():
        hold(by)
        access = _lock_access(invitation)
        if invitation.invited_by_id != by.pk:
            require(by, Action.SHARE, invitation)
        _lock_open(invitation)
        _close(Invitation.objects.filter(pk=invitation.pk), Answer.WITHDRAWN, by)
        _reload(invitation)
        audit.record("invitation.withdrawn", by=by, target=sharing.thing_of(access) or invitation)


# --- Inside ------------------------------------------------------------------------------------------


def _open() -> "models.QuerySet[Invitation]":
    return Invitation.objects.filter(answer="", expires_at__gt=Now())


def _is_open(invitation: Invitation) -> bool:
    return not invitation.answer and invitation.expires_at > timezone.now()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _held(invitation: Invitation, by: User) -> dict[uuid.UUID, User]:
    """Lock who answers, the access list and the invitation, as they are now, and see that it may be answered."""
    held = hold(by, invitation.invited_by)
    _lock_access(invitation)
    _lock_open(invitation)
    if invitation.user_id not in {None, by.pk}:
        raise InvitationUnknown
    invitation.invited_by = held[invitation.invited_by_id]
    return held


def _lock_access(invitation: Invitation) -> AccessList:
    access = AccessList.objects.select_for_update(no_key=True).filter(pk=invitation.access_id).first()
    if access is None:
        raise InvitationClosed
    invitation.access = access
    return access


def _lock_open(invitation: Invitation) -> None:
    row = Invitation.objects.select_for_update(no_key=True).filter(pk=invitation.pk).first()
    if row is None or not _is_open(row):
        raise InvitationClosed


def _close(rows: "models.QuerySet[Invitation]", answer: Answer, by: User) -> None:
    rows.update(answer=answer, answered_at=Now(), answered_by=by)


def _reload(invitation: Invitation) -> None:
    invitation.refresh_from_db(fields=["answer", "answered_at", "answered_by"])


def _require_invitable(access: AccessList, user: User, level: Level | str) -> None:
    if access.owner_id == user.pk:
        raise Conflict(_("The owner may do everything already."), code="is_owner")
    if not user.is_active or user.is_service:
        raise Conflict(
            _("“%(name)s” cannot answer an invitation.") % {"name": user},
            code="cannot_answer",
            hint=_("An admin can let a service account in without asking it."),
        )
    if AccessGrant.objects.filter(access=access, user=user, level__in={Level.EDITOR, Level(level)}).exists():
        raise Conflict(_("“%(name)s” is in already.") % {"name": user}, code="is_member")
