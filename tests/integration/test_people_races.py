"""Two at once: what must hold of people and access whoever comes first. Holds on SQLite and PostgreSQL."""

import contextlib
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pyotp
import pytest
from django.core.exceptions import PermissionDenied
from django.db import close_old_connections, connection
from django.utils import timezone

from portal.accounts import invitations, local, passwords, people, second_factor, sharing
from portal.accounts.models import AccessGrant, Identity, Role, User
from portal.accounts.oidc import identities
from portal.lib.problems import Problem
from tests.deadlines import DEADLINE
from tests.factories.accounts import PASSWORD, UserFactory
from tests.factories.crews import CrewFactory
from tests.unit.portal.test_local_sign_in import a_request

pytestmark = pytest.mark.django_db(transaction=True)
ROUNDS = 8
REFUSED = (Problem, PermissionDenied)


def at_once(*acts: Callable[[], Any]) -> list[Any]:
    """What each act came to, or how it was refused; all begin in the same moment, each in a thread of its own."""
    barrier = threading.Barrier(len(acts))
    outcomes: list[Any] = [None] * len(acts)

    def run(number: int, act: Callable[[], Any]) -> None:
        close_old_connections()
        try:
            connection.ensure_connection()
            barrier.wait(DEADLINE)
            outcomes[number] = act() or "done"
        except REFUSED as exc:
            outcomes[number] = exc
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert None not in outcomes
    return outcomes


def refused(outcomes: list[Any]) -> list[Any]:
    return [outcome for outcome in outcomes if isinstance(outcome, REFUSED)]


def admins() -> int:
    return User.objects.filter(role=Role.ADMIN, is_active=True, is_service=False).count()


def test_two_admins_cannot_take_each_other_away():
    for number in range(ROUNDS):
        User.objects.all().delete()
        first, second = UserFactory(admin=True), UserFactory(admin=True)
        pairs = [
            [partial(people.change_role, second, Role.USER, by=first), partial(people.deactivate, first, by=second)],
            [partial(people.change_role, first, Role.USER, by=first), partial(people.delete, second, by=None)],
            [partial(people.deactivate, first, by=None), partial(people.deactivate, second, by=None)],
            [partial(people.delete, first, by=second), partial(people.change_role, second, Role.VIEWER, by=second)],
        ]
        outcomes = at_once(*pairs[number % len(pairs)])
        assert admins() == 1, outcomes
        assert len(refused(outcomes)) == 1, outcomes


def test_admins_whom_the_provider_demotes_at_once_do_not_wait_for_each_other(monkeypatch):
    """Each lets the other take its first lock: who took single rows first and all admins then would be stuck."""
    UserFactory(admin=True)
    users = UserFactory.create_batch(2, admin=True)
    for user in users:
        Identity.objects.create(user=user, issuer="https://id.example", subject=user.username)
    real, both_hold = people.hold, threading.Barrier(2)

    def hold(*args: Any, **kwargs: Any) -> Any:
        held = real(*args, **kwargs)
        with contextlib.suppress(threading.BrokenBarrierError):
            both_hold.wait(0.3)  # in vain where one of them waits for the other, as it should
        return held

    monkeypatch.setattr(people, "hold", hold)
    said = [identities.Said("https://id.example", user.username, timezone.now(), roles=("user",)) for user in users]
    outcomes = at_once(*(partial(identities.settle, one) for one in said))
    assert not refused(outcomes)
    assert {User.objects.get(pk=user.pk).role for user in users} == {Role.USER}
    assert admins() == 1


def test_what_is_used_once_is_used_once():
    """A code of the app, a recovery code, a link to set a password, an invitation's link."""
    user, friends = UserFactory(), [UserFactory(), UserFactory()]
    setup = second_factor.begin(user)
    totp = pyotp.TOTP(setup.secret)
    codes = second_factor.confirm(user, totp.at(int(time.time()) - second_factor.STEP_SECONDS))
    code = totp.now()
    crew = CrewFactory()
    _invitation, token = invitations.invite(crew, level="editor", email="a@example.com", by=crew.owner)
    found = [invitations.find(token, by=friend) for friend in friends]
    uid, reset = passwords.make_link(user, by=None).split("/")[-2:]
    for once in (
        [lambda: second_factor.verify(user, code)] * 2,
        [lambda: second_factor.verify(user, codes[0])] * 2,
        [lambda: invitations.accept(found[0], by=friends[0]), lambda: invitations.accept(found[1], by=friends[1])],
        [lambda: passwords.reset(uid, reset, PASSWORD)] * 2,
    ):
        outcomes = at_once(*once)
        assert len(refused(outcomes)) == 1, outcomes
    assert AccessGrant.objects.filter(access=crew.access).count() == 1


def test_a_thing_that_is_handed_on_twice_has_one_owner_and_no_one_in_between():
    old, heirs = UserFactory(), [UserFactory(), UserFactory()]
    for _number in range(ROUNDS // 2):
        crew = CrewFactory(owner=old)
        things = [type(crew).objects.select_related("access__owner").get(pk=crew.pk) for _heir in heirs]
        outcomes = at_once(
            *(
                lambda thing=thing, heir=heir: sharing.hand_on(thing, to=heir, by=old)
                for thing, heir in zip(things, heirs, strict=True)
            )
        )
        assert len(refused(outcomes)) == 1, outcomes
        crew = type(crew).objects.get(pk=crew.pk)
        assert crew.owner in heirs
        assert [(member.user, member.level) for member in sharing.members(crew)] == [(old, "editor")]


def test_two_admins_who_hand_a_thing_on_do_it_one_after_the_other():
    old, heirs, bosses = UserFactory(), UserFactory.create_batch(2), UserFactory.create_batch(2, admin=True)
    for _number in range(ROUNDS // 2):
        crew = CrewFactory(owner=old)
        things = [type(crew).objects.select_related("access__owner").get(pk=crew.pk) for _heir in heirs]
        outcomes = at_once(
            *(
                partial(sharing.hand_on, thing, to=heir, by=boss)
                for thing, heir, boss in zip(things, heirs, bosses, strict=True)
            )
        )
        assert not refused(outcomes)
        crew = type(crew).objects.get(pk=crew.pk)
        first = next(heir for heir in heirs if heir != crew.owner)
        assert {member.user for member in sharing.members(crew)} == {old, first}


def test_an_invitation_that_is_accepted_and_withdrawn_at_once_is_one_of_both():
    user, boss = UserFactory(), UserFactory(admin=True)
    for _number in range(ROUNDS):
        crew = CrewFactory()
        invitation, _token = invitations.invite(crew, level="viewer", user=user, by=crew.owner)
        mine, theirs = (type(invitation).objects.get(pk=invitation.pk) for _side in range(2))
        outcomes = at_once(
            partial(invitations.accept, mine, by=user),
            partial(invitations.withdraw, theirs, by=boss),
        )
        assert len(refused(outcomes)) == 1, outcomes
        invitation.refresh_from_db()
        joined = AccessGrant.objects.filter(access=crew.access, user=user).exists()
        assert (invitation.answer == "accepted") is joined


def test_an_owner_who_is_deactivated_while_a_thing_comes_does_not_get_stuck_with_half_of_it():
    """Deactivation and hand-on lock the same people in one order: neither deadlock nor an owner who is gone."""
    boss = UserFactory(admin=True)
    for _number in range(ROUNDS // 2):
        crew, heir = CrewFactory(), UserFactory()
        at_once(
            lambda crew=crew, heir=heir: sharing.hand_on(crew, to=heir, by=crew.owner),
            lambda heir=heir: people.deactivate(heir, by=boss),
            lambda heir=heir: people.change_role(heir, Role.ADMIN, by=boss),
        )
        heir.refresh_from_db()
        assert not heir.is_active
        owner = type(crew).objects.get(pk=crew.pk).owner
        assert owner in {heir, crew.owner}


def test_many_guesses_at_once_pass_no_limit():
    user = UserFactory()
    guesses = local.TRIES_OF_A_NAME + 6
    outcomes = at_once(*[lambda: local.check_password(a_request(), username=user.username, password="wrong")] * guesses)
    assert sum(outcome.code == "sign_in_refused" for outcome in outcomes) == local.TRIES_OF_A_NAME
