"""The access log, what roles may build on, and sharing."""

import pytest
from django.core.exceptions import PermissionDenied

from portal.accounts import sharing
from portal.accounts.models import AccessGrant
from portal.lib.problems import InvalidValues
from projects.deliverables import access
from projects.models import Deliverable, DeliverableAccess, RoleLLMMapping
from tests.factories.accounts import UserFactory
from tests.factories.crews import LLMModelFactory
from tests.factories.projects import METAGPT_STAGES, StageFactory, deliverable_of, staged_project

pytestmark = pytest.mark.django_db
Kind = DeliverableAccess.Kind


@pytest.fixture
def project():
    made = staged_project()
    for stage in made.stages.all():
        deliverable_of(stage, title=stage.stage_name)
    return made


def titles(queryset):
    return set(queryset.values_list("title", flat=True))


class TestLog:
    def test_a_line_says_who_and_as_what(self, project):
        made = project.deliverables.first()
        row = access.log(made, project.access.owner, Kind.READ, "Architect\0" + "x" * 200, attempt=1, odd="\0")
        row.refresh_from_db()
        assert (row.project, row.deliverable, row.access_type) == (project, made, "read")
        assert row.accessed_by == project.access.owner
        assert len(row.accessed_by_role) == 100
        assert row.access_details == {"attempt": 1, "odd": ""}

    def test_many_lines_take_one_query(self, project, django_assert_num_queries):
        made = list(project.deliverables.all())
        with django_assert_num_queries(1):
            access.log_all(made, None, Kind.READ, "Engineer")
        assert access.of(project).count() == len(made)

    def test_it_is_of_all_versions(self, project):
        first = project.deliverables.first()
        second = deliverable_of(first.stage, lineage_of=first)
        access.log(first, None, Kind.READ)
        access.log(second, None, Kind.DOWNLOAD)
        access.log(project.deliverables.exclude(lineage=first.lineage).first(), None, Kind.READ)
        assert [row.access_type for row in access.of(first)] == ["download", "read"]


class TestAccessible:
    @pytest.mark.parametrize(("position", "role"), list(enumerate(METAGPT_STAGES.values())))
    def test_what_came_before_and_ones_own(self, position, role, project):
        assert titles(access.accessible(project, role)) == set(list(METAGPT_STAGES)[: position + 1])

    def test_stages_side_by_side_do_not_build_on_each_other(self):
        research = StageFactory(stage_name="research", responsible_role="Researcher")
        project = research.project
        writing = StageFactory(project=project, stage_name="writing", responsible_role="Writer")
        planning = StageFactory(project=project, stage_name="planning", responsible_role="Planner")
        planning.depends_on.set([research, writing])
        for stage in project.stages.all():
            deliverable_of(stage, title=stage.stage_name)
        assert titles(access.accessible(project, "Writer")) == {"writing"}
        assert titles(access.accessible(project, "Planner")) == {"research", "writing", "planning"}

    def test_latest_versions_alone(self, project):
        old = project.deliverables.get(title="requirement")
        new = deliverable_of(old.stage, title="requirement 2", lineage_of=old)
        assert titles(access.accessible(project, "Architect")) == {"design", new.title}

    @pytest.mark.parametrize("role", ["qa engineer", "QA_ENGINEER", " qa-engineer "])
    def test_a_role_may_be_written_in_ways(self, role, project):
        assert access.accessible(project, role).count() == 5

    def test_what_a_role_made_elsewhere_is_its_own(self, project):
        testing = project.stages.get(stage_name="testing")
        deliverable_of(testing, title="by hand", role="Product Manager")
        assert titles(access.accessible(project, "Product Manager")) == {"requirement", "by hand"}

    def test_a_role_with_a_model_and_no_stage_has_its_own_alone(self, project):
        RoleLLMMapping.objects.create(project=project, role_name="Designer", llm_model=LLMModelFactory())
        assert not access.accessible(project, "designer").exists()

    @pytest.mark.parametrize("role", ["", "Nobody", "\0", "x" * 10_000])
    def test_an_unknown_role_is_told_which_there_are(self, role, project):
        with pytest.raises(InvalidValues) as caught:
            access.accessible(project, role)
        (error,) = caught.value.errors
        assert (caught.value.status, error.field, error.code) == (400, "role", "unknown_role")
        assert "Architect" in error.detail

    def test_the_number_of_queries_does_not_grow(self, project, django_assert_num_queries):
        for count in (3, 30):
            for _ in range(count):
                deliverable_of(project.stages.first())
            with django_assert_num_queries(4):
                assert list(access.accessible(project, "Engineer"))


class TestSharing:
    def test_a_stranger_is_invited_to_see_the_project(self, project):
        made, by, guest = project.deliverables.first(), project.access.owner, UserFactory()
        shared = access.share(made, by, user=guest)
        assert (shared.invitation.level, shared.invitation.user) == (AccessGrant.Level.VIEWER, guest)
        assert "/invitations/" in shared.link
        row = DeliverableAccess.objects.get()
        assert (row.access_type, row.accessed_by, row.access_details["username"]) == ("share", by, guest.username)

    def test_somebody_without_an_account_is_invited_by_mail(self, project):
        shared = access.share(project.deliverables.first(), project.access.owner, email="new@example.com")
        assert shared.invitation.email == "new@example.com"
        assert DeliverableAccess.objects.get().access_details["email"] == "new@example.com"

    def test_who_sees_it_already_is_given_the_address(self, project):
        made, by, guest = project.deliverables.first(), project.access.owner, UserFactory()
        sharing.grant(project, guest, AccessGrant.Level.EDITOR, by=by)
        shared = access.share(made, by, user=guest)
        assert shared.invitation is None
        assert shared.link.endswith(str(made.pk))
        assert AccessGrant.objects.get().level == AccessGrant.Level.EDITOR
        assert DeliverableAccess.objects.filter(access_type="share").count() == 1

    def test_editors_cannot_share(self, project):
        editor = UserFactory()
        sharing.grant(project, editor, AccessGrant.Level.EDITOR, by=None)
        with pytest.raises(PermissionDenied):
            access.share(Deliverable.objects.first(), editor, user=UserFactory())
        assert not DeliverableAccess.objects.exists()
