"""Going back: exactly what depends on the change is done again."""

import pytest

from portal.lib.problems import Conflict
from projects import actions
from projects.models import StageRun
from tests.factories import project_runs as make

pytestmark = pytest.mark.django_db


def states(project) -> dict[str, tuple[str, bool]]:
    found = project.stages.values_list("stage_name", "stage_status", "is_stale")
    return {name: (status, is_stale) for name, status, is_stale in found}


def test_only_what_depends_on_it_runs_again():
    project = make.crew_project()
    actions.start(project, project.owner)
    make.through(project, "research", "writing", "planning")
    project.refresh_from_db()
    assert project.status == "completed"
    stage = make.stage_of(project, "writing")
    actions.roll_back(stage, project.owner, reason="The customer wants coffee.")
    assert states(project) == {
        "research": ("completed", False),
        "writing": ("in_progress", False),
        "planning": ("pending", True),
    }
    project.refresh_from_db()
    assert (project.status, project.progress_percentage) == ("in_progress", 33)
    stale = [one["data"]["stage_name"] for one in make.news_of(project) if one["type"] == "stage_stale"]
    assert stale == ["writing", "planning"]
    make.through(project, "writing", "planning")
    project.refresh_from_db()
    assert project.status == "completed"
    runs = StageRun.objects.filter(stage__project=project).values_list("stage__stage_name", "cause")
    assert sorted(runs) == [
        ("planning", "rerun"),
        ("planning", "start"),
        ("research", "start"),
        ("writing", "rerun"),
        ("writing", "start"),
    ]
    versions = project.deliverables.filter(is_latest=True).values_list("stage__stage_name", "version")
    assert dict(versions) == {"research": "1.0", "writing": "2.0", "planning": "2.0"}


def test_the_history_says_who_went_back_and_why():
    project = make.project_of()
    actions.start(project, project.owner)
    make.through(project, "requirement")
    actions.roll_back(make.stage_of(project, "requirement"), project.owner, reason="The customer changed.")
    told = next(one["data"] for one in make.news_of(project) if one["type"] == "stage_rolled_back")
    assert (told["stage_name"], told["by"], told["reason"]) == (
        "requirement", project.owner.username, "The customer changed.",
    )  # fmt: skip


def test_no_approved_deliverable_changes():
    project = make.project_of()
    actions.start(project, project.owner)
    make.through(project, "requirement", "design")
    before = set(project.deliverables.values_list("pk", "sha256", "status"))
    actions.roll_back(make.stage_of(project, "requirement"), project.owner)
    assert set(project.deliverables.values_list("pk", "sha256", "status")) == before


def test_what_is_at_work_is_stopped_and_what_is_in_review_becomes_a_draft():
    project = make.project_of()
    actions.start(project, project.owner)
    make.through(project, "requirement", "design")
    make.work(project, "planning")
    actions.roll_back(make.stage_of(project, "design"), project.owner)
    assert project.deliverables.get(stage__stage_name="planning").status == "draft"
    run = make.take(make.run_of(make.stage_of(project, "design")))
    actions.roll_back(make.stage_of(project, "requirement"), project.owner)
    run.refresh_from_db()
    assert run.is_stopping
    assert states(project)["design"] == ("pending", True)
    assert states(project)["requirement"] == ("in_progress", False)
    assert states(project)["development"] == ("pending", False)


def test_without_auto_advance_it_waits_for_somebody():
    project = make.project_of(auto_advance=False)
    actions.start(project, project.owner)
    make.through(project, "requirement")
    actions.roll_back(make.stage_of(project, "requirement"), project.owner)
    assert states(project)["requirement"] == ("pending", True)
    actions.start(project, project.owner)
    assert states(project)["requirement"] == ("in_progress", False)


def test_a_stage_that_is_out_of_date_counts_as_done_again_once_a_person_says_so():
    project = make.project_of()
    actions.start(project, project.owner)
    make.through(project, "requirement", "design")
    requirement = make.stage_of(project, "requirement").deliverables.get()
    newer = actions.edit_deliverable(requirement, project.owner, content="# A typo less")
    actions.review(newer, project.owner, decision="approved")
    assert states(project)["design"] == ("completed", True)
    actions.complete_stage(make.stage_of(project, "design"), project.owner)
    assert states(project)["design"] == ("completed", False)


@pytest.mark.parametrize("case", ["nothing_to_roll_back", "project_cancelled", "project_archived"])
def test_what_cannot_be_gone_back_to(case):
    project = make.project_of()
    if case != "nothing_to_roll_back":
        actions.start(project, project.owner)
        make.through(project, "requirement")
        actions.cancel(project, project.owner)
    if case == "project_archived":
        make.settle_stopped(project)
        actions.archive(project, project.owner)
    with pytest.raises(Conflict) as caught:
        actions.roll_back(make.stage_of(project, "requirement"), project.owner)
    assert caught.value.code == case
