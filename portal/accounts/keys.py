"""API keys: making them, checking them, taking them back."""

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Iterator
from datetime import datetime

from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts import audit, limits
from portal.accounts.credentials import KEY_PREFIX, Credential, CredentialRefused
from portal.accounts.models import ApiKey, Role, Scope, User
from portal.accounts.permissions import require_role
from portal.lib.problems import FieldError, InvalidValues

# How often the row says that the key was used: each request would write otherwise.
LAST_USE_SECONDS = 30
MOST_A_MINUTE = 60_000


def digest_of(key: str) -> str:
    """A key is 256 random bits: one pass of SHA-256 is enough, as with any token that nobody chose."""
    return hashlib.sha256(key.encode()).hexdigest()


def prefix_of(text: str) -> str:
    """The part of a key that names it and may be shown, without `ap_`."""
    return text.removeprefix(KEY_PREFIX).partition("_")[0][:12]


def create(
    user: User,
    *,
    name: str,
    scopes: Iterable[Scope],
    by: User | None,
    within: Credential | None = None,
    expires_at: datetime | None = None,
    requests_per_minute: int = 600,
) -> tuple[ApiKey, str]:
    """A new key of `user` and its text, which is not kept: it can be shown this once only.

    People make their own; admins also those of service accounts. `by` None is a command of the machine.
    `within` is what `by` came with: a key made with a key can neither do more nor live longer.
    Raises `InvalidValues`, and `PermissionDenied` where the key would be somebody else's.
    """
    wanted = set(scopes)
    _require_manager(user, by)
    if by is not None and by.pk != user.pk and not user.is_service:
        raise PermissionDenied(_("People make their keys themselves; admins make those of service accounts."))
    with transaction.atomic():
        # Its role and whether it is active must not change before the key is there.
        owner = User.objects.select_for_update().get(pk=user.pk)
        if errors := list(_faults(owner, name, wanted, within, expires_at, requests_per_minute)):
            raise InvalidValues(errors)
        prefix = secrets.token_hex(4)
        text = f"{KEY_PREFIX}{prefix}_{secrets.token_urlsafe(32)}"
        row = ApiKey.objects.create(
            user=user,
            name=name,
            prefix=prefix,
            digest=digest_of(text),
            scopes=" ".join(scope for scope in Scope.values if scope in wanted),
            created_by=by,
            expires_at=expires_at,
            requests_per_minute=requests_per_minute,
        )
        facts = {"owner": user.get_username(), "scopes": row.scopes, "requests_per_minute": requests_per_minute}
        if expires_at is not None:
            facts["expires_at"] = expires_at.isoformat()
        audit.record("key.created", by=by, target=row, after=facts)
    return row, text


def _require_manager(user: User, by: User | None) -> None:
    if by is not None and by.pk != user.pk:
        require_role(by, Role.ADMIN)


def _faults(
    owner: User,
    name: str,
    scopes: set[Scope],
    within: Credential | None,
    expires_at: datetime | None,
    requests_per_minute: int,
) -> Iterator[FieldError]:
    if not owner.is_active:
        yield FieldError("user_id", "inactive", _("This account is deactivated."))
    if not name.strip():
        yield FieldError("name", "required", _("Give the key a name."))
    if not scopes:
        yield FieldError("scopes", "required", _("Choose at least one scope."))
    for scope in Scope:
        if scope in scopes and not owner.has_role(scope.cap):
            text = _("“%(scope)s” is more than the owner may do.") % {"scope": scope}
            yield FieldError("scopes", "above_owner", text)
        elif scope in scopes and within is not None and not within.allows(scope):
            text = _("“%(scope)s” is more than the key may do that asks for it.") % {"scope": scope}
            yield FieldError("scopes", "above_key", text)
    if expires_at is not None and expires_at <= timezone.now():
        yield FieldError("expires_at", "past", _("This is over already."))
    last = within.expires_at if within is not None and within.kind == "api_key" else None
    if last is not None and (expires_at is None or expires_at > last):
        yield FieldError("expires_at", "outlives_key", _("A key cannot outlive the one that it is made with."))
    if not 0 < requests_per_minute <= MOST_A_MINUTE:
        text = _("Give a number from 1 to %(most)d.") % {"most": MOST_A_MINUTE}
        yield FieldError("requests_per_minute", "invalid", text)


def check(text: str, *, address: str | None = None) -> tuple[User, Credential]:
    """Whose key it is. One query and never a cache: a revoked key ends at once.

    Raises `CredentialRefused`, and `limits.TooMany` above the key's own rate.
    """
    row = ApiKey.objects.select_related("user").filter(prefix=prefix_of(text)).first()
    # Compared in any case: how long it takes tells nothing about which prefixes exist.
    is_right = hmac.compare_digest(row.digest if row else "0" * 64, digest_of(text))
    if row is None or not is_right or not row.is_usable or not row.user.is_active:
        raise CredentialRefused(
            _("This API key is unknown, expired or revoked."), hint=_("Make a new one on your profile page.")
        )
    limits.take(f"key:{row.pk}", limit=row.requests_per_minute, seconds=60)
    _remember_use(row, address)
    return row.user, Credential("api_key", str(row.pk), f"api_key:ap_{row.prefix}", row.scope_set, row.expires_at)


def _remember_use(row: ApiKey, address: str | None) -> None:
    now = timezone.now()
    if row.last_used_at and (now - row.last_used_at).total_seconds() < LAST_USE_SECONDS:
        return
    ApiKey.objects.filter(Q(last_used_at=None) | Q(last_used_at__lt=now), pk=row.pk).update(
        last_used_at=now, last_used_from=address
    )


def revoke(row: ApiKey, *, by: User | None) -> bool:
    """Take a key back, for good; False when it was revoked already. `by` None is a command of the machine.

    Raises `PermissionDenied` unless it is a key of `by`, or they are an admin.
    """
    _require_manager(row.user, by)
    with transaction.atomic():
        is_new = bool(ApiKey.objects.filter(pk=row.pk, revoked_at=None).update(revoked_at=Now()))
        if is_new:
            audit.record("key.revoked", by=by, target=row, after={"owner": row.user.get_username()})
    return is_new
