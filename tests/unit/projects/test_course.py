"""A project's course, from its start to its end."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.db.models import F

from executions.models import Attempt
from portal.lib.problems import Conflict, InvalidValues
from projects import actions
from projects.models import Deliverable, DeliverableAccess, StageRun
from tests.factories import project_runs as make
from tests.factories.crews import LLMModelFactory, LLMProviderFactory

pytestmark = pytest.mark.django_db
ALL = ("requirement", "design", "planning", "development", "testing")


def statuses(project) -> dict[str, str]:
    return dict(project.stages.values_list("stage_name", "stage_status"))


class TestACompany:
    def test_from_start_to_end(self):
        project = make.project_of()
        assert (project.status, project.current_stage, project.progress_percentage) == ("planning", "requirement", 0)
        actions.start(project, project.owner)
        assert project.status == "in_progress"
        for number, name in enumerate(ALL, start=1):
            found = make.work(project, name)
            assert {one.status for one in found} == {"review"}
            project.refresh_from_db()
            assert (project.status, project.current_stage) == ("review", name)
            make.approve(project, name)
            project.refresh_from_db()
            assert project.progress_percentage == 20 * number
        assert (project.status, project.current_stage) == ("completed", "")
        assert Deliverable.objects.filter(project=project, status="approved", version="1.0").count() == 6
        assert StageRun.objects.filter(stage__project=project).count() == 5
        news = make.news_of(project)
        assert [event["data"]["stage_name"] for event in news if event["type"] == "stage_completed"] == list(ALL)
        assert (news[-1]["type"], news[-1]["data"]["status"]) == ("status", "completed")

    def test_a_stage_is_given_the_approved_work_before_it_and_the_log_says_so(self):
        project = make.project_of()
        actions.start(project, project.owner)
        make.through(project, "requirement", "design")
        spec = make.run_of(make.stage_of(project, "planning")).snapshot["spec"]
        assert [one["kind"] for one in spec["materials"]] == ["requirement", "architecture", "design_doc"]
        read = DeliverableAccess.objects.filter(project=project, access_type="read")
        assert {(row.accessed_by_role, row.deliverable.deliverable_type) for row in read} == {
            ("Architect", "requirement"),
            ("Project Manager", "requirement"),
            ("Project Manager", "design_doc"),
            ("Project Manager", "architecture"),
        }

    def test_what_an_engine_says_of_its_deliverables_is_kept(self):
        project = make.project_of()
        actions.start(project, project.owner)
        run = make.run_of(make.stage_of(project, "requirement"))
        files = [{"path": "docs/prd.md", "content": "Tea"}]
        make.finish(run, make.made(files=files, prompt="Write it.", metadata={"checks": {"ran": False}}))
        found = Deliverable.objects.get(project=project)
        assert (found.created_by_role, found.llm_model, found.prompt) == ("Product Manager", "embedded", "Write it.")
        assert (found.execution, found.metadata["checks"]) == (run, {"ran": False})
        assert [file.path for file in found.files.all()] == ["docs/prd.md"]

    def test_a_failed_run_is_tried_again_as_the_same_one(self):
        project = make.project_of()
        actions.start(project, project.owner)
        run = make.run_of(make.stage_of(project, "requirement"))
        make.fail(run)
        project.refresh_from_db()
        stage = make.stage_of(project, "requirement")
        assert (project.status, stage.stage_status) == ("failed", "failed")
        assert "could not be reached" in stage.problem
        assert actions.start_stage(stage, project.owner) == run
        project.refresh_from_db()
        assert (project.status, stage.stage_status, stage.problem) == ("in_progress", "in_progress", "")
        make.work(project, "requirement")
        assert Deliverable.objects.filter(project=project).count() == 1
        assert stage.runs.count() == 1


class TestSideBySide:
    def test_research_and_writing_then_the_plan(self):
        project = make.crew_project()
        actions.start(project, project.owner)
        assert statuses(project) == {"research": "in_progress", "writing": "in_progress", "planning": "pending"}
        make.through(project, "research")
        assert statuses(project)["planning"] == "pending"
        make.work(project, "writing", content="Tea for all.")
        make.approve(project, "writing")
        assert statuses(project)["planning"] == "in_progress"
        spec = make.run_of(make.stage_of(project, "planning")).snapshot["spec"]
        assert [(one["kind"], one["content"]) for one in spec["materials"]] == [
            ("report", "# research"),
            ("document", "Tea for all."),
        ]
        make.through(project, "planning")
        project.refresh_from_db()
        assert project.status == "completed"
        assert set(project.deliverables.values_list("deliverable_type", flat=True)) == {"report", "document", "plan"}

    def test_who_waits_for_a_failed_one_does_not_start(self):
        project = make.crew_project()
        actions.start(project, project.owner)
        make.fail(make.run_of(make.stage_of(project, "research")))
        make.through(project, "writing")
        project.refresh_from_db()
        assert (project.status, statuses(project)["planning"]) == ("failed", "pending")
        actions.start(project, project.owner)
        make.through(project, "research")
        assert statuses(project)["planning"] == "in_progress"


class TestByHand:
    def test_without_auto_advance_each_stage_is_started(self):
        project = make.project_of(auto_advance=False)
        actions.start(project, project.owner)
        make.through(project, "requirement")
        assert statuses(project)["design"] == "pending"
        project.refresh_from_db()
        assert (project.status, project.current_stage) == ("in_progress", "design")
        actions.start_stage(make.stage_of(project, "design"), project.owner)
        assert statuses(project)["design"] == "in_progress"

    def test_switched_on_it_goes_on(self):
        project = make.project_of(auto_advance=False)
        actions.start_stage(make.stage_of(project, "requirement"), project.owner)
        make.through(project, "requirement")
        actions.update(project, project.owner, auto_advance=True)
        assert statuses(project)["design"] == "in_progress"

    def test_without_a_gate_the_system_approves(self):
        project = make.project_of()
        actions.set_stage(make.stage_of(project, "requirement"), project.owner, requires_approval=False)
        actions.start(project, project.owner)
        (found,) = make.work(project, "requirement")
        assert (found.status, found.metadata["auto_approved"]) == ("approved", True)
        assert statuses(project)["requirement"] == "completed"
        assert statuses(project)["design"] == "in_progress"

    @pytest.mark.parametrize(
        ("name", "code"),
        [("requirement", "stage_at_work"), ("design", "stage_not_ready"), ("testing", "stage_not_ready")],
    )
    def test_what_cannot_start_says_why(self, name, code):
        project = make.project_of()
        actions.start(project, project.owner)
        with pytest.raises(Conflict) as caught:
            actions.start_stage(make.stage_of(project, name), project.owner)
        assert caught.value.code == code

    def test_what_is_in_review_or_done_does_not_start(self):
        project = make.project_of(auto_advance=False)
        actions.start(project, project.owner)
        make.work(project, "requirement")
        stage = make.stage_of(project, "requirement")
        with pytest.raises(Conflict) as in_review:
            actions.start_stage(stage, project.owner)
        make.approve(project, "requirement")
        with pytest.raises(Conflict) as done:
            actions.start_stage(stage, project.owner)
        assert (in_review.value.code, done.value.code) == ("stage_in_review", "stage_completed")

    def test_another_role_may_do_it(self):
        project = make.project_of()
        stage = make.stage_of(project, "requirement")
        run = actions.start_stage(stage, project.owner, responsible_role="architect", estimated_hours=Decimal(3))
        assert (stage.responsible_role, stage.estimated_hours) == ("Architect", 3)
        assert [agent["key"] for agent in run.snapshot["spec"]["agents"]] == ["architect"]

    def test_a_failed_one_whose_role_was_changed_meanwhile_begins_anew(self):
        project = make.crew_project()
        actions.start(project, project.owner)
        stage = make.stage_of(project, "research")
        make.fail(make.run_of(stage))
        actions.set_stage(stage, project.owner, responsible_role="Writer")
        execution = actions.start_stage(make.stage_of(project, "research"), project.owner)
        assert list(execution.role_models.values_list("role", flat=True)) == ["Writer"]
        assert stage.runs.count() == 2

    @pytest.mark.parametrize(
        ("given", "field"),
        [({"responsible_role": "Butler"}, "responsible_role"), ({"estimated_hours": Decimal(-1)}, "estimated_hours")],
    )
    def test_values_that_cannot_be_used(self, given, field):
        project = make.project_of()
        stage = make.stage_of(project, "requirement")
        with pytest.raises(InvalidValues) as caught:
            actions.start_stage(stage, project.owner, **given)
        assert [error.field for error in caught.value.errors] == [field]
        assert not stage.runs.exists()

    def test_a_model_that_cannot_be_used_is_named_before_anything_starts(self):
        project = make.project_of()
        provider = LLMProviderFactory(needs_key=True)
        LLMModelFactory(id="gpt-4", provider=provider)
        chosen = [{"role_name": "Product Manager", "llm_model": "gpt-4"}]
        actions.set_mappings(project, project.owner, chosen)
        with pytest.raises(InvalidValues) as caught:
            actions.start(project, project.owner)
        (error,) = caught.value.errors
        assert error.code == "model_not_runnable"
        assert "Product Manager" in error.detail
        assert "gpt-4" in error.detail
        project.refresh_from_db()
        assert project.status == "planning"

    def test_started_by_itself_the_stage_fails_and_the_approval_stands(self):
        project = make.project_of()
        LLMModelFactory(id="gpt-4", provider=LLMProviderFactory(needs_key=True))
        actions.set_mappings(project, project.owner, [{"role_name": "Architect", "llm_model": "gpt-4"}])
        actions.start(project, project.owner)
        make.through(project, "requirement")
        stage = make.stage_of(project, "design")
        assert (statuses(project)["requirement"], stage.stage_status) == ("completed", "failed")
        assert "gpt-4" in stage.problem
        actions.set_mappings(project, project.owner, [{"role_name": "Architect", "llm_model": "embedded"}])
        actions.start(project, project.owner)
        assert statuses(project)["design"] == "in_progress"


class TestHours:
    def took(self, execution, hours: float) -> None:
        """As if its attempts had taken so long."""
        Attempt.objects.filter(execution=execution).update(ended_at=F("started_at") + timedelta(hours=hours))

    def test_they_are_measured_over_all_runs(self):
        project = make.project_of()
        actions.start(project, project.owner)
        stage = make.stage_of(project, "requirement")
        run = make.run_of(stage)
        make.finish(run, make.made(), settle=False)
        self.took(run, 1.5)
        actions.settle(run.pk)
        stage.refresh_from_db()
        assert stage.actual_hours == Decimal("1.5")
        actions.review_stage(stage, project.owner, decision="rejected", comments="Shorter.")
        again = make.run_of(stage)
        make.finish(again, make.made(content="# Short"), settle=False)
        self.took(again, 0.25)
        actions.settle(again.pk)
        project.refresh_from_db()
        assert project.actual_hours == Decimal("1.75")

    def test_given_ones_override(self):
        project = make.project_of()
        actions.start(project, project.owner)
        make.through(project, "requirement")
        stage = make.stage_of(project, "requirement")
        actions.complete_stage(stage, project.owner, actual_hours=Decimal("7.5"), notes="With the customer.")
        project.refresh_from_db()
        assert (stage.actual_hours, stage.notes, project.actual_hours) == (Decimal("7.5"), "With the customer.", 7.5)
        actions.roll_back(stage, project.owner)
        make.through(project, "requirement")
        stage.refresh_from_db()
        assert stage.actual_hours == Decimal("7.5")

    def test_those_of_a_run_that_was_left_behind_count_once_it_has_ended(self):
        project = make.project_of()
        actions.start(project, project.owner)
        stage = make.stage_of(project, "requirement")
        run = make.take(make.run_of(stage))
        actions.complete_stage(stage, project.owner)
        run.refresh_from_db()
        run.stop()
        self.took(run, 2)
        actions.settle(run.pk)
        project.refresh_from_db()
        assert (make.stage_of(project, "requirement").actual_hours, project.actual_hours) == (2, 2)
        assert not actions.settle(run.pk)


class TestClosing:
    def test_a_failed_stage_that_is_closed_lets_the_next_one_start(self):
        project = make.project_of()
        actions.start(project, project.owner)
        make.fail(make.run_of(make.stage_of(project, "requirement")))
        actions.complete_stage(make.stage_of(project, "requirement"), project.owner)
        assert statuses(project)["design"] == "in_progress"
        project.refresh_from_db()
        assert project.status == "in_progress"

    def test_not_while_an_approval_is_open(self):
        project = make.project_of()
        actions.start(project, project.owner)
        make.work(project, "requirement")
        with pytest.raises(Conflict) as caught:
            actions.complete_stage(make.stage_of(project, "requirement"), project.owner)
        assert caught.value.code == "approval_open"

    def test_a_stage_at_work_is_stopped_and_closed(self):
        project = make.project_of()
        actions.start(project, project.owner)
        stage = make.stage_of(project, "requirement")
        run = make.take(make.run_of(stage))
        actions.complete_stage(stage, project.owner)
        run.refresh_from_db()
        assert run.is_stopping
        assert statuses(project)["design"] == "in_progress"
        # What it gives after all came too late.
        make.finish(run, make.made())
        assert not Deliverable.objects.filter(project=project).exists()
        assert statuses(project)["requirement"] == "completed"
