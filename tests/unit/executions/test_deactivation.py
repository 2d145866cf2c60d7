"""Runs of who is deactivated: stopped at once where nothing runs yet, else asked to stop."""

import pytest

from executions import actions, reserves
from executions.budgets import Amount
from executions.models import Execution
from executions.status import ACTIVE, ENDED, Status
from portal.accounts import people
from portal.accounts.models import User
from tests.factories.accounts import AccessListFactory, UserFactory
from tests.factories.executions import execution_in

pytestmark = pytest.mark.django_db


def run_of(user: User, status: Status) -> Execution:
    return execution_in(status, created_by=user, access=AccessListFactory(owner=user))


def test_whatever_goes_on_in_their_name_ends_and_nothing_else(django_capture_on_commit_callbacks):
    boss, user, other = UserFactory(admin=True), UserFactory(), UserFactory()
    runs = {status: run_of(user, status) for status in sorted(ACTIVE)}
    done, foreign = run_of(user, Status.COMPLETED), run_of(other, Status.RUNNING)
    with django_capture_on_commit_callbacks(execute=True):
        people.deactivate(user, by=boss)
    for status, run in runs.items():
        run.refresh_from_db()
        assert run.stop_requested_at is not None
        assert run.stop_requested_by == boss
        assert run.status == (Status.RUNNING if status == Status.RUNNING else Status.STOPPED)
    running = runs[Status.RUNNING]
    # The gateway opens no call of it any more.
    assert reserves.reserve_own(running.pk, running.attempt, Amount()) is None
    assert reserves.reserve_own(foreign.pk, foreign.attempt, Amount()) is not None
    done.refresh_from_db()
    foreign.refresh_from_db()
    assert (done.status, foreign.stop_requested_at) == (Status.COMPLETED, None)
    assert {run.status for run in runs.values()} - ENDED == {Status.RUNNING}


def test_a_run_that_was_started_in_that_moment_is_found_later():
    user = UserFactory()
    people.deactivate(user, by=None)
    late, foreign = run_of(user, Status.PENDING), run_of(UserFactory(), Status.PENDING)
    assert actions.stop_runs_of_inactive() == [late]
    assert actions.stop_runs_of_inactive() == []
    foreign.refresh_from_db()
    assert foreign.status == Status.PENDING
