"""The second factor: codes of an app on the telephone (TOTP, RFC 6238), and recovery codes for when it is lost."""

import hashlib
import hmac
import time
from dataclasses import dataclass

import pyotp
import segno
from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.crypto import get_random_string
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from portal.accounts import audit, limits
from portal.accounts.models import RecoveryCode, Role, SecondFactor, User
from portal.accounts.people import hold
from portal.accounts.permissions import require_role
from portal.lib.problems import Conflict, Problem

ISSUER = "Agent Portal"
STEP_SECONDS = 30
DRIFT_STEPS = 1  # a clock may be wrong by so many
RECOVERY_CODES = 10
RECOVERY_CHARACTERS = 16  # of base 32: 80 bits
_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
# Six digits stand for long against so few tries: one in five hundred a day, with the password known.
TRIES = 5
TRIES_SECONDS = 900


class WrongCode(Problem):
    """The code is wrong, too old, or was used already."""

    code = "wrong_code"

    def __init__(self) -> None:
        super().__init__(_("This code is not right."), hint=_("Wait for the next one, and look at the clock."))


@dataclass(frozen=True)
class Setup:
    """What the app needs, shown once: `uri` as a QR code in `svg`, `secret` for typing it in."""

    secret: str
    uri: str
    svg: SafeString


def is_on(user: User) -> bool:
    """Whether signing in asks for a code."""
    return SecondFactor.objects.filter(user=user, confirmed_at__isnull=False).exists()


def codes_left(user: User) -> int:
    """Recovery codes that were not used yet."""
    return RecoveryCode.objects.filter(user=user, used_at=None).count()


def begin(user: User) -> Setup:
    """A new secret for the app; nothing is asked for before `confirm`. Raises `Conflict` when a factor is on."""
    secret = pyotp.random_base32()
    with transaction.atomic():
        hold(user)
        if is_on(user):
            raise Conflict(
                _("There is a second factor already."), code="second_factor_on", hint=_("Take it away first.")
            )
        SecondFactor.objects.update_or_create(
            user=user, defaults={"secret": secret, "last_step": 0, "created_at": timezone.now()}
        )
    return _setup(user, secret)


def pending(user: User) -> Setup | None:
    """What `begin` made and nobody has confirmed yet; None when there is nothing to confirm."""
    row = SecondFactor.objects.filter(user=user, confirmed_at=None).first()
    return _setup(user, row.secret) if row else None


def confirm(user: User, code: str) -> list[str]:
    """Switch the factor on: `code` shows that the app has the secret. Returns the recovery codes, to be seen once.

    Raises `WrongCode`, `Conflict` when there is nothing to confirm, `limits.TooMany`.
    """
    _count_try(user)
    with transaction.atomic():
        hold(user)
        row = SecondFactor.objects.filter(user=user, confirmed_at=None).first()
        if row is None:
            raise Conflict(_("There is no second factor to confirm."), hint=_("Begin again."))
        if not _takes_code(row, code):
            raise WrongCode
        SecondFactor.objects.filter(pk=row.pk).update(confirmed_at=Now())
        limits.forget(_tries_of(user))
        codes = _new_codes(user)
        audit.record("user.second_factor_added", by=user, target=user)
    return codes


def verify(user: User, code: str) -> None:
    """Take a code of the app or a recovery code; none works twice, also in two requests at once.

    Raises `WrongCode`, `limits.TooMany` after `TRIES` tries in `TRIES_SECONDS`.
    """
    _count_try(user)
    code = "".join(code.split()).replace("-", "").lower()
    row = SecondFactor.objects.filter(user=user, confirmed_at__isnull=False).first()
    if row is None:
        raise WrongCode
    if _takes_code(row, code):
        limits.forget(_tries_of(user))
        return
    unused = RecoveryCode.objects.filter(user=user, digest=_digest(user, code), used_at=None)
    if not unused.update(used_at=Now()):
        raise WrongCode
    limits.forget(_tries_of(user))
    audit.record("user.recovery_code_used", by=user, target=user, after={"left": codes_left(user)})


def renew_codes(user: User) -> list[str]:
    """New recovery codes, to be seen once; the old ones work no more. Raises `Conflict` without a factor."""
    with transaction.atomic():
        hold(user)
        if not is_on(user):
            raise Conflict(_("There is no second factor."), hint=_("Set one up first."))
        codes = _new_codes(user)
        audit.record("user.recovery_codes_renewed", by=user, target=user)
    return codes


def remove(user: User, *, by: User | None) -> None:
    """Ask for no code any more: the person themselves, or an admin for who has lost it. Safe to repeat.

    Pages ask the person for a code first (`verify`). Raises `PermissionDenied`.
    """
    with transaction.atomic():
        hold(user)
        if by is not None and by.pk != user.pk:
            require_role(by, Role.ADMIN)
        was_on = is_on(user)
        SecondFactor.objects.filter(user=user).delete()
        RecoveryCode.objects.filter(user=user).delete()
        if was_on:
            audit.record("user.second_factor_removed", by=by, target=user)


def _setup(user: User, secret: str) -> Setup:
    uri = pyotp.TOTP(secret, interval=STEP_SECONDS).provisioning_uri(name=user.get_username(), issuer_name=ISSUER)
    # Light modules are drawn too: the code must be readable on a dark page.
    svg = segno.make(uri, error="m").svg_inline(omitsize=True, border=4, light="#fff", dark="#000")
    return Setup(secret, uri, SafeString(svg))


def _takes_code(row: SecondFactor, code: str) -> bool:
    """Whether `code` is of this moment and later than the last one taken; compare-and-set takes it."""
    code = "".join(code.split())
    now = int(time.time()) // STEP_SECONDS
    totp = pyotp.TOTP(row.secret, interval=STEP_SECONDS)
    for step in range(now - DRIFT_STEPS, now + DRIFT_STEPS + 1):
        if hmac.compare_digest(totp.generate_otp(step).encode(), code.encode()):
            return bool(SecondFactor.objects.filter(pk=row.pk, last_step__lt=step).update(last_step=step))
    return False


def _new_codes(user: User) -> list[str]:
    codes = [get_random_string(RECOVERY_CHARACTERS, _BASE32) for _number in range(RECOVERY_CODES)]
    RecoveryCode.objects.filter(user=user).delete()
    RecoveryCode.objects.bulk_create(RecoveryCode(user=user, digest=_digest(user, code)) for code in codes)
    return ["-".join(code[n : n + 4] for n in range(0, len(code), 4)) for code in codes]


def _digest(user: User, code: str) -> str:
    """80 random bits: one pass of SHA-256 is enough."""
    return hashlib.sha256(f"{user.pk}:{code}".encode()).hexdigest()


def _count_try(user: User) -> None:
    limits.hit(_tries_of(user), limit=TRIES, seconds=TRIES_SECONDS)


def _tries_of(user: User) -> str:
    return f"second-factor:{user.pk}"
