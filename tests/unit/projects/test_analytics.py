"""Projects in numbers."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.core.exceptions import PermissionDenied
from django.utils import timezone

from projects import analytics
from projects.models import StageRun
from tests.factories.accounts import UserFactory
from tests.factories.executions import ExecutionFactory, LLMCallFactory
from tests.factories.projects import ProjectFactory, StageFactory, deliverable_of, staged_project

pytestmark = pytest.mark.django_db


def worked(stage, model="m", cost=0, **run):
    """A run of `stage` with one call of `model`."""
    execution = ExecutionFactory(access=stage.project.access)
    StageRun.objects.create(stage=stage, execution=execution, settled_at=timezone.now(), **run)
    LLMCallFactory(
        execution=execution, role=stage.responsible_role, model=model, cost_usd=cost, status="completed",
        prompt_tokens=9, closed_at=timezone.now(),
    )  # fmt: skip
    return execution


def done(stage, days=1, hours=2):
    now = timezone.now()
    stage.stage_status, stage.start_date, stage.end_date = "completed", now - timedelta(days=days), now
    stage.actual_hours = hours
    stage.save()


class TestDays:
    @pytest.mark.parametrize(
        ("duration", "text"),
        [
            (None, "0.0 days"),
            (timedelta(), "0.0 days"),
            (timedelta(days=2, hours=12), "2.5 days"),
            (timedelta(days=400), "400.0 days"),
            (timedelta(hours=12), "0.50 days"),
            (timedelta(minutes=5), "0.0035 days"),
            (timedelta(seconds=1), "0.000012 days"),
        ],
    )
    def test_a_duration_in_days(self, duration, text):
        assert analytics.days(duration) == text


class TestOfProject:
    def test_a_project_that_has_not_begun(self):
        found = analytics.of_project(staged_project())
        roles = found.pop("role_activity")
        assert found == {
            "progress_percentage": 0,
            "stages_completed": 0,
            "total_stages": 5,
            "deliverables_created": 0,
            "average_stage_duration": None,
            "models": [],
        }
        assert set(roles) == {"Product Manager", "Architect", "Project Manager", "Engineer", "QA Engineer"}
        assert roles["Architect"] == {"hours": 0.0, "deliverables": 0}

    def test_what_each_role_and_model_did(self):
        project = staged_project(progress_percentage=40)
        requirement, design = project.stages.all()[:2]
        done(requirement, days=2)
        done(design, days=3, hours=Decimal("1.5"))
        worked(requirement, "gpt-4", Decimal("0.30"))
        worked(requirement, "gpt-4", Decimal("0.10"), cause="rework")
        worked(design, "claude-3", None)
        first = deliverable_of(requirement, llm_model="gpt-4", status="rejected")
        second = deliverable_of(requirement, llm_model="gpt-4", status="approved", lineage_of=first)
        # An edit by hand is nobody's work but that person's.
        deliverable_of(requirement, role="", by=project.access.owner, status="approved", lineage_of=second)
        deliverable_of(design, llm_model="claude-3", status="review")
        found = analytics.of_project(project)
        assert found["progress_percentage"] == 40
        assert (found["stages_completed"], found["deliverables_created"]) == (2, 2)
        assert found["average_stage_duration"] == timedelta(days=2, hours=12)
        assert found["role_activity"]["Product Manager"] == {"hours": 2.0, "deliverables": 1}
        assert found["role_activity"]["Architect"] == {"hours": 1.5, "deliverables": 1}
        claude, gpt = found["models"]
        assert gpt == {
            "role": "Product Manager",
            "llm_model": "gpt-4",
            "deliverables": 2,
            "approved": 1,
            "rejected": 1,
            "rework": 1,
            "cost_usd": Decimal("0.40"),
            "unpriced_calls": 0,
            "cost_per_approved": Decimal("0.40"),
        }
        assert (claude["role"], claude["deliverables"], claude["cost_usd"]) == ("Architect", 1, 0)
        assert claude["unpriced_calls"] == 1
        assert claude["cost_per_approved"] is None

    def test_stages_out_of_date_are_not_completed(self):
        project = staged_project()
        stage = project.stages.first()
        done(stage)
        stage.is_stale = True
        stage.save()
        assert analytics.of_project(project)["stages_completed"] == 0

    def test_a_model_that_gave_nothing_has_its_cost(self):
        project = staged_project()
        worked(project.stages.first(), "gpt-4", Decimal("0.5"))
        (row,) = analytics.of_project(project)["models"]
        assert (row["deliverables"], row["cost_usd"], row["cost_per_approved"]) == (0, Decimal("0.5"), None)

    def test_other_projects_are_no_part_of_it(self):
        other = StageFactory()
        worked(other, cost=1)
        deliverable_of(other, llm_model="m")
        found = analytics.of_project(staged_project())
        assert (found["models"], found["deliverables_created"]) == ([], 0)

    def test_the_number_of_queries_does_not_grow(self, django_assert_num_queries):
        project = staged_project()
        for count in (3, 30):
            for number in range(count):
                worked(project.stages.first(), f"m{number}", 1)
                deliverable_of(project.stages.last(), llm_model=f"m{number}")
            with django_assert_num_queries(6):
                analytics.of_project(project)


class TestDashboard:
    def test_all_projects_for_admins(self, django_assert_num_queries):
        for status, stage in [
            *(("planning", "requirement"), ("in_progress", "design"), ("review", "design"), ("paused", "testing")),
            *(("completed", ""), ("cancelled", "design"), ("failed", "planning")),
        ]:
            ProjectFactory(status=status, current_stage=stage)
        made = deliverable_of(StageFactory())
        deliverable_of(made.stage, lineage_of=made)
        with django_assert_num_queries(3):
            found = analytics.dashboard(UserFactory.build(admin=True))
        assert found == {
            "total_projects": 8,
            "active_projects": 2,
            "completed_projects": 1,
            "total_deliverables": 1,
            "projects_by_stage": {"requirement": 1, "design": 2, "planning": 1, "testing": 1},
        }

    def test_for_nobody_else(self):
        with pytest.raises(PermissionDenied):
            analytics.dashboard(UserFactory())
