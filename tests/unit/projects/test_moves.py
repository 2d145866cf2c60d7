"""The two tables of moves: every move that is in them, and every one that is not."""

import itertools

import pytest

from portal.lib.problems import Conflict
from projects.actions.progress import current_of, move_to, status_of
from projects.models import Stage
from projects.status import PROJECT_MOVES, STAGE_MOVES, ProjectStatus, StageStatus
from tests.factories.projects import ProjectFactory, StageFactory


@pytest.mark.django_db
@pytest.mark.parametrize("pair", list(itertools.product(StageStatus, StageStatus)), ids="-".join)
def test_a_stage_makes_the_moves_of_its_table_alone(pair):
    old, new = pair
    stage = StageFactory(stage_status=old)
    if new in STAGE_MOVES[old]:
        stage.move_to(new, problem="It moved.")
        stage.refresh_from_db()
        assert (stage.stage_status, stage.problem) == (new, "It moved.")
    else:
        with pytest.raises(Conflict) as caught:
            stage.move_to(new)
        assert caught.value.code == "invalid_transition"
        stage.refresh_from_db()
        assert stage.stage_status == old


@pytest.mark.django_db
@pytest.mark.parametrize("pair", list(itertools.permutations(ProjectStatus, 2)), ids="-".join)
def test_a_project_makes_the_moves_of_its_table_alone(pair):
    old, new = pair
    project = ProjectFactory(status=old)
    if new in PROJECT_MOVES[old]:
        move_to(project, new)
        project.refresh_from_db()
        assert project.status == new
    else:
        with pytest.raises(Conflict):
            move_to(project, new)
        project.refresh_from_db()
        assert project.status == old


def stages(*statuses: str) -> list[Stage]:
    """Unsaved stages; `stale` is a completed one that is out of date."""
    names = list(Stage.Name)
    return [
        Stage(
            stage_name=names[number],
            stage_status="completed" if status == "stale" else status,
            is_stale=status == "stale",
        )
        for number, status in enumerate(statuses)
    ]


@pytest.mark.parametrize(
    ("of", "status", "current"),
    [
        (["completed", "in_progress", "failed"], "in_progress", 1),
        (["completed", "blocked", "review"], "in_progress", 1),
        (["review", "failed"], "failed", 0),
        (["completed", "review", "pending"], "review", 1),
        (["completed", "completed"], "completed", None),
        (["completed", "stale"], "in_progress", 1),
        (["completed", "pending"], "in_progress", 1),
        (["pending", "pending"], "in_progress", 0),
    ],
)
def test_the_status_of_a_project_follows_from_its_stages(of, status, current):
    found = stages(*of)
    assert status_of(found) == status
    assert current_of(found) == ("" if current is None else list(Stage.Name)[current])
