"""From what the identity provider says of somebody to a user of the portal.

The key is issuer and subject, never a mail address or a name: who takes over an address must not take over an
account. Roles and groups follow the newest token that was seen, so that an old one cannot bring back a role that
was taken away since. Access tokens that people send change them only where sign-in reads the same ones
(`Said.is_decisive`).
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from portal.accounts import audit, people
from portal.accounts.models import AuditEntry, Identity, Role, User
from portal.lib.problems import Problem

# The claims that tell of a person, but for what they may do.
PROFILE = ("preferred_username", "email", "email_verified", "given_name", "family_name")
TRIES = 10  # to make somebody, while others are made with the same name
MAX_KEPT = 200  # roles and groups each; what decides is settled before
_NOT_IN_USERNAMES = re.compile(r"[^\w.@+-]")  # as django.contrib.auth.validators.UnicodeUsernameValidator


class IdentityRefused(Problem):
    """The identity provider knows this person, and the portal does not let them in."""

    status = 403
    code = "identity_refused"


@dataclass(frozen=True)
class Said:
    """What verified tokens say of somebody, at the time `as_of`."""

    issuer: str
    subject: str
    as_of: datetime
    roles: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    username: str = ""
    email: str = ""
    first_name: str = ""
    last_name: str = ""
    is_service: bool = False
    client: str = ""  # that the token was made for

    @property
    def is_decisive(self) -> bool:
        """Whether an access token that says this settles what is kept here, as a sign-in does.

        Else it speaks for the request that it comes with: OIDC_ROLES_FROM names another token, or the provider gave
        it to another client, perhaps with fewer roles. A service account has no other tokens.
        """
        is_of_sign_in = settings.OIDC_ROLES_FROM == "access_token" and self.client == settings.OIDC_CLIENT_ID
        return self.is_service or is_of_sign_in

    @property
    def role(self) -> Role | None:
        """The highest role that OIDC_ROLE_MAP makes of it, else OIDC_DEFAULT_ROLE; None: no access."""
        known = settings.OIDC_ROLE_MAP
        found = [Role(known[name]) for name in self.roles + self.groups if name in known]
        if not found and settings.OIDC_DEFAULT_ROLE:
            return Role(settings.OIDC_DEFAULT_ROLE)
        return max(found, key=lambda role: role.rank, default=None)


def said_by(claims: dict[str, Any], profile: dict[str, Any] | None = None) -> Said:
    """What `claims` of a verified token say; names and mail address from `profile` (those of the id token) if given."""
    about = {**claims, **(profile or {})}
    verified = about.get("email_verified") is True
    return Said(
        issuer=claims["iss"],
        subject=claims["sub"],
        as_of=datetime.fromtimestamp(claims["iat"], UTC),
        roles=_roles(claims),
        groups=_texts(claims.get("groups")),
        username=_text(about.get("preferred_username")),
        email=_email(about.get("email")) if verified else "",
        first_name=_text(about.get("given_name")),
        last_name=_text(about.get("family_name")),
        is_service=_is_service(claims),
        client=_party(claims),
    )


def settle(said: Said, *, is_fresh: bool = True) -> User:
    """The user that `said` speaks of, made on first sight, with the role it gives.

    `is_fresh`: the provider said it now, to the portal; else it stands in a token that somebody sent.
    Raises `IdentityRefused` (and remembers it) for who has no role here or is deactivated.
    """
    with transaction.atomic():
        user = _settle(said, is_fresh)
    reason = "no_role" if said.role is None else "" if user and user.is_active else "deactivated"
    if reason or user is None:
        audit.refused(
            "user.sign_in_refused",
            by=None,
            target=user,
            name=user.username if user else said.username,
            after={
                "reason": reason,
                "method": "oidc" if is_fresh else "bearer",
                "issuer": said.issuer,
                "subject": said.subject,
            },
        )
        raise _refusal(reason)
    return user


def _refusal(reason: str) -> IdentityRefused:
    if reason == "no_role":
        return IdentityRefused(
            _("You are known, but have no role in this portal."),
            code="no_role",
            hint=_("Ask whoever looks after your accounts for one, then sign in again."),
        )
    return IdentityRefused(_("This account is deactivated."), code="deactivated", hint=_("Ask an admin."))


def _settle(said: Said, is_fresh: bool) -> User | None:
    # Where id tokens tell of roles, what an access token says of them makes nobody more than a viewer.
    is_known = is_fresh or said.is_service or settings.OIDC_ROLES_FROM == "access_token"
    identity, tries = _find(said), 0
    while identity is None:
        if said.role is None:
            return None
        try:
            with transaction.atomic():
                return _make(said, said.role if is_known else Role.VIEWER)
        except IntegrityError:
            # Other requests at the same moment saw this person for the first time too, or took the same name.
            tries += 1
            if tries == TRIES:
                raise
            identity = _find(said)
    if not (is_fresh or (said.is_decisive and _is_news(said, identity))):
        return identity.user
    # Admins too, before it is known whether a role changes: who locked them later would lock in another order.
    user = people.hold_with_admins(identity.user, None)[identity.user_id]
    identity.refresh_from_db()
    if user.is_active and (is_fresh or _is_news(said, identity)):
        _update(identity, user, said)
    return user


def _is_news(said: Said, identity: Identity) -> bool:
    return identity.last_sign_in_at is None or said.as_of > identity.last_sign_in_at


def _find(said: Said) -> Identity | None:
    return Identity.objects.select_related("user").filter(issuer=said.issuer, subject=said.subject).first()


def _make(said: Said, role: Role) -> User:
    user = User(
        username=_free_username(said), role=role, is_service=said.is_service,
        email=said.email, first_name=said.first_name, last_name=said.last_name,
    )  # fmt: skip
    # No password, and so no reset of one: who signs in elsewhere has no second door.
    user.set_unusable_password()
    user.save(force_insert=True)
    Identity.objects.create(user=user, issuer=said.issuer, subject=said.subject, **_as_kept(said))
    after = {"role": role, "is_service": said.is_service, "issuer": said.issuer, "subject": said.subject}
    audit.record("user.created", by=None, target=user, after=after)
    return user


def _update(identity: Identity, user: User, said: Said) -> None:
    Identity.objects.filter(pk=identity.pk).update(**_as_kept(said))
    # Who has no role left is refused, and so are sign-ins; keys of theirs do the least that there is.
    role = said.role or Role.VIEWER
    if role != user.role:
        try:
            people.change_role(user, role, by=None)
        except people.LastAdmin as exc:
            audit.record(
                "user.role_changed",
                by=None,
                target=user,
                outcome=AuditEntry.Outcome.REFUSED,
                before={"role": user.role},
                after={"role": role, "reason": exc.code, "issuer": said.issuer},
            )
    if identity.linked_by_id is None:  # a local account that an admin linked keeps its own names
        facts = {name: getattr(said, name) for name in ("email", "first_name", "last_name") if getattr(said, name)}
        if any(getattr(user, name) != value for name, value in facts.items()):
            people.change_facts(user, by=None, **facts)


def _as_kept(said: Said) -> dict[str, Any]:
    return {
        "roles": list(said.roles[:MAX_KEPT]),
        "groups": list(said.groups[:MAX_KEPT]),
        "last_sign_in_at": said.as_of,
    }


def _free_username(said: Said) -> str:
    """The name that the provider gives, or with a number behind it where somebody here has it already."""
    wanted = User.normalize_username(said.username) or said.subject
    wanted = _NOT_IN_USERNAMES.sub("-", wanted)[:140]
    alike = User.objects.filter(username__istartswith=wanted).values_list("username", flat=True)
    taken = {name.casefold() for name in alike}
    name, number = wanted, 1
    while name.casefold() in taken:
        number += 1
        name = f"{wanted}-{number}"
    return name


# --- Claims, which may hold anything ----------------------------------------------------------------


def _roles(claims: dict[str, Any]) -> tuple[str, ...]:
    """Keycloak's: those of the realm, and those of this client."""
    clients = claims.get("resource_access")
    own = clients.get(settings.OIDC_CLIENT_ID) if isinstance(clients, dict) else None
    found = [entry.get("roles") for entry in (claims.get("realm_access"), own) if isinstance(entry, dict)]
    return tuple(dict.fromkeys(role for roles in found for role in _texts(roles)))


def _is_service(claims: dict[str, Any]) -> bool:
    """Whether a client speaks for itself (RFC 9068: then it is the subject), as Keycloak's service accounts do."""
    party = _party(claims)
    if "sid" in claims or not party:
        return False
    return claims["sub"] == party or claims.get("preferred_username") == f"service-account-{party}".lower()


def _party(claims: dict[str, Any]) -> str:
    party = claims.get("azp", claims.get("client_id"))
    return party if isinstance(party, str) else ""


def _texts(value: Any) -> tuple[str, ...]:
    # What cannot be printed (a NUL, half a character) databases do not take.
    listed = value if isinstance(value, list) else []
    return tuple(text for text in listed if isinstance(text, str) and text.isprintable())


def _text(value: Any) -> str:
    return "".join(filter(str.isprintable, value)).strip()[:150] if isinstance(value, str) else ""


def _email(value: Any) -> str:
    try:
        validate_email(text := _text(value))
    except ValidationError:
        return ""
    return text
