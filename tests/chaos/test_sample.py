"""A few schedules of the chaos runner, so that every change meets them; `python -m tests.chaos` plays a thousand."""

import pytest

from tests.chaos import schedule
from tests.chaos.play import Player
from tests.chaos.scene import Scene

SEED = 20
ON_POSTGRES, ON_SQLITE = 5, 2
TEAM = [pytest.mark.postgres, pytest.mark.redis]


@pytest.mark.slow
@pytest.mark.parametrize(("team", "count"), [pytest.param(True, ON_POSTGRES, marks=TEAM), (False, ON_SQLITE)])
def test_nothing_is_violated_whatever_is_killed(team: bool, count: int) -> None:
    violations = {}
    with Scene(team=team) as scene:
        player = Player(scene)
        try:
            for seed in schedule.seeds(SEED, count):
                played = player.play(schedule.draw(seed, team=team))
                if played.violations:
                    violations[seed] = played.violations
        finally:
            player.close()
    assert not violations


def test_a_seed_draws_the_same_schedule_again() -> None:
    first, second = (schedule.draw(7, team=True) for _ in range(2))
    assert first == second
    assert schedule.draw(8, team=True) != first


def test_each_fault_is_drawn_and_each_crew_is_cast() -> None:
    drawn = [schedule.draw(seed, team=True) for seed in schedule.seeds(1, 500)]
    assert {fault.name for one in drawn for fault in one.faults} == set(schedule.WEIGHTS)
    assert {run.crew for one in drawn for run in one.runs} == set(schedule.CREWS)


def test_one_machine_without_services_meets_no_faults_of_services() -> None:
    drawn = [schedule.draw(seed, team=False) for seed in schedule.seeds(1, 200)]
    assert not {fault.name for one in drawn for fault in one.faults} & schedule.NEEDS_TEAM
