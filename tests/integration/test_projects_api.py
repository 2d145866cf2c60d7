"""The API of projects, stages and templates: reading and changing them, who may, and what is refused."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from crews.seed import seed_catalog
from executions.models import Execution
from portal.accounts.models import AccessGrant, AccessList, AuditEntry
from projects.models import Project, Stage, Template
from projects.status import ProjectStatus, StageStatus
from tests.factories.accounts import UserFactory
from tests.factories.crews import CrewFactory, LLMModelFactory
from tests.factories.executions import LEASE
from tests.factories.projects import deliverable_of, staged_project
from tests.roles import ROLES

pytestmark = pytest.mark.django_db

MINE = {"id": "mine", "name": "Mine", "project_type": "api", "selected_ai": "meta-gpt"}
META_STAGES = ["requirement", "design", "planning", "development", "testing"]


def client_of(user):
    client = APIClient()
    client.force_authenticate(user)
    return client


@pytest.fixture
def user():
    return UserFactory()


@pytest.fixture
def api(user):
    return client_of(user)


@pytest.fixture
def admin():
    return client_of(UserFactory(admin=True))


@pytest.fixture(autouse=True)
def catalog():
    """The catalog, where every model can be reached: the fake ones have no key to miss."""
    seed_catalog()
    from crews.models import LLMModel, LLMProvider

    LLMProvider.objects.update(needs_key=False)
    LLMModel.objects.update(enabled=True)


def send(client, method, path, body=None, **headers):
    return getattr(client, method)(f"/api/{path}", body, format="json", **headers)


def faults(answer):
    assert answer.headers["Content-Type"] == "application/problem+json", answer.content
    return [(error["field"], error["code"]) for error in answer.json().get("errors", [])]


def made(api, **body):
    answer = send(api, "post", "projects", {"name": "Shop", "selected_ai": "meta-gpt", **body})
    assert answer.status_code == 201, answer.content
    return answer.json()


def queries_of(client, path):
    """How many queries a list takes, beside those of whoever asks."""
    with CaptureQueriesContext(
        connection,
    ) as queries:
        answer = send(client, "get", path)
    assert answer.status_code == 200, answer.content
    return len(queries), answer.json()


class TestProjects:
    def test_create_read_replace_update_delete(self, api, user):
        project = made(api, project_type="web_app")
        assert (project["status"], project["progress_percentage"], project["owner_id"]) == ("planning", 0, str(user.pk))
        assert (project["selected_ai"], project["language"], project["template_id"]) == ("meta-gpt", "en", None)
        path = f"projects/{project['id']}"
        assert send(api, "get", path).json() == project
        changed = send(api, "patch", path, {"requirement": "A shop.", "deadline": "2030-01-01T00:00:00Z"})
        assert changed.json()["requirement"] == "A shop."
        replaced = send(api, "put", path, {"name": "Store"}).json()
        assert (replaced["name"], replaced["requirement"], replaced["deadline"]) == ("Store", "", None)
        assert replaced["selected_ai"] == "meta-gpt"
        assert send(api, "delete", path).status_code == 204
        assert not Project.objects.exists()
        assert not AccessList.objects.exists()

    def test_crewai_is_the_default(self, api):
        project = send(api, "post", "projects", {"name": "App"}).json()
        assert project["selected_ai"] == "crew-ai"
        stages = send(api, "get", f"projects/{project['id']}/stages").json()["results"]
        assert [stage["stage_name"] for stage in stages] == ["research", "writing", "planning"]
        research, writing, planning = stages
        assert (research["depends_on"], writing["depends_on"]) == ([], [])
        assert set(planning["depends_on"]) == {research["id"], writing["id"]}

    def test_the_engine_stays(self, api):
        path = f"projects/{made(api)['id']}"
        assert faults(send(api, "patch", path, {"selected_ai": "crew-ai"})) == [("selected_ai", "immutable")]

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"name": ""}, "name"),
            ({"name": "x", "selected_ai": "autogen"}, "selected_ai"),
            ({"name": "x", "project_type": "game"}, "project_type"),
            ({"name": "x", "budget_usd": -1}, "budget_usd"),
            ({"name": "x", "estimated_hours": -1}, "estimated_hours"),
            ({"name": "x", "template_id": "nothing"}, "template_id"),
            ({"name": "x", "mappings": [{"role_name": "Cook", "llm_model": "gpt-4"}]}, "mappings.0.role_name"),
            ({"name": "x", "mappings": [{"role_name": "Writer", "llm_model": "gpt-x"}]}, "mappings.0.llm_model"),
        ],
    )
    def test_wrong_values_are_named_and_make_nothing(self, api, body, field):
        answer = send(api, "post", "projects", body)
        assert answer.status_code == 400, answer.content
        assert field in {name for name, _code in faults(answer)}
        assert not Project.objects.exists()
        assert not AccessList.objects.exists()

    def test_a_crew_of_somebody_else_does_no_work_for_it(self, api):
        answer = send(api, "post", "projects", {"name": "App", "crew_id": str(CrewFactory().pk)})
        assert faults(answer) == [("crew_id", "does_not_exist")]

    def test_what_may_not_be_seen_is_not_there(self, api):
        project = Project.objects.get(pk=made(client_of(UserFactory()))["id"])
        path = f"projects/{project.pk}"
        assert send(api, "get", path).status_code == 404
        assert send(api, "get", "projects?count=1").json()["count"] == 0
        member = UserFactory()
        AccessGrant.objects.create(access=project.access, user=member, level="viewer")
        assert send(client_of(member), "get", path).status_code == 200
        for method, rest in (("patch", ""), ("post", "/start"), ("post", "/pause"), ("put", "/stages/design/start")):
            assert send(client_of(member), method, f"{path}{rest}", {}).status_code == 403

    def test_filters_search_and_order(self, api, user):
        for name, fields in {
            "Alpha": {"selected_ai": "crew-ai", "project_type": "ml"},
            "Beta": {"status": ProjectStatus.REVIEW},
            "Gamma": {"requirement": "A bakery"},
        }.items():
            staged_project(access__owner=user, name=name, **fields)

        def names(query):
            return [row["name"] for row in send(api, "get", f"projects?{query}").json()["results"]]

        assert names("ordering=name") == ["Alpha", "Beta", "Gamma"]
        assert names("selected_ai=crew-ai") == ["Alpha"]
        assert names("project_type=ml") == ["Alpha"]
        assert names("status=review") == ["Beta"]
        assert names("search=bakery") == ["Gamma"]
        assert names("is_archived=true") == []
        assert send(api, "get", "crewai/projects").json()["results"][0]["name"] == "Alpha"
        assert len(send(api, "get", "metagpt/projects").json()["results"]) == 2

    def test_an_archived_one_is_read_only_and_not_listed(self, api):
        path = f"projects/{made(api)['id']}"
        assert send(api, "post", f"{path}/archive", {}).json()["archived_at"]
        assert send(api, "get", "projects").json()["results"] == []
        assert len(send(api, "get", "projects?is_archived=true").json()["results"]) == 1
        assert send(api, "patch", path, {"name": "Other"}).status_code == 409
        assert send(api, "post", f"{path}/archive", {"archived": False}).json()["archived_at"] is None

    def test_a_copy_belongs_to_who_makes_it(self, user):
        project = staged_project(name="Shared", access__owner=UserFactory(), access__visibility="shared")
        answer = send(client_of(user), "post", f"projects/{project.pk}/duplicate", {"name": "Mine"})
        assert answer.status_code == 201, answer.content
        assert (answer.json()["name"], answer.json()["owner_id"]) == ("Mine", str(user.pk))
        assert len(send(client_of(user), "get", f"projects/{answer.json()['id']}/stages").json()["results"]) == 5
        missing = send(client_of(user), "post", f"projects/{project.pk}/duplicate", {"until": "cooking"})
        assert faults(missing) == [("until", "does_not_exist")]

    def test_attachments(self, api):
        path = f"projects/{made(api)['id']}/attachments"
        added = send(api, "post", path, {"name": "notes.md", "content": "# Notes\n"})
        assert (added.status_code, added.json()["size"]) == (201, 8)
        from django.core.files.uploadedfile import SimpleUploadedFile

        upload = {"file": SimpleUploadedFile("more.txt", b"More.")}
        assert api.post(f"/api/{path}", upload, format="multipart").status_code == 201
        rows = send(api, "get", path).json()["results"]
        assert [row["name"] for row in rows] == ["more.txt", "notes.md"]
        one = f"{path}/{added.json()['id']}"
        assert send(api, "get", one).json()["content"] == "# Notes\n"
        assert send(api, "delete", one).status_code == 204
        assert send(api, "get", one).status_code == 404
        assert faults(send(api, "post", path, {"name": "x"})) == [("content", "required")]

    def test_members(self, api, user):
        project = made(api)
        other = UserFactory()
        answer = send(api, "post", f"projects/{project['id']}/members", {"user_id": str(other.pk), "level": "editor"})
        assert answer.status_code == 201
        assert answer.json()["invitation"]["thing"].endswith("Shop")
        assert send(client_of(other), "get", f"projects/{project['id']}").status_code == 404


class TestMapping:
    def test_the_named_roles_change_and_the_others_stay(self, api):
        project = made(api, mappings=[{"role_name": "engineer", "llm_model": "deepseek-coder"}])
        path = f"projects/{project['id']}/role-llm-mapping"
        before = {row["role_name"]: row["llm_model"] for row in send(api, "get", path).json()["mappings"]}
        assert set(before) == set(ROLES["meta-gpt"])
        assert before["Engineer"] == "deepseek-coder"
        body = {
            "mappings": [
                {"role_name": "Product Manager", "llm_model": "gpt-4", "llm_config": {"temperature": 0.2}},
                {"role_name": "Architect", "llm_model": "claude-3"},
            ]
        }
        answer = send(api, "post", path, body)
        assert answer.status_code == 200, answer.content
        after = {row["role_name"]: row for row in answer.json()["mappings"]}
        assert after["Product Manager"]["llm_model"] == "gpt-4"
        assert after["Product Manager"]["llm_config"] == {"temperature": 0.2}
        assert after["Architect"]["llm_model"] == "claude-3"
        assert after["Project Manager"]["llm_model"] == before["Project Manager"]

    @pytest.mark.parametrize(
        ("row", "field"),
        [
            ({"role_name": "Cook", "llm_model": "gpt-4"}, "mappings.0.role_name"),
            ({"role_name": "Engineer", "llm_model": "nothing"}, "mappings.0.llm_model"),
            ({"role_name": "Engineer"}, "mappings.0.llm_model"),
            ({"role_name": "Engineer", "llm_model": "gpt-4", "llm_config": {"heat": 1}}, "mappings.0.llm_config"),
        ],
    )
    def test_what_cannot_be_is_named(self, api, row, field):
        path = f"projects/{made(api)['id']}/role-llm-mapping"
        answer = send(api, "post", path, {"mappings": [row]})
        assert answer.status_code == 400
        assert [name for name, _code in faults(answer)] == [field]

    def test_what_is_recommended_can_be_reached(self, api):
        LLMModelFactory(id="unreachable", enabled=False)
        rows = send(api, "get", "projects/recommended-models?selected_ai=meta-gpt").json()
        assert [row["role_name"] for row in rows] == ROLES["meta-gpt"]
        assert {row["purpose"] for row in rows} == {"documents", "code"}
        crew = send(api, "get", "projects/recommended-models").json()
        assert [row["role_name"] for row in crew] == ["Researcher", "Writer", "Planner"]


class TestStages:
    def test_a_stage_is_found_by_id_and_by_name(self, api):
        project = made(api)
        path = f"projects/{project['id']}/stages"
        stages = send(api, "get", path).json()["results"]
        assert [stage["stage_name"] for stage in stages] == META_STAGES
        assert [stage["responsible_role"] for stage in stages] == ROLES["meta-gpt"]
        by_name = send(api, "get", f"{path}/design").json()
        assert by_name == send(api, "get", f"{path}/{by_name['id']}").json() == stages[1]
        assert by_name["depends_on"] == [stages[0]["id"]]
        assert send(api, "get", f"{path}/cooking").status_code == 404

    def test_start_names_the_run(self, api):
        project = made(api)
        path = f"projects/{project['id']}/stages/requirement/start"
        answer = send(api, "put", path, {"estimated_hours": "2.5"})
        assert answer.status_code == 200, answer.content
        stage, run = answer.json(), Execution.objects.get()
        assert (stage["stage_status"], stage["execution_id"], stage["execution_status"]) == (
            "in_progress",
            str(run.pk),
            "pending",
        )
        assert stage["estimated_hours"] == "2.50"
        status = send(api, "get", f"projects/{project['id']}/status").json()
        assert (status["status"], status["current_stage"], status["total_stages"]) == ("in_progress", "requirement", 5)
        runs = send(api, "get", f"projects/{project['id']}/executions").json()["results"]
        assert [row["id"] for row in runs] == [str(run.pk)]
        # Whoever says it again gets the run that there is.
        again = send(api, "put", path, {})
        assert (again.status_code, again.json()["execution_id"]) == (200, str(run.pk))
        assert Execution.objects.count() == 1

    def test_a_stage_waits_for_those_before_it(self, api):
        project = made(api)
        answer = send(api, "put", f"projects/{project['id']}/stages/design/start", {})
        assert answer.status_code == 409
        assert answer.json()["hint"]
        assert not Execution.objects.exists()

    def test_the_options_of_a_gate(self, api):
        project = made(api)
        path = f"projects/{project['id']}/stages/requirement"
        other = UserFactory()
        row = Project.objects.get()
        AccessGrant.objects.create(access=row.access, user=other, level="viewer")
        body = {
            "quorum": 2, "excludes_author": True, "review_hours": 24, "escalate_to_id": str(other.pk),
            "approver_ids": [str(other.pk)],
        }  # fmt: skip
        stage = send(api, "patch", path, body)
        assert stage.status_code == 200, stage.content
        stage = stage.json()
        assert (stage["quorum"], stage["excludes_author"], stage["review_hours"]) == (2, True, 24)
        assert [approver["user_id"] for approver in stage["approvers"]] == [str(other.pk)]
        assert stage["escalate_to_id"] == str(other.pk)
        assert [field for field, _code in faults(send(api, "patch", path, {"quorum": 0}))] == ["quorum"]
        stranger = send(api, "patch", path, {"approver_ids": [str(UserFactory().pk)]})
        assert stranger.status_code == 400

    def test_a_stage_is_closed_by_hand_but_not_past_an_open_approval(self, api, user):
        project = staged_project(access__owner=user)
        stage = project.stages.get(stage_name="requirement")
        path = f"projects/{project.pk}/stages/requirement/complete"
        deliverable_of(stage, status="review")
        Stage.objects.filter(pk=stage.pk).update(stage_status=StageStatus.REVIEW)
        assert send(api, "put", path, {}).status_code == 409
        Stage.objects.filter(pk=stage.pk).update(stage_status=StageStatus.PENDING, requires_approval=False)
        project.deliverables.all().delete()
        answer = send(api, "put", path, {"actual_hours": 3, "notes": "By hand."})
        assert answer.status_code == 200, answer.content
        assert (answer.json()["stage_status"], answer.json()["notes"]) == ("completed", "By hand.")
        assert float(answer.json()["actual_hours"]) == 3

    def test_the_life_of_a_project(self, api):
        project = made(api)
        path = f"projects/{project['id']}"
        started = send(api, "post", f"{path}/start")
        assert (started.status_code, started.json()["status"]) == (202, "in_progress")
        run = Execution.objects.get()
        run.start(worker="machine", lease=LEASE)
        assert send(api, "post", f"{path}/pause").json()["status"] == "paused"
        assert send(api, "post", f"{path}/pause").status_code == 202  # as often as one likes
        assert send(api, "post", f"{path}/start").json()["status"] == "in_progress"
        assert send(api, "delete", path).status_code == 409
        assert send(api, "post", f"{path}/cancel").json()["status"] == "cancelled"
        assert send(api, "post", f"{path}/start").status_code == 409
        restarted = send(api, "post", f"{path}/restart")
        assert (restarted.status_code, restarted.json()["round"]) == (202, 2)


class TestReviewsOfStages:
    def test_all_that_is_in_review_is_decided_at_once(self, api, user):
        project = staged_project(access__owner=user, auto_advance=False, status=ProjectStatus.REVIEW)
        stage = project.stages.get(stage_name="design")
        for kind in ("design_doc", "architecture"):
            deliverable_of(stage, type=kind, title=kind, status="review")
        Stage.objects.filter(pk=stage.pk).update(stage_status=StageStatus.REVIEW)
        path = f"projects/{project.pk}/stages/design/review"
        assert send(api, "put", path, {"status": "maybe"}).status_code == 400
        answer = send(api, "put", path, {"status": "approved"})
        assert answer.status_code == 200, answer.content
        assert answer.json()["stage_status"] == "completed"
        assert set(project.deliverables.values_list("status", flat=True)) == {"approved"}

    def test_who_stands_in_may_review(self, user):
        project = staged_project(access__owner=user, auto_advance=False, status=ProjectStatus.REVIEW)
        stage = project.stages.get(stage_name="requirement")
        deliverable = deliverable_of(stage, status="review")
        Stage.objects.filter(pk=stage.pk).update(stage_status=StageStatus.REVIEW)
        friend = UserFactory()
        AccessGrant.objects.create(access=project.access, user=friend, level="viewer")
        path = f"projects/{project.pk}/stages/requirement"
        review = f"deliverables/{deliverable.pk}/review"
        assert send(client_of(friend), "put", review, {"status": "approved"}).status_code == 403
        assert send(client_of(friend), "post", f"{path}/delegate", {"user_id": str(friend.pk)}).status_code == 403
        stranger = send(client_of(user), "post", f"{path}/delegate", {"user_id": str(UserFactory().pk)})
        assert (stranger.status_code, stranger.json()["errors"][0]["field"]) == (400, "user_id")
        delegated = send(client_of(user), "post", f"{path}/delegate", {"user_id": str(friend.pk)})
        assert delegated.json()["approvers"][0]["delegated_by_id"] == str(user.pk)
        approved = send(client_of(friend), "put", review, {"status": "approved", "reviewed_by_role": "Lead"})
        assert (approved.status_code, approved.json()["approved_by_role"]) == (200, "Lead")


class TestTemplates:
    BODY = {
        "id": "mine", "name": "Mine", "project_type": "api", "selected_ai": "meta-gpt",
        "requirement_outline": "# What", "recommended_models": {"Engineer": "code"}, "folders": ["src"],
        "stages": [
            {"stage_name": "requirement", "responsible_role": "Product Manager", "depends_on": []},
            {"stage_name": "development", "responsible_role": "Engineer", "depends_on": ["requirement"]},
        ],
    }  # fmt: skip

    def test_create_read_update_delete(self, api, user):
        answer = send(api, "post", "templates", self.BODY)
        assert answer.status_code == 201, answer.content
        template = answer.json()
        assert (template["owner_id"], template["visibility"], template["is_builtin"]) == (
            str(user.pk),
            "private",
            False,
        )
        assert send(api, "get", "templates/mine").json() == template
        assert send(client_of(UserFactory()), "get", "templates/mine").status_code == 404
        assert send(api, "patch", "templates/mine", {"visibility": "shared"}).json()["visibility"] == "shared"
        other = client_of(UserFactory())
        assert send(other, "get", "templates/mine").status_code == 200
        assert send(other, "patch", "templates/mine", {"name": "Theirs"}).status_code == 403
        assert send(other, "post", "templates/mine/copy", {"id": "theirs"}).json()["id"] == "theirs"
        assert send(api, "delete", "templates/mine").status_code == 204
        assert set(Template.objects.values_list("pk", flat=True)) == {"theirs"}

    def test_those_that_come_along_are_read_only(self, admin):
        Template.objects.create(
            id="builtin", name="Builtin", project_type="api", selected_ai="meta-gpt", is_builtin=True
        )
        assert send(admin, "get", "templates/builtin").json()["is_builtin"] is True
        for method in ("patch", "delete"):
            assert send(admin, method, "templates/builtin", {}).status_code == 403

    def test_template_to_project_to_run_in_one_action(self, api):
        send(api, "post", "templates", self.BODY)
        body = {"name": "Ledger", "description": "Counts.", "requirement": "Count.", "start": True,
                "mappings": [{"role_name": "Engineer", "llm_model": "codellama"}]}  # fmt: skip
        answer = send(api, "post", "templates/mine/create-project", body)
        assert answer.status_code == 201, answer.content
        project = answer.json()
        assert (project["template_id"], project["project_type"], project["status"]) == ("mine", "api", "in_progress")
        assert project["requirement"] == "Count."
        stages = send(api, "get", f"projects/{project['id']}/stages").json()["results"]
        assert [stage["stage_name"] for stage in stages] == ["requirement", "development"]
        assert Execution.objects.get().trigger == "project"
        stats = send(api, "get", "templates/stats").json()
        assert (stats["total"], stats["projects"]) == (1, {"mine": 1})

    def test_gates_and_hours_come_back_as_they_went(self, api):
        project = made(api, selected_ai="crew-ai")
        options = {"quorum": 2, "excludes_author": True, "review_hours": 24, "estimated_hours": "1.1"}
        send(api, "patch", f"projects/{project['id']}/stages/research", options)
        saved = send(api, "post", f"projects/{project['id']}/save-as-template", {"name": "Gated"})
        assert saved.status_code == 201, saved.content
        stages = saved.json()["stages"]
        assert {name: stages[0][name] for name in options} == {**options, "estimated_hours": 1.1}
        again = send(api, "patch", f"templates/{saved.json()['id']}", {"stages": stages})
        assert again.json()["stages"] == stages

    def test_without_stages_it_has_those_of_its_engine(self, api):
        answer = send(
            api, "post", "templates", {"id": "mine", "name": "Mine", "project_type": "api", "selected_ai": "meta-gpt"}
        )
        assert answer.status_code == 201, answer.content
        assert [stage["stage_name"] for stage in answer.json()["stages"]] == META_STAGES

    def test_only_who_may_share_it_shows_it_to_everybody_and_the_log_says_so(self, api, user):
        send(api, "post", "templates", MINE)
        editor = UserFactory()
        template = Template.objects.get(pk="mine")
        AccessGrant.objects.create(access=template.access, user=editor, level="editor")
        assert send(client_of(editor), "patch", "templates/mine", {"visibility": "shared"}).status_code == 403
        answer = send(api, "patch", "templates/mine", {"visibility": "shared"})
        assert (answer.status_code, answer.json()["visibility"]) == (200, "shared")
        assert AuditEntry.objects.filter(action="template.shared", actor_id=user.pk).count() == 1

    def test_search_and_filters(self, api):
        send(api, "post", "templates", self.BODY)
        for query, ids in {
            "q=what": ["mine"], "q=nothing": [], "project_type=api": ["mine"], "selected_ai=crew-ai": [],
        }.items():  # fmt: skip
            for path in ("templates", "templates/search"):
                found = send(api, "get", f"{path}?{query}").json()["results"]
                assert [row["id"] for row in found] == ids, (path, query)

    def test_a_project_is_saved_as_a_template(self, api):
        project = made(api)
        answer = send(api, "post", f"projects/{project['id']}/save-as-template", {"name": "Our way"})
        assert answer.status_code == 201, answer.content
        assert [stage["stage_name"] for stage in answer.json()["stages"]] == META_STAGES


class TestEnginesAndAdmins:
    def test_the_projects_of_an_engine_are_made_and_worked_on_under_its_name(self, api):
        answer = send(api, "post", "metagpt/projects", {"name": "Shop"})
        assert (answer.status_code, answer.json()["selected_ai"]) == (201, "meta-gpt")
        key = answer.json()["id"]
        assert send(api, "patch", f"metagpt/projects/{key}", {"name": "Tea shop"}).json()["name"] == "Tea shop"
        assert send(api, "get", f"crewai/projects/{key}").status_code == 404
        assert send(api, "delete", f"crewai/projects/{key}").status_code == 404
        assert send(api, "get", f"metagpt/projects/{key}").status_code == 200
        other = send(api, "post", "metagpt/projects", {"name": "Shop", "selected_ai": "crew-ai"})
        assert (other.status_code, faults(other)) == (400, [("selected_ai", "other_engine")])
        assert send(api, "delete", f"metagpt/projects/{key}").status_code == 204

    @pytest.mark.parametrize("key", ["crewai", "metagpt"])
    def test_an_engine_says_whether_it_is_there(self, api, key):
        status = send(api, "get", f"{key}/status").json()
        assert status["engine"] == key
        assert (status["version"] is not None) == status["installed"]
        assert status["command"] == ("" if status["installed"] else f"manage.py engine install {key}")
        assert status["running_executions"] == 0

    def test_admins_see_all_of_it(self, api, admin, user):
        staged_project(access__owner=user, status=ProjectStatus.IN_PROGRESS, current_stage="design")
        staged_project(access__owner=user, status=ProjectStatus.COMPLETED)
        board = send(admin, "get", "admin/dashboard").json()
        assert (board["total_projects"], board["active_projects"], board["completed_projects"]) == (2, 1, 1)
        assert board["total_deliverables"] == 0
        assert board["projects_by_stage"]["design"] == 1
        assert len(send(admin, "get", "admin/projects").json()["results"]) == 2
        for path in ("admin/dashboard", "admin/projects"):
            assert send(api, "get", path).status_code == 403

    def test_an_admin_closes_a_project(self, api, admin, user):
        project = staged_project(access__owner=user)
        path = f"admin/projects/{project.pk}/force-complete"
        assert send(api, "post", path).status_code == 403
        assert send(admin, "post", path).json()["status"] == "completed"
        assert send(admin, "post", path).status_code == 409


class TestQueries:
    """A list takes as many queries for twenty rows as for two."""

    @pytest.mark.parametrize(
        "path",
        [
            "projects", "projects/{project}/stages", "projects/{project}/deliverables", "projects/{project}/executions",
            "projects/{project}/deliverables/search?q=document", "metagpt/projects", "templates", "admin/projects",
            "projects/{project}/accessible-deliverables?role=engineer", "deliverables/{deliverable}/access-log",
            "deliverables/{deliverable}/versions", "deliverables/{deliverable}/comments",
            "projects/{project}/analytics", "projects/{project}/attachments", "projects/{project}/status",
            "admin/dashboard",
        ],
    )  # fmt: skip
    def test_constant(self, admin, path):
        owner = UserFactory()
        project = staged_project(access__owner=owner)
        first = self.more(project, 2)
        address = path.format(project=project.pk, deliverable=first.pk)
        queries_of(admin, address)
        few, _ = queries_of(admin, address)
        self.more(project, 18, first)
        many, _ = queries_of(admin, address)
        assert few == many

    def more(self, project, count, first=None):
        from django.utils import timezone

        from crews.inputs import InputFile
        from projects.actions import attach
        from projects.deliverables import access, comments
        from projects.models import StageRun
        from tests.factories.executions import execution_in

        owner, stage = project.access.owner, project.stages.first()
        for _ in range(count):
            n = Project.objects.count()
            staged_project(access__owner=owner)
            made = deliverable_of(stage, lineage_of=first)
            first = first or made
            deliverable_of(stage, title=f"Document {n}")
            access.log(first, owner, "read", "Engineer")
            comments.add(first, owner, "Good.")
            attach(project, owner, [InputFile(f"notes-{n}.md", b"# Notes")])
            run = execution_in("completed", access=project.access, created_by=owner, engine="metagpt")
            StageRun.objects.create(stage=stage, execution=run, started_by=owner, settled_at=timezone.now())
            own = AccessList.objects.create(owner=owner)
            Template.objects.create(
                id=f"template_{n}", name=f"T {n}", project_type="api", selected_ai="meta-gpt", access=own
            )
        return first
