"""Small samples of the long proofs, so that every change meets them; `python -m tests.soak` runs them whole."""

import pytest

from tests.fakes.llm import FakeLLM
from tests.soak import projects, reconnects, stops
from tests.stack import Stack

pytestmark = pytest.mark.slow
BACKENDS = ["stack", pytest.param("team_stack", marks=[pytest.mark.postgres, pytest.mark.redis])]


@pytest.fixture(params=BACKENDS)
def running(request: pytest.FixtureRequest) -> Stack:
    return request.getfixturevalue(request.param)


def test_a_stopped_run_leaves_the_model_alone_and_keeps_what_it_made(running: Stack, fake_llm: FakeLLM) -> None:
    found = stops.run(running, fake_llm, n=8, seed=20)
    assert found["ok"], found


def test_a_watcher_that_is_cut_misses_nothing_and_sees_nothing_twice(running: Stack) -> None:
    found = reconnects.run(running, n=40, seed=20)
    assert found["ok"], found


@pytest.mark.parametrize(
    ("engine", "team"),
    [
        ("crew-ai", False),
        pytest.param("crew-ai", True, marks=[pytest.mark.postgres, pytest.mark.redis]),
        pytest.param("meta-gpt", False, marks=pytest.mark.metagpt),
    ],
)
def test_stages_run_once_and_approved_work_stays_whatever_is_killed(engine: str, team: bool) -> None:
    found = projects.run(kills=5, seed=20, engines=[engine], team=team)
    assert found["ok"], found
