"""Linking by hand: an admin says that somebody at the identity provider is somebody here. Nothing else links."""

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from portal.accounts import audit, people, sessions
from portal.accounts.models import Identity, Role, Session, User
from portal.accounts.oidc.backend import ProviderAway
from portal.accounts.oidc.provider import ProviderUnavailable, provider
from portal.accounts.permissions import require_role
from portal.lib.problems import Conflict, FieldError, InvalidValues


def link(user: User, *, subject: str, by: User, issuer: str = "") -> Identity:
    """Let `subject` of `issuer` (without: the one of OIDC_ISSUER) sign in as `user`, with the provider's role.

    Raises `PermissionDenied` unless `by` is an admin, `InvalidValues` for a service account or an empty
    subject, `Conflict` when this identity has a user already, `ProviderAway` while the provider of OIDC_ISSUER
    does not say what it calls itself.
    """
    require_role(by, Role.ADMIN)
    subject, issuer = subject.strip(), issuer.strip()
    if settings.OIDC_ISSUER and issuer.rstrip("/") in {"", settings.OIDC_ISSUER}:
        issuer = _as_in_tokens()
    faults = []
    if not subject:
        faults.append(FieldError("subject", "required", _("Name the subject.")))
    if not issuer:
        faults.append(FieldError("issuer", "required", _("No identity provider is set up. Name its issuer.")))
    if user.is_service:
        faults.append(FieldError("", "service_account", _("A service account does not sign in.")))
    if faults:
        raise InvalidValues(faults)
    with transaction.atomic():
        people.hold(user)
        try:
            with transaction.atomic():
                identity = Identity.objects.create(user=user, issuer=issuer, subject=subject, linked_by=by)
        except IntegrityError as exc:
            raise Conflict(
                _("This identity belongs to somebody already."),
                code="identity_taken",
                hint=_("Unlink it there first, then link it here."),
            ) from exc
        audit.record("identity.linked", by=by, target=user, after={"issuer": issuer, "subject": subject})
    return identity


def _as_in_tokens() -> str:
    """The issuer as sign-in finds it: the setting has no slash at its end, the provider's tokens may have one."""
    try:
        return provider().issuer
    except ProviderUnavailable as exc:
        raise ProviderAway from exc


def unlink(identity: Identity, *, by: User) -> None:
    """Take an identity from its user, whose sessions from that provider end at once.

    Raises `PermissionDenied` unless `by` is an admin.
    """
    require_role(by, Role.ADMIN)
    with transaction.atomic():
        people.hold(identity.user)
        before = {"issuer": identity.issuer, "subject": identity.subject}
        for session in Session.objects.filter(user=identity.user, oidc_issuer=identity.issuer):
            sessions.end(session, by=by)
        identity.delete()
        audit.record("identity.unlinked", by=by, target=identity.user, before=before)
