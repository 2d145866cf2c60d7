"""Setting a password anew: by who knows the old one, by an admin, or by a link that is mailed or handed over.

A new password ends the person's other sessions. Who signs in elsewhere only, and service accounts, get no link.
"""

import hashlib
import logging

from django.conf import settings
from django.contrib.auth import update_session_auth_hash
from django.contrib.auth.password_validation import validate_password
from django.contrib.auth.tokens import default_token_generator
from django.core.exceptions import ValidationError
from django.core.mail import EmailMessage
from django.db import DatabaseError, transaction
from django.http import HttpRequest
from django.urls import reverse
from django.utils import translation
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_decode, urlsafe_base64_encode
from django.utils.translation import gettext as _
from django_q.tasks import async_task
from redis.exceptions import RedisError

from portal.accounts import audit, limits, mail, sessions
from portal.accounts.models import Role, User
from portal.accounts.people import hold
from portal.accounts.permissions import require_role
from portal.lib.problems import Conflict, Problem

logger = logging.getLogger(__name__)

MAX_ACCOUNTS = 5  # that may share a mail address
RESETS_OF_AN_ADDRESS = 10
RESETS_OF_A_MAIL = 3
RESETS_SECONDS = 3600


class LinkDead(Problem):
    """The link is not ours, too old, or was used."""

    code = "link_dead"

    def __init__(self) -> None:
        super().__init__(_("This link does not work any more."), hint=_("Ask for a new one."))


def change(request: HttpRequest, user: User, password: str) -> None:
    """Set the password of who is signed in; this session goes on, the others end. The form has asked for the old one.

    Raises `ValidationError` (password), `Conflict` for who has no local password.
    """
    if not user.has_usable_password():
        raise Conflict(_("You sign in elsewhere, and have no password here."), code="no_local_password")
    with transaction.atomic():
        _set(user, password, keep=request.session.session_key, action="user.password_changed", by=user)
    update_session_auth_hash(request, user)


def set_for(user: User, password: str, *, by: User | None) -> None:
    """Set somebody's password as an admin (or a command). Their sessions end.

    Raises `ValidationError` (password), `PermissionDenied`, `Conflict` for a service account.
    """
    if by is not None:
        require_role(by, Role.ADMIN)
    with transaction.atomic():
        _set(user, password, keep=None, action="user.password_changed", by=by)


def request_reset(email: str, *, address: str | None) -> None:
    """Have links mailed to whoever has this address here. Answers alike, in the same time, whether anybody has.

    Raises `limits.TooMany`. Does nothing without `EMAIL_URL`.
    """
    limits.hit(f"reset:from:{limits.network_of(address)}", limit=RESETS_OF_AN_ADDRESS, seconds=RESETS_SECONDS)
    if not settings.EMAIL_URL:
        return
    try:
        # Looked up and mailed by the queue: how long this takes tells nothing.
        async_task("portal.accounts.passwords.mail_links", email)
    except (DatabaseError, RedisError, OSError) as exc:
        logger.warning("a password reset could not be queued: %s", exc)


def mail_links(email: str) -> int:
    """Queue task: mail a link to every local account of this address; how many went out."""
    found = User.objects.filter(email__iexact=email, is_active=True, is_service=False)[:MAX_ACCOUNTS]
    people = [person for person in found if _may_use_link(person)]
    if not people:
        return 0
    try:
        limits.hit(
            f"reset:to:{hashlib.sha256(email.casefold().encode()).hexdigest()}",
            limit=RESETS_OF_A_MAIL,
            seconds=RESETS_SECONDS,
        )
    except limits.TooMany:
        logger.warning("too many password resets for one address")
        return 0
    return mail.send([_message(person) for person in people])


def make_link(user: User, *, by: User | None) -> str:
    """A link with which `user` sets a password, for an admin to hand over: good once, for `PASSWORD_RESET_TIMEOUT`.

    Raises `PermissionDenied`, `Conflict` for who gets none.
    """
    if by is not None:
        require_role(by, Role.ADMIN)
    user.refresh_from_db()  # the link holds for the password and the last sign-in as they are now
    if not _may_use_link(user):
        raise Conflict(
            _("“%(name)s” has no password to set.") % {"name": user},
            code="no_local_password",
            hint=_("Only active local accounts sign in with a password."),
        )
    audit.record("user.reset_link_made", by=by, target=user)
    return _link(user)


def user_of(uid: str, token: str) -> User:
    """Whose link it is. Raises `LinkDead`."""
    try:
        key = urlsafe_base64_decode(uid).decode()
        user = User.objects.filter(pk=key).first()
    except (ValueError, ValidationError) as exc:
        raise LinkDead from exc
    if user is None or not _may_use_link(user) or not default_token_generator.check_token(user, token):
        raise LinkDead
    return user


def reset(uid: str, token: str, password: str) -> User:
    """Set the password by a link, which is used up; the person's sessions end. They sign in with it afterwards.

    Raises `LinkDead`, `ValidationError` (password).
    """
    with transaction.atomic():
        hold(user_of(uid, token))
        user = user_of(uid, token)  # again: two who hold the link may come at once
        _set(user, password, keep=None, action="user.password_reset", by=user)
    return user


def _may_use_link(user: User) -> bool:
    return user.is_active and not user.is_service and user.has_usable_password()


def _link(user: User) -> str:
    uid = urlsafe_base64_encode(force_bytes(user.pk))
    token = default_token_generator.make_token(user)
    return settings.PORTAL_URL + reverse("accounts:reset-confirm", args=[uid, token])


def _message(person: User) -> EmailMessage:
    with translation.override(person.language or settings.LANGUAGE_CODE):
        paragraphs = [
            _("Somebody asked for a new password of “%(name)s”. Set it here:") % {"name": person.get_username()},
            _link(person),
            _("If it was not you, do nothing: the old password stays."),
        ]
        return mail.message(person.email, _("A new password for Agent Portal"), paragraphs)


def _set(user: User, password: str, *, keep: str | None, action: str, by: User | None) -> None:
    """Set it and end the sessions of the person but `keep` (a session's key)."""
    hold(user)
    if user.is_service:
        raise Conflict(_("A service account has no password; it acts by keys."), code="no_local_password")
    try:
        validate_password(password, user)
    except ValidationError as exc:
        raise ValidationError({"password": exc.error_list}) from exc
    user.set_password(password)
    user.save(update_fields=["password"])
    ended = sessions.end_all(user, by=by, but=keep)
    audit.record(action, by=by, target=user, after={"sessions_ended": ended})
