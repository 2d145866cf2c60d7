"""Which run is taken next, and that no limit is ever passed."""

import threading
from collections import Counter
from datetime import timedelta

import pytest
from django.db import DatabaseError, connection
from django.utils import timezone

from executions.models import Execution, Worker
from executions.models.execution import PRIORITY_STEP
from executions.runner import claims
from executions.status import Status
from tests.deadlines import DEADLINE
from tests.factories.accounts import UserFactory
from tests.factories.executions import LEASE, ExecutionFactory


def queued(user, count=1, **fields):
    return [ExecutionFactory(access__owner=user, **fields) for _ in range(count)]


def taken(worker="machine"):
    return claims.take_one(worker, LEASE)


@pytest.fixture
def limits(settings):
    def set_to(user=0, total=0):
        settings.PORTAL_MAX_RUNS_PER_USER, settings.PORTAL_MAX_RUNS_TOTAL = user, total

    return set_to


@pytest.mark.django_db
def test_the_oldest_goes_first_and_priority_before_age():
    user = UserFactory()
    old, urgent = *queued(user), *queued(user, priority=9)
    assert [taken(), taken(), taken()] == [urgent, old, None]


@pytest.mark.django_db
def test_a_run_in_its_backoff_and_one_that_is_to_stop_wait():
    later, stopping = queued(UserFactory(), 2)
    Execution.objects.filter(pk=later.pk).update(not_before=timezone.now() + timedelta(hours=1))
    Execution.objects.filter(pk=stopping.pk).update(stop_requested_at=timezone.now())
    assert taken() is None


@pytest.mark.django_db
def test_who_has_much_going_lets_others_pass_who_came_little_later():
    much, little = UserFactory(), UserFactory()
    flood, one = queued(much, 5), queued(little)[0]
    assert [taken(), taken(), taken()] == [flood[0], one, flood[1]]


@pytest.mark.django_db
def test_who_waits_long_enough_goes_before_anybody_who_has_less_going():
    much, little = UserFactory(), UserFactory()
    queued(much, 3)
    for _ in range(3):
        taken()
    waiting = queued(much)[0]
    Execution.objects.filter(pk=waiting.pk).update(queue_rank=waiting.queue_rank - 4 * PRIORITY_STEP)
    queued(little)
    assert taken() == waiting


@pytest.mark.django_db
def test_a_user_at_the_limit_waits_and_others_go(limits):
    limits(user=2)
    much, little = UserFactory(), UserFactory()
    flood, one = queued(much, 4), queued(little)[0]
    assert [taken(), taken(), taken(), taken()] == [flood[0], one, flood[1], None]
    Execution.objects.get(pk=flood[0].pk).complete("Done.")
    assert taken() == flood[2]


@pytest.mark.django_db
def test_no_more_than_the_limit_of_all(limits):
    limits(total=2)
    for _ in range(3):
        queued(UserFactory())
    assert [bool(taken()) for _ in range(3)] == [True, True, False]


@pytest.mark.django_db
def test_a_runner_that_drains_takes_nothing():
    Worker.objects.create(
        name="machine", started_at=timezone.now(), seen_at=timezone.now(), max_runs=4, is_draining=True
    )
    (run,) = queued(UserFactory())
    assert taken() is None
    assert taken("another machine") == run


@pytest.mark.django_db(transaction=True)
def test_many_runners_together_pass_no_limit_and_serve_everybody(limits):
    """Four runners claim and end runs side by side, for users with much and with little to do."""
    limits(user=2, total=5)
    users = [UserFactory() for _ in range(4)]
    for number, user in enumerate(users):
        queued(user, 2 + 4 * (number == 0))
    most_of_one, most_in_all = [0], [0]
    problems: list[Exception] = []
    gate = threading.Barrier(4)

    def runner(name: str) -> None:
        gate.wait(timeout=DEADLINE)
        mine: list[Execution] = []
        idle = 0
        try:
            while idle < 3:
                execution = taken(name)
                if execution is not None:
                    mine.append(execution)
                # One statement: what is seen at once held at once.
                running = Counter(Execution.objects.filter(status=Status.RUNNING).values_list("created_by", flat=True))
                most_of_one[0] = max([most_of_one[0], *running.values()])
                most_in_all[0] = max(most_in_all[0], sum(running.values()))
                if mine and (execution is None or len(mine) > 1):
                    mine.pop(0).complete("Done.")
                idle = 0 if execution or mine else idle + 1
        except (DatabaseError, AssertionError, threading.BrokenBarrierError) as exc:
            problems.append(exc)
        finally:
            connection.close()

    threads = [threading.Thread(target=runner, args=(f"machine {n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert problems == []
    while (rest := taken("last")) is not None:
        rest.complete("Done.")
    assert most_of_one[0] <= 2
    assert most_in_all[0] <= 5
    assert set(Execution.objects.values_list("status", flat=True)) == {Status.COMPLETED}
