"""Projects as they are made, changed and copied; templates, models and files."""

from decimal import Decimal

import pytest

from crews.inputs import InputFile
from executions.models import Budget
from portal.accounts import sharing
from portal.accounts.models import AuditEntry
from portal.accounts.permissions import Action, can
from portal.lib.problems import Conflict, InvalidValues
from projects import actions, mapping
from projects.library import seed_templates
from projects.models import Deliverable, Project, Template
from tests.factories import project_runs as make
from tests.factories.accounts import UserFactory
from tests.factories.crews import AgentFactory, CrewFactory, CrewMemberFactory, LLMModelFactory, LLMProviderFactory

pytestmark = pytest.mark.django_db


def faults(caught) -> list[tuple[str, str]]:
    return [(error.field, error.code) for error in caught.value.errors]


@pytest.fixture
def user():
    make.embedded_model()
    return UserFactory()


class TestMaking:
    def test_stages_and_a_model_for_every_role(self, user):
        project = actions.create(by=user, name="  Modern E-commerce Platform ", selected_ai="meta-gpt")
        assert (project.name, project.status, project.stream_id) == (
            "Modern E-commerce Platform",
            "planning",
            project.pk,
        )
        stages = project.stages.prefetch_related("depends_on")
        assert [(one.stage_name, one.responsible_role, len(one.depends_on.all())) for one in stages] == [
            ("requirement", "Product Manager", 0),
            ("design", "Architect", 1),
            ("planning", "Project Manager", 1),
            ("development", "Engineer", 1),
            ("testing", "QA Engineer", 1),
        ]
        assert set(project.mappings.values_list("llm_model", flat=True)) == {"embedded"}
        assert project.mappings.count() == 5
        assert AuditEntry.objects.filter(action="project.created").exists()

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"name": " "}, "name"),
            ({"name": "x" * 201}, "name"),
            ({"selected_ai": "autogen"}, "selected_ai"),
            ({"project_type": "toy"}, "project_type"),
            ({"language": "fr"}, "language"),
            ({"budget_usd": Decimal(-1)}, "budget_usd"),
            ({"technical_requirements": []}, "technical_requirements"),
            ({"requirement": "x" * 100_001}, "requirement"),
            ({"owner": 1}, "owner"),
            ({"mappings": [{"role_name": "Butler", "llm_model": "embedded"}]}, "mappings.0.role_name"),
            ({"files": [InputFile("a.bin", b"\xff\xfe")]}, "files"),
        ],
    )
    def test_values_that_cannot_be_used_store_nothing(self, user, fields, field):
        with pytest.raises(InvalidValues) as caught:
            actions.create(by=user, **{"name": "It", **fields})
        assert [one for one, _code in faults(caught)] == [field]
        assert not Project.objects.exists()

    def test_started_at_once_from_a_template(self, user):
        seed_templates()
        project = actions.create(by=user, name="A shop", template=Template.objects.get(pk="api"), start=True)
        assert (project.status, project.selected_ai, project.project_type) == ("in_progress", "meta-gpt", "api")
        spec = make.run_of(make.stage_of(project, "requirement")).snapshot["spec"]
        assert "service/operations" in spec["project"]["folders"]
        assert "The operations" in spec["project"]["requirement"]
        assert "example of a call" in spec["stage"]["instructions"]

    def test_of_another_engine_than_the_templates(self, user):
        seed_templates()
        template = Template.objects.get(pk="mobile_app")
        project = actions.create(by=user, name="An app", template=template, selected_ai="meta-gpt")
        assert project.stages.count() == 5
        assert project.project_type == "mobile_app"

    def test_a_template_of_somebody_else_is_none(self, user):
        theirs = actions.save_as_template(make.project_of(), UserFactory(), name="Mine")
        with pytest.raises(InvalidValues) as caught:
            actions.create(by=user, name="It", template=theirs)
        assert faults(caught) == [("template", "unknown_template")]

    def test_a_budget_is_kept_for_all_its_runs(self, user):
        project = actions.create(by=user, name="It", budget_usd=Decimal("2.5"))
        budget = Budget.objects.get()
        assert (budget.subject_kind, budget.subject_id, budget.limit_usd) == (
            "access",
            project.access_id,
            Decimal("2.5"),
        )
        actions.update(project, user, budget_usd=Decimal(3))
        assert Budget.objects.get().limit_usd == 3
        actions.update(project, user, budget_usd=None)
        assert not Budget.objects.exists()


class TestChanging:
    def test_fields_change_and_the_log_says_so(self):
        project = make.project_of()
        actions.update(project, project.owner, name="Coffee", requirement="Sell coffee.")
        project.refresh_from_db()
        assert (project.name, project.requirement) == ("Coffee", "Sell coffee.")
        entry = AuditEntry.objects.get(action="project.changed")
        assert entry.after == {"name": "Coffee", "requirement": "Sell coffee."}

    def test_its_engine_stays(self):
        project = make.project_of()
        with pytest.raises(Conflict) as caught:
            actions.update(project, project.owner, selected_ai="crew-ai")
        assert caught.value.code == "engine_fixed"

    def test_a_crew_lends_its_agents(self):
        project = make.crew_project()
        crew = CrewFactory(owner=project.owner)
        agent = AgentFactory(
            owner=project.owner, role="researcher", goal="Dig into {topic}.", backstory="Old hand.",
            llm_config={"temperature": 0.1}, llm_model=LLMModelFactory(),
        )  # fmt: skip
        CrewMemberFactory(crew=crew, agent=agent)
        actions.update(project, project.owner, crew=crew)
        actions.set_mappings(
            project,
            project.owner,
            [{"role_name": "Researcher", "llm_model": "embedded", "llm_config": {"max_tokens": 99}}],
        )
        actions.start(project, project.owner)
        (spec,) = make.run_of(make.stage_of(project, "research")).snapshot["spec"]["agents"]
        assert (spec["role"], spec["goal"], spec["backstory"]) == ("Researcher", "Dig into Sell tea..", "Old hand.")
        assert spec["llm"] == {"temperature": 0.1, "max_tokens": 99}
        (other,) = make.run_of(make.stage_of(project, "writing")).snapshot["spec"]["agents"]
        assert other["goal"].startswith("Write clear product text")

    def test_a_crew_of_somebody_else_is_none(self):
        project = make.crew_project()
        with pytest.raises(InvalidValues) as caught:
            actions.update(project, project.owner, crew=CrewFactory())
        assert faults(caught) == [("crew", "unknown_crew")]

    def test_only_crewai_has_crews(self):
        project = make.project_of()
        with pytest.raises(InvalidValues) as caught:
            actions.update(project, project.owner, crew=CrewFactory(owner=project.owner))
        assert faults(caught) == [("crew", "not_crewai")]


class TestCopying:
    def test_a_copy_has_the_gates_models_and_files_and_none_of_the_work(self):
        project = make.project_of(files=[InputFile("notes.md", b"# Notes")])
        actions.set_stage(make.stage_of(project, "design"), project.owner, quorum=2, instructions="Be brief.")
        LLMModelFactory(id="gpt-4")
        actions.set_mappings(project, project.owner, [{"role_name": "Engineer", "llm_model": "gpt-4"}])
        actions.start(project, project.owner)
        make.through(project, "requirement")
        other = UserFactory()
        copy = actions.duplicate(project, other)
        assert (copy.name, copy.owner, copy.status) == ("Copy of A tea shop", other, "planning")
        design = make.stage_of(copy, "design")
        assert (design.quorum, design.instructions) == (2, "Be brief.")
        assert copy.mappings.get(role_name="Engineer").llm_model_id == "gpt-4"
        assert copy.attachments.get().content == "# Notes"
        assert not copy.deliverables.exists()

    def test_until_a_stage_the_approved_work_comes_along(self):
        project = make.project_of()
        actions.start(project, project.owner)
        make.through(project, "requirement", "design", "planning")
        copy = actions.duplicate(project, project.owner, name="Other", until=make.stage_of(project, "planning"))
        states = dict(copy.stages.values_list("stage_name", "stage_status"))
        assert [name for name, status in states.items() if status == "completed"] == ["requirement", "design"]
        found = copy.deliverables.all()
        assert {(one.deliverable_type, one.version, one.status) for one in found} == {
            ("requirement", "1.0", "approved"),
            ("design_doc", "1.0", "approved"),
            ("architecture", "1.0", "approved"),
        }
        assert (copy.status, copy.progress_percentage) == ("in_progress", 40)
        actions.start(copy, copy.owner)
        spec = make.run_of(make.stage_of(copy, "planning")).snapshot["spec"]
        assert len(spec["materials"]) == 3
        # A rerun of what was copied goes on in its lineage.
        actions.roll_back(make.stage_of(copy, "requirement"), copy.owner)
        make.work(copy, "requirement")
        assert (
            Deliverable.objects.get(stage__project=copy, deliverable_type="requirement", is_latest=True).version
            == "2.0"
        )

    def test_not_where_that_is_not_done(self):
        project = make.project_of()
        with pytest.raises(Conflict) as caught:
            actions.duplicate(project, project.owner, until=make.stage_of(project, "planning"))
        assert caught.value.code == "stage_not_ready"


class TestFiles:
    def test_every_stage_is_given_them(self):
        project = make.project_of()
        actions.attach(project, project.owner, [InputFile("a.md", b"old"), InputFile("C:\\b.txt", "차".encode())])
        actions.attach(project, project.owner, [InputFile("a.md", b"new")])
        actions.start(project, project.owner)
        materials = make.run_of(make.stage_of(project, "requirement")).snapshot["spec"]["materials"]
        assert [(one["kind"], one["title"], one["content"]) for one in materials] == [
            ("attachment", "a.md", "new"),
            ("attachment", "b.txt", "차"),
        ]
        actions.detach(project.attachments.get(name="a.md"), project.owner)
        assert project.attachments.count() == 1

    @pytest.mark.parametrize(
        ("files", "code"),
        [
            ([InputFile("a", b"\0")], "not_text"),
            ([InputFile("a", b"x" * ((1 << 20) + 1))], "too_large"),
            ([InputFile("", b"x")], "bad_name"),
            ([InputFile(f"{n}", b"x") for n in range(21)], "too_many"),
            ([InputFile(f"{n}", b"x" * (1 << 20)) for n in range(5)], "too_large"),
        ],
    )
    def test_what_is_refused(self, files, code):
        project = make.project_of()
        with pytest.raises(InvalidValues) as caught:
            actions.attach(project, project.owner, files)
        assert faults(caught) == [("files", code)]


class TestModels:
    def test_the_recommended_ones_can_be_reached(self, user):
        assert set(mapping.recommended("meta-gpt").values()) == {"embedded"}
        reached = LLMModelFactory(id="deepseek-coder")
        found = {one.role_name: one for one in mapping.preview("meta-gpt")}
        assert (found["Engineer"].llm_model, found["Engineer"].is_best) == ("deepseek-coder", True)
        assert (found["Architect"].llm_model, found["Architect"].best) == ("embedded", "claude-3")
        reached.health = "down"
        reached.save()
        assert mapping.recommended("meta-gpt")["Engineer"] == "embedded"

    def test_a_template_has_wishes(self, user):
        seed_templates()
        template = Template.objects.get(pk="mobile_app")
        for name in ("gemini-pro", "gpt-4o"):
            LLMModelFactory(id=name)
        assert mapping.recommended("crew-ai", template) == {
            "Researcher": "gemini-pro", "Writer": "gpt-4o", "Planner": "gpt-4o",
        }  # fmt: skip

    def test_named_roles_change_and_the_others_stay(self):
        project = make.project_of()
        LLMModelFactory(id="gpt-4")
        given = [{"role_name": "product_manager", "llm_model": "gpt-4", "llm_config": {"temperature": 0.2}}]
        rows = actions.set_mappings(project, project.owner, given)
        assert [row.llm_model_id for row in rows] == ["gpt-4", *["embedded"] * 4]
        actions.set_mappings(project, project.owner, [{"role_name": "PRODUCT MANAGER", "llm_model": "embedded"}])
        row = project.mappings.get(role_name="Product Manager")
        assert (row.llm_model_id, row.llm_config) == ("embedded", {"temperature": 0.2})

    def test_a_run_that_is_active_uses_it_at_once(self):
        project = make.project_of()
        actions.start(project, project.owner)
        LLMModelFactory(id="gpt-4")
        actions.set_mappings(project, project.owner, [{"role_name": "Product Manager", "llm_model": "gpt-4"}])
        run = make.run_of(make.stage_of(project, "requirement"))
        assert run.role_models.get().llm_model_id == "gpt-4"
        assert run.roles_version == 1
        make.work(project, "requirement")
        assert Deliverable.objects.get(project=project).llm_model == "gpt-4"

    def test_a_model_that_the_active_run_cannot_use_changes_nothing(self):
        project = make.project_of()
        actions.start(project, project.owner)
        LLMModelFactory(id="gpt-4", provider=LLMProviderFactory(needs_key=True))
        with pytest.raises(InvalidValues):
            actions.set_mappings(project, project.owner, [{"role_name": "Product Manager", "llm_model": "gpt-4"}])
        assert project.mappings.get(role_name="Product Manager").llm_model_id == "embedded"

    @pytest.mark.parametrize(
        ("given", "fault"),
        [
            ([{"role_name": "Butler", "llm_model": "embedded"}], ("mappings.0.role_name", "unknown_role")),
            ([{"role_name": "Engineer", "llm_model": "gpt-9"}], ("mappings.0.llm_model", "unknown_model")),
            ([{"role_name": "Engineer"}], ("mappings.0.llm_model", "unknown_model")),
            (
                [{"role_name": "Engineer", "llm_model": "embedded", "llm_config": {"warmth": 1}}],
                ("mappings.0.llm_config", "bad_parameter"),
            ),
            (
                [{"role_name": name, "llm_model": "embedded"} for name in ("Engineer", "engineer")],
                ("mappings.1.role_name", "repeated"),
            ),
        ],
    )
    def test_what_is_refused(self, given, fault):
        project = make.project_of()
        with pytest.raises(InvalidValues) as caught:
            actions.set_mappings(project, project.owner, given)
        assert faults(caught) == [fault]

    def test_a_failed_run_goes_on_with_the_model_of_now(self):
        project = make.project_of()
        actions.start(project, project.owner)
        run = make.run_of(make.stage_of(project, "requirement"))
        make.fail(run)
        LLMModelFactory(id="gpt-4")
        actions.set_mappings(project, project.owner, [{"role_name": "Product Manager", "llm_model": "gpt-4"}])
        actions.start(project, project.owner)
        assert run.role_models.get().llm_model_id == "gpt-4"


class TestTemplates:
    def test_the_five_come_along_once(self, user):
        seed_templates()
        seed_templates()
        assert set(Template.objects.values_list("pk", flat=True)) == {
            "web_app", "mobile_app", "api", "data_analysis", "ml",
        }  # fmt: skip
        for template in Template.objects.all():
            project = actions.create(by=user, name=template.name, template=template)
            assert project.stages.count() == len(template.stages)
            assert template.requirement_outline
            assert template.folders
            assert set(template.recommended_models) == set(project.mappings.values_list("role_name", flat=True))

    def test_they_are_read_only(self, user):
        seed_templates()
        template = Template.objects.get(pk="api")
        for act in (
            lambda: actions.save_template(template, user, name="X"),
            lambda: actions.delete_template(template, user),
        ):
            with pytest.raises(Conflict) as caught:
                act()
            assert caught.value.code == "template_builtin"
        copy = actions.copy_template(template, user)
        assert (copy.pk, copy.name, copy.is_builtin) == ("copy_of_api", "Copy of API", False)

    def test_one_of_ones_own_is_made_of_a_project(self):
        project = make.crew_project()
        actions.set_stage(make.stage_of(project, "planning"), project.owner, quorum=2, instructions="Weeks.")
        actions.set_stage(make.stage_of(project, "research"), project.owner, requires_approval=False)
        template = actions.save_as_template(project, project.owner, name="Our way")
        assert template.pk == "our_way"
        again = actions.create(by=project.owner, name="Next", template=template)
        planning = make.stage_of(again, "planning")
        assert (planning.quorum, planning.instructions, planning.depends_on.count()) == (2, "Weeks.", 2)
        assert not make.stage_of(again, "research").requires_approval
        assert actions.save_as_template(project, project.owner, name="Our way").pk == "our_way_2"
        actions.delete_template(template, project.owner)
        again.refresh_from_db()
        assert again.template is None

    def test_who_leaves_hands_their_templates_on(self):
        project, heir = make.project_of(), UserFactory()
        template = actions.save_as_template(project, project.owner, name="Our way")
        assert template in list(sharing.owned_by(project.owner))
        sharing.hand_on(template, to=heir, by=project.owner, keep=None)
        assert can(heir, Action.CHANGE, Template.objects.get(pk="our_way"))
        assert not Template.objects.visible_to(project.owner).filter(pk="our_way").exists()

    @pytest.mark.parametrize(
        ("fields", "fault"),
        [
            ({"id": "No!"}, "id"),
            ({"name": ""}, "name"),
            ({"stages": []}, "stages"),
            ({"stages": [{"stage_name": "research", "responsible_role": "X"}]}, "stages.0.stage_name"),
            ({"stages": [{"stage_name": "design", "responsible_role": ""}]}, "stages.0.responsible_role"),
            ({"stages": [{"stage_name": "design", "responsible_role": "A", "quorum": 0}]}, "stages.0.quorum"),
            (
                {"stages": [{"stage_name": "design", "responsible_role": "A", "depends_on": ["testing"]}]},
                "stages.0.depends_on",
            ),
            ({"stages": [{"stage_name": "design", "responsible_role": "A", "color": "red"}]}, "stages.0"),
            ({"stages": [{"stage_name": "design", "responsible_role": "A"}] * 2}, "stages.1.stage_name"),
            ({"recommended_models": {"Engineer": "gpt-9"}}, "recommended_models"),
            ({"folders": ["../up"]}, "folders"),
        ],
    )
    def test_what_is_refused(self, user, fields, fault):
        given = {
            "id": "mine",
            "name": "Mine",
            "project_type": "api",
            "selected_ai": "meta-gpt",
            "stages": [{"stage_name": "requirement", "responsible_role": "Product Manager"}],
        }
        actions.save_template(None, user, **{**given, "id": "good"})
        with pytest.raises(InvalidValues) as caught:
            actions.save_template(None, user, **{**given, **fields})
        assert [field for field, _code in faults(caught)] == [fault]
