"""Two at once: the project's row lets one go first, and the other sees what it did."""

import pytest

from projects import actions
from projects.models import Deliverable, Review, StageRun
from tests.factories import project_runs as make
from tests.factories.accounts import UserFactory
from tests.integration.test_people_races import at_once

pytestmark = pytest.mark.django_db(transaction=True)


def done(outcomes) -> int:
    return sum(not isinstance(one, Exception) for one in outcomes)


@pytest.fixture
def project():
    return make.project_of()


def test_a_stage_starts_once(project):
    stages = [make.stage_of(project, "requirement") for _ in range(4)]
    outcomes = at_once(*[lambda stage=stage: actions.start_stage(stage, project.owner) for stage in stages])
    assert done(outcomes) == 1
    assert {one.code for one in outcomes if isinstance(one, Exception)} == {"stage_at_work"}
    assert StageRun.objects.count() == 1


def test_a_version_is_decided_about_once(project):
    actions.start(project, project.owner)
    make.work(project, "requirement")
    pk = Deliverable.objects.get(project=project).pk
    admins = [UserFactory(admin=True) for _ in range(4)]

    def decide(number: int):
        decision = "approved" if number % 2 else "rejected"
        return actions.review(Deliverable.objects.get(pk=pk), admins[number], decision=decision, comments="So.")

    outcomes = at_once(*[lambda number=number: decide(number) for number in range(4)])
    assert done(outcomes) == 1
    assert Review.objects.count() == 1
    # Whichever came first, one run follows from it.
    assert StageRun.objects.count() == 2


def test_a_quorum_completes_once(project):
    stage = make.stage_of(project, "requirement")
    actions.set_stage(stage, project.owner, quorum=3)
    actions.start(project, project.owner)
    make.work(project, "requirement")
    admins = [UserFactory(admin=True) for _ in range(3)]
    outcomes = at_once(
        *[
            lambda by=by: actions.review_stage(make.stage_of(project, "requirement"), by, decision="approved")
            for by in admins
        ]
    )
    assert done(outcomes) == 3
    told = [event for event in make.news_of(project) if event["type"] == "stage_completed"]
    assert len(told) == 1
    assert StageRun.objects.filter(stage__stage_name="design").count() == 1


def test_an_end_and_a_roll_back_leave_one_open_run(project):
    actions.start(project, project.owner)
    make.through(project, "requirement")
    run = make.take(make.run_of(make.stage_of(project, "design")))
    outcomes = at_once(
        lambda: make.finish(run, make.made("design_doc"), make.made("architecture")),
        lambda: actions.roll_back(make.stage_of(project, "requirement"), project.owner),
    )
    assert done(outcomes) == 2
    open_runs = StageRun.objects.filter(stage__project=project, settled_at=None)
    assert [one.stage.stage_name for one in open_runs] == ["requirement"]
    assert make.stage_of(project, "design").stage_status == "pending"
    assert set(Deliverable.objects.filter(stage__stage_name="design").values_list("status", flat=True)) <= {"draft"}
