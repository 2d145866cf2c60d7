"""Taking in the end of a run: once, from wherever, whatever was killed in between."""

from uuid import uuid4

import pytest

from executions import actions as runs
from executions import hooks
from executions.models import ExecutionEvent
from projects import actions
from projects.models import Deliverable, StageRun
from tests.factories import project_runs as make
from tests.integration.test_people_races import at_once


@pytest.fixture
def begun(db):
    project = make.project_of()
    actions.start(project, project.owner)
    return project


def run_of(project, name="requirement"):
    return make.run_of(make.stage_of(project, name))


def ended(project):
    """The run of its first stage, completed, and nobody has heard of it."""
    run = run_of(project)
    make.finish(run, make.made(), settle=False)
    return run


def test_once_however_often(begun):
    run = ended(begun)
    assert actions.settle(run.pk)
    before = ExecutionEvent.objects.filter(stream=begun.stream).count()
    assert not actions.settle(run.pk)
    assert actions.settle_all() == 0
    assert Deliverable.objects.filter(project=begun).count() == 1
    assert ExecutionEvent.objects.filter(stream=begun.stream).count() == before


@pytest.mark.django_db(transaction=True)
def test_a_race_of_many_settles_once(begun, monkeypatch):
    monkeypatch.setattr(hooks, "_receivers", [])
    run = ended(begun)
    assert make.stage_of(begun, "requirement").stage_status == "in_progress"
    results = at_once(*[lambda: actions.settle(run.pk)] * 4)
    assert [result for result in results if result != "done"] == [True]
    assert Deliverable.objects.filter(project=begun).count() == 1


def test_the_chore_finds_what_the_hook_missed(begun):
    ended(begun)
    assert actions.settle_all() == 1
    assert make.stage_of(begun, "requirement").stage_status == "review"


def test_the_hook_hears_of_the_end(begun, django_capture_on_commit_callbacks):
    run = run_of(begun)
    make.take(run)
    with django_capture_on_commit_callbacks(execute=True):
        make.finish(run, make.made(), settle=False)
    assert make.stage_of(begun, "requirement").stage_status == "review"


def test_a_run_of_nobody_is_left_alone(db):
    assert not actions.settle(uuid4())


def test_a_stage_has_one_open_run(begun):
    from django.db import IntegrityError, transaction

    from tests.factories.executions import ExecutionFactory

    with pytest.raises(IntegrityError), transaction.atomic():
        StageRun.objects.create(stage=make.stage_of(begun, "requirement"), execution=ExecutionFactory())


def test_a_run_without_a_deliverable_fails_its_stage(begun):
    make.finish(run_of(begun), output="")
    stage = make.stage_of(begun, "requirement")
    assert (stage.stage_status, stage.problem) == ("failed", "Its run gave no deliverable.")
    # A completed run is not tried again: another one begins.
    first = run_of(begun)
    assert actions.start_stage(stage, begun.owner) != first


def test_the_result_is_the_deliverable_where_an_engine_names_none(begun):
    make.finish(run_of(begun), output="# All of it")
    found = Deliverable.objects.get(project=begun)
    assert (found.deliverable_type, found.title, found.content) == (
        "requirement",
        "Product requirements",
        "# All of it",
    )
    assert "Sell tea." in found.prompt


def test_odd_things_of_an_engine_are_kept_as_far_as_they_can_be(begun):
    odd = {
        "type": "poem",
        "title": "  ",
        "content": "a\0b",
        "files": [{"path": "../x", "content": "1"}],
        "metadata": None,
    }
    make.finish(run_of(begun), odd)
    found = Deliverable.objects.get(project=begun)
    assert (found.deliverable_type, found.content, found.files.count()) == ("document", "ab", 0)
    assert found.metadata["left_out"]


def test_a_budget_blocks_the_stage_and_lets_it_go_on(begun):
    run = make.take(run_of(begun))
    run.wait_for_budget(sentence="The project's limit is reached.")
    actions.settle(run.pk)
    stage = make.stage_of(begun, "requirement")
    assert (stage.stage_status, stage.problem) == ("blocked", "The project's limit is reached.")
    begun.refresh_from_db()
    assert begun.status == "in_progress"
    with pytest.raises(Exception, match="limit is reached"):
        actions.start_stage(stage, begun.owner)
    run.afforded()
    assert actions.settle_all() == 1
    stage.refresh_from_db()
    assert (stage.stage_status, stage.problem) == ("in_progress", "")


def test_a_run_that_is_stopped_fails_its_stage(begun):
    runs.stop(run_of(begun), begun.owner)
    actions.settle_all()
    assert make.stage_of(begun, "requirement").stage_status == "failed"


def test_a_retry_on_the_runs_own_page_is_heard_of(begun):
    run = run_of(begun)
    make.fail(run)
    runs.retry(run, begun.owner)
    assert actions.settle_all() == 1
    assert make.stage_of(begun, "requirement").stage_status == "in_progress"
    make.work(begun, "requirement")
    assert Deliverable.objects.filter(project=begun).count() == 1


def test_a_retry_of_a_run_that_was_left_behind_is_not(begun):
    run = run_of(begun)
    make.fail(run)
    actions.restart(begun, begun.owner)
    runs.retry(run, begun.owner)
    assert actions.settle_all() == 0
    make.finish(run, make.made(content="Too late."))
    assert not Deliverable.objects.filter(project=begun).exists()
