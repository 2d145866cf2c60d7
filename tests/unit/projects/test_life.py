"""A project as a whole: held, ended, begun anew, put away, deleted."""

import pytest
from django.core.exceptions import PermissionDenied

from executions import actions as runs
from executions.models import EventStream, Execution, LLMCall
from portal.accounts import sharing
from portal.accounts.models import AccessList, AuditEntry
from portal.lib.problems import Conflict
from projects import actions
from projects.models import Deliverable, Project
from tests.factories import project_runs as make
from tests.factories.accounts import UserFactory
from tests.factories.executions import LLMCallFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    found = make.project_of()
    actions.start(found, found.owner)
    return found


def status(project) -> str:
    return Project.objects.get(pk=project.pk).status


def stage(project, name="requirement"):
    return make.stage_of(project, name)


class TestPausing:
    def test_runs_pause_and_go_on(self, project):
        run = make.take(make.run_of(stage(project)))
        actions.pause(project, project.owner)
        run.refresh_from_db()
        assert (status(project), run.is_pausing) == ("paused", True)
        run.pause()
        actions.settle(run.pk)
        assert (status(project), stage(project).stage_status) == ("paused", "blocked")
        actions.start(project, project.owner)
        run.refresh_from_db()
        assert (status(project), stage(project).stage_status, run.status) == ("in_progress", "in_progress", "pending")

    def test_a_run_that_waits_to_start_is_paused_when_it_does(self, project):
        run = make.run_of(stage(project))
        actions.pause(project, project.owner)
        make.take(run)
        assert actions.settle_all() == 0  # nothing of the project moves by it
        run.refresh_from_db()
        assert run.is_pausing

    def test_going_on_takes_back_a_pause_that_has_not_come(self, project):
        run = make.take(make.run_of(stage(project)))
        actions.pause(project, project.owner)
        actions.start(project, project.owner)
        run.refresh_from_db()
        assert (run.status, run.is_pausing, status(project)) == ("running", False, "in_progress")

    def test_nothing_new_starts_meanwhile(self, project):
        make.work(project, "requirement")
        actions.pause(project, project.owner)
        make.approve(project, "requirement")
        assert (status(project), stage(project, "design").stage_status) == ("paused", "pending")
        with pytest.raises(Conflict) as caught:
            actions.start_stage(stage(project, "design"), project.owner)
        assert caught.value.code == "project_paused"
        actions.start(project, project.owner)
        assert (status(project), stage(project, "design").stage_status) == ("in_progress", "in_progress")

    def test_what_ends_meanwhile_is_taken_in(self, project):
        run = make.take(make.run_of(stage(project)))
        actions.pause(project, project.owner)
        make.finish(run, make.made())
        assert (status(project), stage(project).stage_status) == ("paused", "review")

    def test_only_what_goes_on_is_paused(self):
        with pytest.raises(Conflict):
            actions.pause(make.project_of(), UserFactory())


class TestCancelling:
    def test_runs_stop_and_approved_work_stays(self, project):
        make.through(project, "requirement")
        run = make.take(make.run_of(stage(project, "design")))
        actions.cancel(project, project.owner)
        run.refresh_from_db()
        assert (status(project), run.is_stopping) == ("cancelled", True)
        assert stage(project, "design").stage_status == "pending"
        assert Deliverable.objects.get(project=project).status == "approved"
        assert make.news_of(project)[-1]["data"]["status"] == "cancelled"
        make.settle_stopped(project)
        assert stage(project, "design").stage_status == "pending"

    @pytest.mark.parametrize("act", ["start", "cancel", "start_stage"])
    def test_it_is_over_until_it_is_restarted(self, project, act):
        actions.cancel(project, project.owner)
        thing = stage(project) if act == "start_stage" else project
        with pytest.raises(Conflict):
            getattr(actions, act)(thing, project.owner)
        actions.restart(project, project.owner)
        assert (status(project), stage(project).stage_status) == ("in_progress", "in_progress")


class TestRestarting:
    def test_a_new_round_makes_new_versions(self, project):
        make.through(project, "requirement")
        make.work(project, "design")
        actions.restart(project, project.owner)
        assert (project.round, project.progress_percentage) == (2, 0)
        states = set(project.stages.values_list("stage_name", "stage_status"))
        assert {("requirement", "in_progress"), ("design", "pending")} <= states
        assert set(Deliverable.objects.filter(stage__stage_name="design").values_list("status", flat=True)) == {"draft"}
        make.through(project, "requirement")
        found = Deliverable.objects.filter(project=project, deliverable_type="requirement").order_by("created_at")
        assert [(one.version, one.status) for one in found] == [("1.0", "approved"), ("2.0", "approved")]
        run = make.run_of(stage(project, "design"))
        assert run.snapshot["spec"]["stage"]["round"] == 2
        assert [one["version"] for one in run.snapshot["spec"]["materials"]] == ["2.0"]

    def test_what_was_sent_back_in_the_last_round_is_forgotten(self, project):
        make.work(project, "requirement")
        actions.review_stage(stage(project), project.owner, decision="rejected", comments="No.")
        actions.restart(project, project.owner)
        spec = make.run_of(stage(project)).snapshot["spec"]
        assert spec["reviews"] == {}

    def test_a_plan_that_has_not_begun_just_starts(self):
        found = make.project_of()
        actions.restart(found, found.owner)
        assert (found.round, found.status) == (1, "in_progress")


class TestForcing:
    def test_an_admin_closes_it_as_it_is(self, project):
        make.work(project, "requirement")
        admin = UserFactory(admin=True)
        with pytest.raises(PermissionDenied):
            actions.force_complete(project, project.owner)
        actions.force_complete(project, admin)
        assert (status(project), project.progress_percentage) == ("completed", 100)
        assert Deliverable.objects.get(project=project).status == "draft"
        assert Execution.objects.filter(stage_run__stage__project=project).count() == 1
        with pytest.raises(Conflict):
            actions.force_complete(project, admin)

    def test_also_what_is_cancelled(self, project):
        actions.cancel(project, project.owner)
        actions.force_complete(project, UserFactory(admin=True))
        assert status(project) == "completed"


class TestArchive:
    def test_it_is_put_away_and_taken_back(self, project):
        with pytest.raises(Conflict) as caught:
            actions.archive(project, project.owner)
        assert caught.value.code == "run_active"
        make.work(project, "requirement")
        actions.archive(project, project.owner)
        assert project not in Project.objects.current()
        actions.archive(project, project.owner, archived=False)
        assert project in Project.objects.current()

    def test_it_refuses_every_change(self, project):
        make.work(project, "requirement")
        actions.archive(project, project.owner)
        by, first = project.owner, stage(project)
        deliverable = Deliverable.objects.get(project=project)
        admin = UserFactory(admin=True)
        tries = [
            lambda: actions.start(project, by),
            lambda: actions.pause(project, by),
            lambda: actions.cancel(project, by),
            lambda: actions.restart(project, by),
            lambda: actions.force_complete(project, admin),
            lambda: actions.update(project, by, name="Other"),
            lambda: actions.set_mappings(project, by, []),
            lambda: actions.attach(project, by, []),
            lambda: actions.start_stage(first, by),
            lambda: actions.complete_stage(first, by),
            lambda: actions.set_stage(first, by, quorum=2),
            lambda: actions.set_approvers(first, by, []),
            lambda: actions.delegate(first, by, to=admin),
            lambda: actions.roll_back(first, by),
            lambda: actions.review(deliverable, by, decision="approved"),
            lambda: actions.review_stage(first, by, decision="approved"),
            lambda: actions.edit_deliverable(deliverable, by, content="x"),
            lambda: actions.add_deliverable(first, by, type="document", title="x"),
        ]
        for act in tries:
            with pytest.raises(Conflict) as caught:
                act()
            assert caught.value.code == "project_archived"


class TestDeleting:
    def test_its_runs_go_and_the_ledger_stays(self, project):
        run = make.run_of(stage(project))
        call = LLMCallFactory(execution=run)
        with pytest.raises(Conflict) as caught:
            actions.delete(project, project.owner)
        assert caught.value.code == "run_active"
        make.work(project, "requirement")
        with pytest.raises(Conflict) as of_project:
            runs.delete(execution=Execution.objects.get(pk=run.pk), by=project.owner)
        assert of_project.value.code == "run_of_project"
        pk, access, owner = project.pk, project.access_id, project.owner
        actions.delete(Project.objects.get(pk=pk), owner)
        for model, key in ((Project, pk), (Execution, run.pk), (EventStream, pk), (AccessList, access)):
            assert not model.objects.filter(pk=key).exists()
        assert not Deliverable.objects.exists()
        assert LLMCall.objects.get(pk=call.pk).execution is None
        assert AuditEntry.objects.filter(action="project.deleted").exists()

    def test_one_that_has_not_begun(self):
        found = make.project_of(budget_usd=5)
        actions.delete(found, found.owner)
        assert not Project.objects.exists()
        assert not AccessList.objects.exists()


class TestInWhoseName:
    def test_what_starts_by_itself_is_of_who_started_it(self, project):
        editor = UserFactory()
        sharing.grant(project, editor, "editor", by=project.owner)
        make.work(project, "requirement")
        make.approve(project, "requirement", by=editor)
        assert make.run_of(stage(project, "design")).created_by == project.owner

    def test_else_of_its_owner(self, project):
        editor = UserFactory()
        sharing.grant(project, editor, "editor", by=project.owner)
        make.through(project, "requirement")
        make.fail(make.run_of(stage(project, "design")))
        actions.restart(project, editor)
        make.work(project, "requirement")
        sharing.withdraw(project, editor, by=project.owner)
        make.approve(project, "requirement")
        assert make.run_of(stage(project, "design")).created_by == project.owner

    def test_of_nobody_who_may_not_any_more(self, project):
        make.work(project, "requirement")
        owner = project.owner
        owner.is_active = False
        owner.save()
        make.approve(project, "requirement", by=UserFactory(admin=True))
        design = stage(project, "design")
        assert design.stage_status == "failed"
        assert "may start runs" in design.problem
