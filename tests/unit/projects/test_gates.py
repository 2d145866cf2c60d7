"""The gate of a stage: who decides, what a decision binds to, and what it does."""

from datetime import timedelta

import pytest
from django.core.exceptions import PermissionDenied
from django.utils import timezone

from portal.accounts import people, sharing
from portal.accounts.models import AuditEntry
from portal.lib.problems import Conflict, InvalidValues, Problem
from projects import actions
from projects.models import Approver, Deliverable, DeliverableFile, Review, Stage
from tests.factories import project_runs as make
from tests.factories.accounts import UserFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    """A project whose first stage is in review."""
    found = make.project_of()
    actions.start(found, found.owner)
    make.work(found, "requirement")
    return found


@pytest.fixture
def stage(project):
    return make.stage_of(project, "requirement")


def the_only(project) -> Deliverable:
    return Deliverable.objects.select_related("stage__project__access__owner").get(project=project, is_latest=True)


def friend(project, level="editor", **fields):
    found = UserFactory(**fields)
    sharing.grant(project, found, level, by=project.owner)
    return found


class TestApproving:
    def test_an_approval_binds_to_what_was_read(self, project):
        deliverable = the_only(project)
        decided = actions.review(
            deliverable, project.owner, decision="approved", role="Product Owner", comments="Good."
        )
        review = Review.objects.get()
        assert (review.sha256, review.reviewer, review.decision) == (deliverable.sha256, project.owner, "approved")
        assert (decided.status, decided.approved_by_role, decided.review_comments) == (
            "approved", "Product Owner", "Good.",
        )  # fmt: skip
        assert make.stage_of(project, "design").stage_status == "in_progress"

    def test_another_text_than_the_one_that_was_read_is_not_approved(self, project):
        with pytest.raises(Conflict) as caught:
            actions.review(the_only(project), project.owner, decision="approved", sha256="0" * 64)
        assert caught.value.code == "content_changed"

    def test_all_of_a_stage_is_approved_as_it_was_read(self, project, stage):
        seen = [the_only(project).sha256]
        actions.edit_deliverable(the_only(project), project.owner, content="# Meanwhile")
        with pytest.raises(Conflict) as caught:
            actions.review_stage(stage, project.owner, decision="approved", seen=seen)
        assert caught.value.code == "content_changed"
        assert not Review.objects.exists()
        actions.review_stage(stage, project.owner, decision="approved", seen=[the_only(project).sha256])
        assert make.stage_of(project, "requirement").stage_status == "completed"

    def test_a_row_that_somebody_changed_beside_us_is_not_approved(self, project):
        deliverable = the_only(project)
        DeliverableFile.objects.create(deliverable=deliverable, path="x.py", content="evil()")
        with pytest.raises(Conflict) as caught:
            actions.review(deliverable, project.owner, decision="approved")
        assert caught.value.code == "content_changed"

    def test_with_edits_there_is_a_new_version_that_is_approved(self, project):
        first = the_only(project)
        decided = actions.review(first, project.owner, decision="approved", content="# Better")
        first.refresh_from_db()
        assert (first.status, first.is_latest) == ("review", False)
        assert (decided.version, decided.status, decided.created_by) == ("1.1", "approved", project.owner)
        assert decided.parent_deliverable == first
        assert Review.objects.get().deliverable == decided
        spec = make.run_of(make.stage_of(project, "design")).snapshot["spec"]
        assert [one["content"] for one in spec["materials"]] == ["# Better"]

    def test_the_same_text_makes_no_new_version(self, project):
        decided = actions.review(the_only(project), project.owner, decision="approved", content="# requirement")
        assert decided.version == "1.0"

    @pytest.mark.parametrize("decision", ["approved", "rejected"])
    def test_what_is_decided_stays_decided(self, project, decision):
        deliverable = the_only(project)
        actions.review(deliverable, project.owner, decision="approved")
        with pytest.raises(Conflict) as caught:
            actions.review(deliverable, UserFactory(admin=True), decision=decision, comments="No.")
        assert caught.value.code == "decided_already"

    def test_an_older_version_is_not_decided_about(self, project):
        first = the_only(project)
        actions.edit_deliverable(first, project.owner, content="# Newer")
        with pytest.raises(Conflict) as caught:
            actions.review(first, project.owner, decision="approved")
        assert caught.value.code == "not_latest"

    def test_all_deliverables_of_a_stage_are_needed(self, project, stage):
        actions.review_stage(stage, project.owner, decision="approved")
        make.work(project, "design")
        design = make.stage_of(project, "design")
        first, second = design.deliverables.filter(is_latest=True)
        actions.review(first, project.owner, decision="approved")
        design.refresh_from_db()
        assert design.stage_status == "review"
        actions.review(second, project.owner, decision="approved")
        design.refresh_from_db()
        assert design.stage_status == "completed"

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({"decision": "maybe"}, "status"),
            ({"decision": "rejected"}, "review_comments"),
            ({"decision": "rejected", "comments": " "}, "review_comments"),
            ({"decision": "rejected", "comments": "No.", "content": "x"}, "content"),
            ({"decision": "approved", "comments": "x" * 20_001}, "review_comments"),
        ],
    )
    def test_what_cannot_be_said(self, project, given, field):
        with pytest.raises(InvalidValues) as caught:
            actions.review(the_only(project), project.owner, **given)
        assert [error.field for error in caught.value.errors] == [field]


class TestWho:
    def test_strangers_and_viewers_may_not(self, project):
        for person in (UserFactory(), friend(project, "viewer"), UserFactory(viewer=True)):
            assert not actions.may_review(person, make.stage_of(project, "requirement"))
            with pytest.raises(PermissionDenied):
                actions.review(the_only(project), person, decision="approved")

    def test_editors_admins_and_the_owner_may(self, project, stage):
        editor = friend(project)
        assert all(actions.may_review(one, stage) for one in (editor, UserFactory(admin=True), project.owner))
        assert set(actions.reviewers(stage)) == {editor, project.owner}

    def test_named_approvers_may_as_long_as_they_see_it(self, project, stage):
        viewer = friend(project, "viewer")
        actions.set_approvers(stage, project.owner, [viewer])
        assert actions.may_review(viewer, stage)
        assert viewer in actions.reviewers(stage)
        sharing.withdraw(project, viewer, by=project.owner)
        assert not actions.may_review(viewer, stage)

    def test_who_cannot_see_it_or_reviews_nothing_is_not_named(self, project, stage):
        for person, code in ((UserFactory(), "cannot_see"), (friend(project, "viewer", viewer=True), "not_a_user")):
            with pytest.raises(InvalidValues) as caught:
                actions.set_approvers(stage, project.owner, [person])
            assert [error.code for error in caught.value.errors] == [code]

    def test_the_deactivated_are_named_no_more(self, project, stage, django_capture_on_commit_callbacks):
        viewer = friend(project, "viewer")
        actions.set_approvers(stage, project.owner, [viewer])
        with django_capture_on_commit_callbacks(execute=True):
            people.deactivate(viewer, by=UserFactory(admin=True))
        assert not Approver.objects.exists()


class TestQuorum:
    def test_it_takes_as_many_different_people(self, project, stage):
        actions.set_stage(stage, project.owner, quorum=2)
        deliverable = the_only(project)
        actions.review(deliverable, project.owner, decision="approved")
        assert (deliverable.status, make.stage_of(project, "requirement").stage_status) == ("review", "review")
        with pytest.raises(Conflict) as caught:
            actions.review(deliverable, project.owner, decision="approved")
        assert caught.value.code == "reviewed_already"
        actions.review(deliverable, friend(project), decision="approved")
        assert make.stage_of(project, "requirement").stage_status == "completed"
        last = [event for event in make.news_of(project) if event["type"] == "deliverable_reviewed"][-1]
        assert (last["data"]["approvals"], last["data"]["needed"]) == (2, 2)

    def test_a_new_version_begins_to_count_anew(self, project, stage):
        actions.set_stage(stage, project.owner, quorum=2)
        first = the_only(project)
        actions.review(first, project.owner, decision="approved")
        second = actions.edit_deliverable(first, project.owner, content="# Changed")
        assert second.status == "review"
        actions.review(second, friend(project), decision="approved")
        assert make.stage_of(project, "requirement").stage_status == "review"

    def test_one_rejection_rejects(self, project, stage):
        actions.set_stage(stage, project.owner, quorum=2)
        deliverable = the_only(project)
        actions.review(deliverable, project.owner, decision="approved")
        actions.review(deliverable, friend(project), decision="rejected", comments="No.")
        assert deliverable.status == "rejected"
        assert make.stage_of(project, "requirement").stage_status == "in_progress"

    def test_a_lower_one_holds_at_once(self, project, stage):
        actions.set_stage(stage, project.owner, quorum=3)
        actions.review_stage(stage, project.owner, decision="approved")
        actions.set_stage(stage, project.owner, quorum=1)
        assert make.stage_of(project, "requirement").stage_status == "completed"


class TestOtherEyes:
    @pytest.fixture(autouse=True)
    def gate(self, project, stage):
        actions.set_stage(stage, project.owner, excludes_author=True)

    def test_who_started_it_may_not_approve(self, project):
        with pytest.raises(Problem) as caught:
            actions.review(the_only(project), project.owner, decision="approved")
        assert (caught.value.status, caught.value.code) == (403, "author_excluded")
        actions.review(the_only(project), friend(project), decision="approved")
        assert make.stage_of(project, "requirement").stage_status == "completed"

    def test_who_edits_may_not_either(self, project):
        editor = friend(project)
        with pytest.raises(Problem) as caught:
            actions.review(the_only(project), editor, decision="approved", content="# Mine")
        assert caught.value.code == "author_excluded"
        actions.edit_deliverable(the_only(project), editor, content="# Mine")
        with pytest.raises(Problem):
            actions.review(the_only(project), editor, decision="approved")

    def test_an_author_may_send_it_back(self, project):
        actions.review(the_only(project), project.owner, decision="rejected", comments="Not yet.")
        assert make.stage_of(project, "requirement").stage_status == "in_progress"


class TestSendingBack:
    def test_the_role_works_again_with_the_comments(self, project, stage):
        first = the_only(project)
        before = make.run_of(stage)
        actions.review(first, project.owner, decision="rejected", comments="Name the teas.")
        run = make.run_of(stage)
        assert run != before
        (review,) = run.snapshot["spec"]["reviews"]["requirement"]
        assert review["feedback"] == "Name the teas."
        assert "# requirement" in review["output"]
        assert stage.runs.get(execution=run).cause == "rework"
        make.work(project, "requirement", content="# Green tea")
        second = the_only(project)
        assert (second.version, second.parent_deliverable, second.status) == ("1.1", first, "review")
        first.refresh_from_db()
        assert (first.status, first.review_comments) == ("rejected", "Name the teas.")

    def test_all_that_was_said_so_far_goes_along(self, project, stage):
        for comments in ("Name the teas.", "Prices too."):
            actions.review(the_only(project), project.owner, decision="rejected", comments=comments)
            make.work(project, "requirement", content=f"# After: {comments}")
        spec = make.run_of(stage).snapshot["spec"]
        assert [one["feedback"] for one in spec["reviews"]["requirement"]] == ["Name the teas.", "Prices too."]
        assert the_only(project).version == "1.2"

    def test_all_that_is_in_review_goes_back(self, project, stage):
        actions.review_stage(stage, project.owner, decision="approved")
        make.work(project, "design")
        design = make.stage_of(project, "design")
        actions.review(design.deliverables.first(), project.owner, decision="rejected", comments="Simpler.")
        assert set(design.deliverables.values_list("status", "review_comments")) == {("rejected", "Simpler.")}
        make.work(project, "design")
        latest = design.deliverables.filter(is_latest=True)
        assert set(latest.values_list("version", "status")) == {("1.1", "review")}
        assert latest.count() == 2

    def test_of_a_paused_project_when_it_goes_on(self, project, stage):
        actions.pause(project, project.owner)
        actions.review(the_only(project), project.owner, decision="rejected", comments="No.")
        assert make.stage_of(project, "requirement").stage_status == "pending"
        assert stage.runs.count() == 1
        actions.start(project, project.owner)
        assert stage.runs.count() == 2
        assert make.run_of(stage).snapshot["spec"]["reviews"]["requirement"]


class TestStandingIn:
    def test_a_review_is_delegated_to_who_sees_the_project(self, project, stage):
        viewer = friend(project, "viewer")
        row = actions.delegate(stage, project.owner, to=viewer)
        assert row.delegated_by == project.owner
        actions.review_stage(stage, viewer, decision="approved")
        assert make.stage_of(project, "requirement").stage_status == "completed"
        assert AuditEntry.objects.filter(action="stage.delegated").exists()

    def test_only_by_who_may_review(self, project, stage):
        viewer = friend(project, "viewer")
        with pytest.raises(PermissionDenied):
            actions.delegate(stage, viewer, to=viewer)

    def test_not_to_who_cannot_see_it(self, project, stage):
        with pytest.raises(InvalidValues):
            actions.delegate(stage, project.owner, to=UserFactory())

    def test_named_ones_change_and_stand_ins_stay(self, project, stage):
        first, second, stand_in = (friend(project, "viewer") for _ in range(3))
        actions.delegate(stage, project.owner, to=stand_in)
        actions.set_approvers(stage, project.owner, [first])
        actions.set_stage(stage, project.owner, approvers=[second])
        assert set(stage.approvers.values_list("user", flat=True)) == {second.pk, stand_in.pk}


class TestEscalation:
    def waits(self, stage, hours: int) -> None:
        Stage.objects.filter(pk=stage.pk).update(review_due_at=timezone.now() - timedelta(hours=hours))

    def test_after_its_time_it_is_passed_on_once(self, project, stage, settings, mailoutbox):
        settings.EMAIL_URL = "memory://"
        boss = friend(project, "viewer")
        actions.set_stage(stage, project.owner, review_hours=2, escalate_to=boss)
        stage.refresh_from_db()
        assert stage.review_due_at == stage.review_since + timedelta(hours=2)
        assert actions.escalate_due() == 0
        self.waits(stage, 1)
        assert actions.escalate_due() == 1
        assert actions.escalate_due() == 0
        row = stage.approvers.get()
        assert (row.user, row.is_escalation) == (boss, True)
        assert [mail.to for mail in mailoutbox] == [[boss.email]]
        assert "Requirement" in mailoutbox[0].body
        actions.review_stage(stage, boss, decision="approved")

    def test_to_the_owner_where_nobody_is_named(self, project, stage):
        actions.set_stage(stage, project.owner, review_hours=1)
        self.waits(stage, 1)
        actions.escalate_due()
        assert stage.approvers.get().user == project.owner

    def test_the_next_review_has_its_own_time(self, project, stage):
        actions.set_stage(stage, project.owner, review_hours=1)
        self.waits(stage, 1)
        actions.escalate_due()
        actions.review_stage(stage, project.owner, decision="rejected", comments="No.")
        make.work(project, "requirement")
        stage.refresh_from_db()
        assert stage.escalated_at is None
        assert stage.review_due_at > timezone.now()


class TestByHand:
    def test_an_edit_of_approved_work_marks_what_was_made_of_it(self, project, stage):
        actions.review_stage(stage, project.owner, decision="approved")
        make.through(project, "design")
        newer = actions.edit_deliverable(stage.deliverables.get(is_latest=True), project.owner, content="# Changed")
        assert newer.status == "review"
        assert not project.stages.filter(is_stale=True).exists()
        actions.review(newer, project.owner, decision="approved")
        stale = set(project.stages.filter(is_stale=True).values_list("stage_name", "stage_status"))
        assert stale == {("design", "completed"), ("planning", "in_progress")}
        # Run again: only what depends on the change.
        actions.start_stage(make.stage_of(project, "design"), project.owner)
        assert make.stage_of(project, "requirement").stage_status == "completed"
        assert make.stage_of(project, "planning").stage_status == "pending"

    def test_its_rejection_leaves_the_stage_done(self, project, stage):
        actions.review_stage(stage, project.owner, decision="approved")
        newer = actions.edit_deliverable(stage.deliverables.get(is_latest=True), project.owner, content="# Worse")
        actions.review(newer, project.owner, decision="rejected", comments="No.")
        assert make.stage_of(project, "requirement").stage_status == "completed"
        assert stage.runs.count() == 1

    def test_its_rejection_does_not_let_the_role_work_for_ever(self, project, stage):
        added = actions.add_deliverable(stage, project.owner, type="document", title="By hand", content="# Mine")
        actions.review(added, project.owner, decision="rejected", comments="No.")
        make.through(project, "requirement")  # all of the stage was sent back with it
        assert make.stage_of(project, "requirement").stage_status == "completed"
        assert stage.runs.count() == 2

    def test_what_a_person_adds_has_its_own_lineage(self, project, stage):
        added = actions.add_deliverable(stage, project.owner, type="requirement", title="By hand", content="# Mine")
        assert (added.version, added.status, added.created_by) == ("1.0", "draft", project.owner)
        actions.review_stage(stage, project.owner, decision="rejected", comments="Again.")
        make.work(project, "requirement")
        added.refresh_from_db()
        assert added.is_latest
        assert set(stage.deliverables.filter(is_latest=True).values_list("version", flat=True)) == {"1.0", "1.1"}
