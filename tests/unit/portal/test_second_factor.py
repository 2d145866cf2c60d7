"""The second factor: codes of an app and recovery codes, each good once."""

import pyotp
import pytest
import time_machine
from django.core.exceptions import PermissionDenied

from portal.accounts import second_factor
from portal.accounts.limits import TooMany
from portal.accounts.models import AuditEntry, RateWindow, RecoveryCode, SecondFactor, User
from portal.lib.problems import Conflict
from tests.factories.accounts import UserFactory

pytestmark = pytest.mark.django_db
NOON = 1_800_000_000  # begins a step of 30 seconds
STEP = second_factor.STEP_SECONDS


def code_at(secret: str, moment: float) -> str:
    return pyotp.TOTP(secret).at(int(moment))


def switched_on(user: User) -> tuple[str, list[str]]:
    setup = second_factor.begin(user)
    return setup.secret, second_factor.confirm(user, code_at(setup.secret, NOON))


def more_tries() -> None:
    RateWindow.objects.all().delete()


@pytest.fixture
def clock():
    with time_machine.travel(NOON, tick=False) as traveller:
        yield traveller


def test_it_is_asked_for_once_a_code_has_shown_that_the_app_has_the_secret(clock):
    user = UserFactory(username="ann")
    setup = second_factor.begin(user)
    assert not second_factor.is_on(user)
    assert setup.uri == pyotp.parse_uri(setup.uri).provisioning_uri()
    assert "issuer=Agent%20Portal" in setup.uri
    assert setup.svg.startswith("<svg")
    assert "style=" not in setup.svg
    assert second_factor.pending(user) == setup
    with pytest.raises(second_factor.WrongCode):
        second_factor.confirm(user, "000000")
    codes = second_factor.confirm(user, code_at(setup.secret, NOON))
    assert second_factor.is_on(user)
    assert second_factor.pending(user) is None
    assert len(set(codes)) == second_factor.codes_left(user) == second_factor.RECOVERY_CODES
    with pytest.raises(Conflict):
        second_factor.begin(user)
    with pytest.raises(Conflict):
        second_factor.confirm(user, code_at(setup.secret, NOON + STEP))


def test_neither_secret_nor_codes_stand_readable_in_the_database(clock):
    user = UserFactory()
    secret, codes = switched_on(user)
    stored = SecondFactor.objects.filter(user=user).extra(select={"raw": "secret"}).values_list("raw", flat=True).get()
    assert secret not in stored
    digests = " ".join(RecoveryCode.objects.values_list("digest", flat=True))
    assert not any(code in digests or code.replace("-", "") in digests for code in codes)


@pytest.mark.parametrize(("steps", "is_taken"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
def test_a_clock_may_be_wrong_by_one_step(clock, steps, is_taken):
    user = UserFactory()
    secret, _codes = switched_on(user)
    clock.move_to(NOON + 10 * STEP)
    code = code_at(secret, NOON + (10 + steps) * STEP)
    if is_taken:
        second_factor.verify(user, code)
    else:
        with pytest.raises(second_factor.WrongCode):
            second_factor.verify(user, code)


def test_no_code_works_twice_nor_an_older_one_after_it(clock):
    user = UserFactory()
    secret, _codes = switched_on(user)
    with pytest.raises(second_factor.WrongCode):
        second_factor.verify(user, code_at(secret, NOON))  # the one that confirmed it
    clock.move_to(NOON + 5 * STEP)
    second_factor.verify(user, code_at(secret, NOON + 5 * STEP))
    for steps in (5, 4):
        with pytest.raises(second_factor.WrongCode):
            second_factor.verify(user, code_at(secret, NOON + steps * STEP))


def test_a_recovery_code_works_once_however_it_is_typed(clock):
    user, other = UserFactory(), UserFactory()
    _secret, codes = switched_on(user)
    switched_on(other)
    with pytest.raises(second_factor.WrongCode):
        second_factor.verify(other, codes[0])
    second_factor.verify(user, f" {codes[0].upper().replace('-', ' ')} ")
    assert second_factor.codes_left(user) == second_factor.RECOVERY_CODES - 1
    with pytest.raises(second_factor.WrongCode):
        second_factor.verify(user, codes[0])
    renewed = second_factor.renew_codes(user)
    with pytest.raises(second_factor.WrongCode):
        second_factor.verify(user, codes[1])
    second_factor.verify(user, renewed[0])
    assert AuditEntry.objects.filter(action="user.recovery_code_used").count() == 2


def test_tries_are_few_and_a_right_code_comes_too_late_after_them(clock):
    user = UserFactory()
    secret, _codes = switched_on(user)
    more_tries()
    clock.move_to(NOON + 5 * STEP)
    for _number in range(second_factor.TRIES):
        with pytest.raises(second_factor.WrongCode):
            second_factor.verify(user, "123456")
    with pytest.raises(TooMany):
        second_factor.verify(user, code_at(secret, NOON + 5 * STEP))
    clock.move_to(NOON + 5 * STEP + second_factor.TRIES_SECONDS + 1)
    second_factor.verify(user, code_at(secret, NOON + 5 * STEP + second_factor.TRIES_SECONDS + 1))


def test_who_signs_in_often_is_not_held_up(clock):
    user = UserFactory()
    secret, _codes = switched_on(user)
    for number in range(1, 3 * second_factor.TRIES):
        moment = NOON + number * STEP
        clock.move_to(moment)
        second_factor.verify(user, code_at(secret, moment))


@pytest.mark.parametrize("code", ["", " ", "１２３４５６", "é" * 6, "\x00", "a" * 5000])
def test_nonsense_is_a_wrong_code(clock, code):
    user = UserFactory()
    switched_on(user)
    with pytest.raises(second_factor.WrongCode):
        second_factor.verify(user, code)


def test_it_is_taken_away_by_oneself_or_an_admin(clock):
    user = UserFactory()
    switched_on(user)
    with pytest.raises(PermissionDenied):
        second_factor.remove(user, by=UserFactory())
    second_factor.remove(user, by=UserFactory(admin=True))
    assert not second_factor.is_on(user)
    assert not RecoveryCode.objects.filter(user=user).exists()
    with pytest.raises(second_factor.WrongCode):
        second_factor.verify(user, "123456")
    with pytest.raises(Conflict):
        second_factor.renew_codes(user)
    assert AuditEntry.objects.filter(action="user.second_factor_removed").count() == 1
