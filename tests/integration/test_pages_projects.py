"""Pages of projects: list, wizard, the project, its stages and gates, templates, engines."""

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from crews.models import EMBEDDED
from crews.seed import seed_catalog
from portal.accounts.models import AccessGrant, Role, Visibility
from projects import actions
from projects.library import seed_templates
from projects.models import Approver, Deliverable, Project, Review, Stage, StageRun, Template
from projects.status import ProjectStatus, StageStatus
from tests.factories.accounts import UserFactory
from tests.factories.executions import ExecutionFactory, LLMCallFactory
from tests.factories.projects import deliverable_of, staged_project

pytestmark = pytest.mark.django_db

XSS = "<img src=x onerror=alert(1)>"


@pytest.fixture
def mina(client):
    seed_catalog()
    seed_templates()
    user = UserFactory(username="mina")
    client.force_login(user)
    return user


@pytest.fixture
def project(mina):
    return actions.create(by=mina, name="Tea shop", selected_ai="crew-ai", requirement="Sell **tea**.")


@pytest.fixture
def waiting(mina):
    """A project whose first stage is in review, with a deliverable."""
    project = staged_project(access__owner=mina, name="To-do list", status=ProjectStatus.REVIEW)
    stage = project.stages.get(stage_name="requirement")
    deliverable_of(stage, type="requirement", title="Requirements", content="# Goals", status="review")
    stage.stage_status, stage.review_since = StageStatus.REVIEW, timezone.now()
    stage.save()
    return stage


def url(name, thing, *args):
    return reverse(f"projects:{name}", args=[thing.pk, *args])


def queries(client, address):
    with CaptureQueriesContext(connection) as caught:
        assert client.get(address).status_code == 200
    return len(caught)


def invite(project, user, level="viewer"):
    AccessGrant.objects.create(access=project.access, user=user, level=level)


class TestTheList:
    def test_it_shows_what_a_person_may_see(self, client, mina, project):
        shared = staged_project(name="Shared one", access__visibility=Visibility.SHARED)
        hidden = staged_project(name="Hidden one")
        text = client.get("/projects").text
        assert project.name in text
        assert shared.name in text
        assert hidden.name not in text

    @pytest.mark.parametrize(
        ("query", "seen"),
        [
            ("q=tea", {"Tea shop"}),
            ("engine=meta-gpt", {"Code"}),
            ("status=completed", {"Code"}),
            ("type=api", {"Code"}),
            ("whose=own", {"Tea shop", "Code"}),
            ("whose=archived", {"Old"}),
            ("status=nonsense", {"Tea shop", "Code"}),
        ],
    )
    def test_it_narrows(self, client, mina, project, query, seen):
        staged_project(access__owner=mina, name="Code", status="completed", project_type="api")
        staged_project(access__owner=mina, name="Old", archived_at=timezone.now())
        assert {row.name for row in client.get(f"/projects?{query}").context["page"].rows} == seen

    def test_it_pages_and_answers_htmx_with_the_cards_alone(self, client, mina):
        for number in range(20):
            staged_project(access__owner=mina, name=f"Project {number:02}")
        first = client.get("/projects").context["page"]
        second = client.get(f"/projects{first.next}").context["page"]
        assert len({row.pk for row in first.rows + second.rows}) == 20
        answer = client.get("/projects?q=03", headers={"HX-Request": "true", "HX-Target": "project-cards"})
        assert "<html" not in answer.text
        assert "HX-Target" in answer["Vary"]

    def test_more_projects_cost_no_more_queries(self, client, mina):
        staged_project(access__owner=mina)
        client.get("/projects")
        few = queries(client, "/projects")
        for _ in range(6):
            staged_project(access__owner=mina)
        assert queries(client, "/projects") == few


class TestANewOne:
    def test_it_starts_from_a_template_or_blank(self, client, mina):
        text = client.get("/projects/new").text
        for template in Template.objects.all():
            assert f"?template={template.pk}" in text
        assert "?engine=meta-gpt" in text

    def test_the_form_holds_the_outline_and_what_is_recommended(self, client, mina):
        answer = client.get("/projects/create?template=web_app")
        form = answer.context["form"]
        assert form.initial["project_type"] == "web_app"
        assert form.initial["requirement"]
        assert [role for role, *_rest in form.rows] == [
            "Product Manager", "Architect", "Project Manager", "Engineer", "QA Engineer",
        ]  # fmt: skip
        assert set(answer.context["recommended"].values()) == {EMBEDDED}  # no provider has a key
        assert "has no API key yet" in answer.text  # why the others cannot be used

    def test_it_makes_a_project_with_models_parameters_and_files(self, client, mina):
        answer = client.post(
            "/projects/create?engine=crew-ai",
            {
                "name": "Tea", "requirement": "Sell tea.", "project_type": "web_app", "language": "en",
                "auto_advance": "on", "budget_usd": "2.5", "deadline": "2030-05-01T12:00",
                "attachments": [SimpleUploadedFile("a.md", b"# A"), SimpleUploadedFile("b.md", b"# B")],
                "model_1": EMBEDDED, "temperature_1": "0.3", "max_tokens_1": "500",
                "model_2": EMBEDDED, "model_3": EMBEDDED,
            },
        )  # fmt: skip
        project = Project.objects.get(name="Tea")
        assert answer["Location"] == project.get_absolute_url()
        assert project.status == ProjectStatus.PLANNING
        assert project.owner == mina
        assert {file.name for file in project.attachments.all()} == {"a.md", "b.md"}
        researcher = project.mappings.get(role_name="Researcher")
        assert researcher.llm_config == {"temperature": 0.3, "max_tokens": 500}

    def test_what_is_missing_is_said_beside_its_field(self, client, mina):
        files = [SimpleUploadedFile("a.md", b"# A")]
        answer = client.post("/projects/create?engine=crew-ai", {"name": "", "attachments": files})
        assert answer.status_code == 422
        assert "choose them again" in answer.text
        assert "name" in answer.context["form"].errors
        assert not Project.objects.exists()

    @pytest.mark.parametrize("query", ["template=none", "engine=none"])
    def test_an_unknown_start_is_not_found(self, client, mina, query):
        assert client.get(f"/projects/create?{query}").status_code == 404

    def test_a_viewer_makes_none(self, client):
        client.force_login(UserFactory(role=Role.VIEWER))
        assert client.get("/projects/new").status_code == 403
        assert client.post("/projects/create").status_code == 403


class TestThePage:
    def test_it_shows_stages_models_and_requirement(self, client, project):
        text = client.get(project.get_absolute_url()).text
        for stage in project.stages.all():
            assert f'id="stage-{stage.stage_name}"' in text
        assert "Sell <strong>tea</strong>." in text
        assert "Not started yet" in text
        assert f"/ws/projects/{project.pk}/updates" in text

    def test_names_and_texts_are_escaped(self, client, waiting):
        Project.objects.filter(pk=waiting.project_id).update(name=XSS, description=XSS, requirement=XSS)
        Deliverable.objects.update(title=XSS, content=XSS)
        assert XSS not in client.get(waiting.project.get_absolute_url()).text

    def test_its_fragments_are_the_pages_own(self, client, waiting):
        answer = client.get(url("project-live", waiting.project))
        assert "<html" not in answer.text
        for piece in ("project-head", "project-rail", "gate-requirement", "stage-design", "project-numbers"):
            assert f'id="{piece}"' in answer.text
        assert 'hx-swap-oob="true"' in answer.text

    def test_its_numbers_are_told_by_role_and_model(self, client, waiting):
        address = url("project-numbers", waiting.project)
        assert "Nothing yet" in client.get(url("project-numbers", staged_project(access=waiting.project.access))).text
        few = queries(client, address)
        for number in range(3):
            deliverable_of(waiting, title=f"More {number}", llm_model=f"model-{number}", status="rejected")
        text = client.get(address).text
        assert all(f"<code>model-{number}</code>" in text for number in range(3))
        assert waiting.responsible_role in text
        assert queries(client, address) == few
        assert "Unpriced" not in text
        execution = ExecutionFactory(access=waiting.project.access)
        StageRun.objects.create(stage=waiting, execution=execution, settled_at=timezone.now())
        LLMCallFactory(
            execution=execution, role=waiting.responsible_role, model="model-0", status="completed",
            cost_usd=None, prompt_tokens=9, closed_at=timezone.now(),
        )  # fmt: skip
        assert "Unpriced" in client.get(address).text, "a cost that nobody knows is not none"
        assert url("project-numbers", waiting.project) in client.get(waiting.project.get_absolute_url()).text

    def test_a_member_who_may_look_sees_nothing_to_change(self, client, project):
        reader = UserFactory()
        invite(project, reader)
        client.force_login(reader)
        text = client.get(project.get_absolute_url()).text
        for name in ("project-start", "project-edit", "project-delete", "project-models"):
            assert url(name, project) not in text

    def test_a_stranger_finds_nothing(self, client, project):
        client.force_login(UserFactory())
        assert client.get(project.get_absolute_url()).status_code == 404
        assert client.post(url("project-start", project)).status_code == 404

    def test_more_work_costs_no_more_queries(self, client, waiting):
        address = waiting.project.get_absolute_url()
        client.get(address)
        few = queries(client, address)
        for number in range(5):
            deliverable_of(waiting, title=f"More {number}", status="review")
            deliverable_of(waiting.project.stages.get(stage_name="design"), title=f"Design {number}")
        assert queries(client, address) == few

    def test_what_refuses_to_start_is_said(self, client, project):
        project.mappings.update(llm_model="gpt-4")
        answer = client.post(url("project-start", project), follow=True)
        assert project.stages.filter(stage_status=StageStatus.IN_PROGRESS).count() == 0
        assert [str(message) for message in answer.context["messages"]]

    def test_it_is_changed_duplicated_archived_and_deleted(self, client, project):
        values = {"name": "Coffee shop", "project_type": "api", "language": "ko", "requirement": "Sell coffee."}
        assert client.post(url("project-edit", project), values).status_code == 302
        project.refresh_from_db()
        assert (project.name, project.project_type, project.auto_advance) == ("Coffee shop", "api", False)
        client.post(url("project-duplicate", project))
        assert Project.objects.count() == 2
        client.post(url("project-archive", project), {"archived": "1"})
        project.refresh_from_db()
        assert project.is_archived
        client.post(url("project-archive", project), {"archived": ""})
        assert client.post(url("project-delete", project))["Location"] == "/projects"
        assert not Project.objects.filter(pk=project.pk).exists()

    def test_models_of_roles_are_changed_and_the_rest_of_their_parameters_kept(self, client, project):
        project.mappings.update(llm_config={"top_p": 0.5, "temperature": 1})
        values = {f"model_{number}": EMBEDDED for number in (1, 2, 3)}
        assert client.post(url("project-models", project), values).status_code == 302
        assert all(row.llm_config == {"top_p": 0.5} for row in project.mappings.all())

    def test_roles_have_names_in_any_script(self, client, mina):
        stages = [
            {"stage_name": "research", "responsible_role": "조사원"},
            {"stage_name": "writing", "responsible_role": "작가", "depends_on": ["research"]},
        ]
        template = actions.save_template(
            None, mina, name="Ours", selected_ai="crew-ai", project_type="api", stages=stages
        )
        project = actions.create(by=mina, name="Tea", template=template)
        form = client.get(url("project-models", project)).context["form"]
        assert {"조사원", "작가"} < {role for role, *_fields in form.rows}

    def test_what_is_cancelled_can_be_started_over(self, client, project):
        client.post(url("project-start", project))
        client.post(url("project-cancel", project))
        page = client.get(project.get_absolute_url())
        assert url("project-restart", project) in page.text
        assert url("project-start", project) not in page.text

    def test_what_is_archived_is_only_looked_at(self, client, waiting):
        Project.objects.filter(pk=waiting.project_id).update(archived_at=timezone.now())
        text = client.get(waiting.project.get_absolute_url()).text
        for name in ("project-start", "project-pause", "project-edit", "project-restart", "project-cancel"):
            assert f'"{url(name, waiting.project)}"' not in text
        assert url("stage-review", waiting.project, waiting.pk) not in text
        assert "Take out of the archive" in text
        document = waiting.deliverables.get()
        assert (
            reverse("projects:deliverable-edit", args=[document.pk]) not in client.get(document.get_absolute_url()).text
        )

    def test_what_rests_can_be_started(self, client, mina):
        project = staged_project(access__owner=mina, status=ProjectStatus.IN_PROGRESS)
        assert f'"{url("project-start", project)}"' in client.get(project.get_absolute_url()).text

    def test_what_is_out_of_date_can_be_done_again(self, client, waiting):
        Stage.objects.filter(pk=waiting.pk).update(stage_status=StageStatus.COMPLETED, is_stale=True)
        assert url("stage-start", waiting.project, waiting.pk) in client.get(waiting.project.get_absolute_url()).text

    def test_reading_at_the_gate_stands_in_the_log(self, client, waiting, mina):
        client.get(waiting.project.get_absolute_url())
        read = waiting.deliverables.get().accesses.get()
        assert (read.access_type, read.accessed_by) == ("read", mina)
        newer = actions.edit_deliverable(waiting.deliverables.get(), mina, content="# Newer")
        for _time in range(2):  # what comes while the page is open is read once
            client.get(url("project-live", waiting.project))
        assert [row.access_type for row in newer.accesses.filter(access_type="read")] == ["read"]

    @pytest.mark.parametrize("query", ["q", "status", "engine", "type", "whose"])
    def test_no_address_breaks_the_list(self, client, mina, query):
        assert client.get(f"/projects?{query}=%00").status_code == 200

    def test_times_are_read_and_shown_where_the_person_is(self, client, project):
        client.cookies["timezone"] = "Asia/Seoul"
        values = {"name": "Tea", "project_type": "api", "language": "en", "deadline": "2031-05-01T18:00"}
        assert client.post(url("project-edit", project), values).status_code == 302
        project.refresh_from_db()
        assert project.deadline.isoformat() == "2031-05-01T09:00:00+00:00"
        assert "2031-05-01T18:00" in client.get(url("project-edit", project)).text
        client.cookies["timezone"] = "Nowhere/../etc"
        assert "2031-05-01T09:00" in client.get(url("project-edit", project)).text

    def test_files_come_and_go(self, client, project):
        client.post(url("project-attach", project), {"attachments": [SimpleUploadedFile("notes.md", b"# Notes")]})
        file = project.attachments.get()
        client.post(url("project-detach", project, file.pk))
        assert not project.attachments.exists()

    def test_it_is_taken_out_as_a_zip(self, client, project):
        answer = client.get(url("project-export", project))
        assert answer["Content-Type"] == "application/zip"
        assert "tea-shop.zip" in answer["Content-Disposition"]


class TestGates:
    def test_approving_completes_the_stage(self, client, waiting):
        answer = client.post(url("stage-review", waiting.project, waiting.pk), {"decision": "approve"})
        assert answer.status_code == 302
        waiting.refresh_from_db()
        assert waiting.stage_status == StageStatus.COMPLETED
        assert waiting.deliverables.get().status == Deliverable.Status.APPROVED

    def test_approving_with_edits_makes_a_version(self, client, waiting):
        values = {"decision": "edit", "content": "# Better goals", "comments": "Shorter."}
        client.post(url("stage-review", waiting.project, waiting.pk), values)
        made = waiting.deliverables.get(is_latest=True)
        assert (made.version, made.content, made.status) == ("1.1", "# Better goals", Deliverable.Status.APPROVED)

    def test_what_was_overtaken_is_not_approved(self, client, waiting):
        values = {"decision": "edit", "content": "x", "seen": "0" * 64}
        answer = client.post(url("stage-review", waiting.project, waiting.pk), values)
        assert answer.status_code == 422
        assert waiting.deliverables.get().status == Deliverable.Status.REVIEW

    @pytest.mark.parametrize("decision", ["approve", "edit", "reject"])
    def test_nothing_else_is_decided_about_than_what_was_read(self, client, waiting, mina, decision):
        first = waiting.deliverables.get()
        actions.edit_deliverable(first, mina, content="# Meanwhile")
        values = {"decision": decision, "content": "# Mine", "comments": "So.", "seen": first.sha256}
        address = url("stage-review", waiting.project, waiting.pk)
        answer = client.post(address, values)
        assert answer.status_code == 422
        assert "This is not what you have read" in answer.text
        assert "# Mine" in answer.text or decision != "edit"
        assert not Review.objects.exists()
        # What it shows now has been read, and is decided about.
        seen = answer.context["gates"][0].gate.form["seen"].value()
        assert client.post(address, {**values, "seen": seen}).status_code == 302
        assert Review.objects.count() == 1

    def test_what_a_browser_does_to_ends_of_lines_makes_no_version(self, client, waiting, mina):
        actions.edit_deliverable(waiting.deliverables.get(), mina, content="# A\n\nB")
        values = {"decision": "edit", "content": "# A\r\n\r\nB"}
        client.post(url("stage-review", waiting.project, waiting.pk), values)
        assert waiting.deliverables.get(is_latest=True).version == "1.1"

    def test_what_was_written_is_not_lost_to_who_comes_too_late(self, client, waiting, mina):
        seen = waiting.deliverables.get().sha256
        actions.review_stage(waiting, mina, decision="approved")
        values = {"decision": "edit", "content": "# An hour of work", "comments": "Mine.", "seen": seen}
        answer = client.post(url("stage-review", waiting.project, waiting.pk), values)
        assert answer.status_code == 422
        assert "Your decision was not taken" in answer.text
        assert "Mine." in answer.text

    def test_a_second_pair_of_eyes_is_offered_what_it_may_do(self, client, waiting, mina):
        Stage.objects.filter(pk=waiting.pk).update(excludes_author=True)
        actions.edit_deliverable(waiting.deliverables.get(), mina, content="# By Mina")
        form = client.get(waiting.project.get_absolute_url()).context["gates"][0].gate.form
        assert [value for value, _label in form.fields["decision"].choices] == ["reject"]
        editor = UserFactory()
        invite(waiting.project, editor, "editor")
        client.force_login(editor)
        form = client.get(waiting.project.get_absolute_url()).context["gates"][0].gate.form
        assert [value for value, _label in form.fields["decision"].choices] == ["approve", "reject"]

    def test_sending_back_needs_words(self, client, waiting):
        answer = client.post(url("stage-review", waiting.project, waiting.pk), {"decision": "reject"})
        assert answer.status_code == 422
        assert "comments" in answer.context["gates"][0].gate.form.errors
        assert not Review.objects.exists()

    def test_who_is_named_may_decide_and_who_is_not_may_not(self, client, waiting):
        reader = UserFactory()
        invite(waiting.project, reader)
        client.force_login(reader)
        address = url("stage-review", waiting.project, waiting.pk)
        assert client.post(address, {"decision": "approve"}).status_code == 403
        Approver.objects.create(stage=waiting, user=reader)
        assert address in client.get(waiting.project.get_absolute_url()).text
        assert client.post(address, {"decision": "approve"}).status_code == 302

    def test_a_quorum_says_who_is_missing(self, client, waiting):
        Stage.objects.filter(pk=waiting.pk).update(quorum=2)
        assert "2 approvals missing" in client.get(waiting.project.get_absolute_url()).text
        client.post(url("stage-review", waiting.project, waiting.pk), {"decision": "approve"})
        text = client.get(waiting.project.get_absolute_url()).text
        assert "1 approval missing" in text
        assert "You have approved it" in text
        assert "You have approved it" in client.get(waiting.deliverables.get().get_absolute_url()).text
        assert "To-do list: Requirement" not in client.get("/approvals").text  # no more to do for this person

    def test_somebody_else_is_asked(self, client, waiting):
        reader = UserFactory(username="reader")
        invite(waiting.project, reader)
        client.post(url("stage-delegate", waiting.project, waiting.pk), {"to": reader.pk})
        assert waiting.approvers.get().user == reader
        client.post(url("stage-delegate", waiting.project, waiting.pk), {"to": UserFactory().pk})
        assert waiting.approvers.count() == 1

    def test_its_gate_is_set(self, client, waiting):
        reader = UserFactory()
        invite(waiting.project, reader)
        values = {"requires_approval": "on", "quorum": "2", "review_hours": "24", "approvers": [reader.pk]}
        assert client.post(url("stage-settings", waiting.project, waiting.pk), values).status_code == 302
        waiting.refresh_from_db()
        assert (waiting.quorum, waiting.review_hours, waiting.approvers.get().user) == (2, 24, reader)

    def test_going_back_shows_what_is_done_again(self, client, waiting):
        text = client.get(url("stage-roll-back", waiting.project, waiting.pk)).text
        for label in ("Design", "Plan", "Development", "Testing"):
            assert label in text

    def test_what_waits_is_listed_to_who_may_decide(self, client, waiting, mina):
        assert "To-do list: Requirement" in client.get("/approvals").text
        assert "To-do list: Requirement" in client.get("/").text
        reader = UserFactory()
        invite(waiting.project, reader)
        client.force_login(reader)
        assert "To-do list: Requirement" not in client.get("/approvals").text


class TestTemplates:
    def test_the_gallery_narrows(self, client, mina):
        assert len(client.get("/templates").context["templates"]) == 5
        found = client.get("/templates?engine=crew-ai").context["templates"]
        assert {row.selected_ai for row in found} == {"crew-ai"}
        assert [row.pk for row in client.get("/templates?q=web_app").context["templates"]] == ["web_app"]

    def test_a_template_says_what_it_brings(self, client, mina):
        text = client.get("/templates/web_app").text
        assert "QA Engineer" in text
        assert EMBEDDED in text
        assert client.get("/templates/none").status_code == 404

    def test_others_projects_are_not_counted(self, client, mina):
        staged_project(template_id="web_app")
        staged_project(template_id="web_app", access__owner=mina)
        assert client.get("/templates/web_app").context["template"].made == 1

    def test_one_is_saved_from_a_project_used_and_deleted(self, client, project, mina):
        answer = client.post(url("project-template", project), {"name": "Tea shops", "is_shared": "on"})
        template = Template.objects.get(name="Tea shops")
        assert answer["Location"] == template.get_absolute_url()
        client.force_login(UserFactory())
        assert client.get(template.get_absolute_url()).status_code == 200
        assert client.post(url("template-delete", template)).status_code == 403
        client.force_login(mina)
        assert client.post(url("template-delete", template))["Location"] == "/templates"
        assert not Template.objects.filter(pk=template.pk).exists()

    def test_what_came_along_is_not_deleted(self, client, mina):
        assert client.post("/templates/web_app/delete").status_code == 403

    def test_one_action_makes_and_starts_a_project(self, client, mina):
        answer = client.post("/templates/mobile_app/run")
        project = Project.objects.get()
        assert answer["Location"] == project.get_absolute_url()
        assert project.template_id == "mobile_app"

    def test_a_reader_of_korean_finds_and_makes_korean_ones(self, client, mina):
        client.cookies["django_language"] = "ko"
        assert [row.pk for row in client.get("/templates?q=데이터 분석").context["templates"]] == ["data_analysis"]
        client.post("/templates/data_analysis/run")
        project = Project.objects.get()
        assert (project.language, project.name) == ("ko", "데이터 분석")


class TestEngines:
    @pytest.mark.parametrize(
        ("address", "engine", "role"),
        [("/crewai", "crew-ai", "Researcher"), ("/metagpt", "meta-gpt", "Product Manager")],
    )
    def test_its_page_says_how_it_works(self, client, mina, address, engine, role):
        staged_project(access__owner=mina, name="One of it", selected_ai=engine)
        text = client.get(address).text
        assert f"engine-{engine}" in text
        assert role in text
        assert "One of it" in text

    def test_what_is_not_installed_comes_with_the_command(self, client, mina, monkeypatch):
        monkeypatch.setattr("projects.views.engines.ENGINES", {})
        text = client.get("/metagpt").text
        assert "Not installed" in text
        assert "manage.py engine install metagpt" in text
