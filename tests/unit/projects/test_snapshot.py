"""What a stage's run is frozen with."""

import pytest

from executions.engines import protocol
from projects import actions, plans, snapshot
from projects.models import Project, Stage
from tests.factories import project_runs as make
from tests.factories.crews import CrewFactory, LLMModelFactory

pytestmark = pytest.mark.django_db


def spec_of(project, name):
    actions.start_stage(make.stage_of(project, name), project.owner)
    return make.run_of(make.stage_of(project, name)).snapshot


def test_one_agent_one_task_and_what_it_starts_from():
    project = make.project_of(
        target_audience="People who drink tea", technical_requirements={"language": "Python"}, project_type="api"
    )
    actions.set_stage(make.stage_of(project, "requirement"), project.owner, instructions="One page.")
    frozen = spec_of(project, "requirement")
    spec = frozen["spec"]
    assert (spec["version"], spec["engine"], spec["language"]) == (protocol.VERSION, "metagpt", "en")
    assert [(one["key"], one["role"]) for one in spec["agents"]] == [("product_manager", "Product Manager")]
    assert [(one["key"], one["agent"]) for one in spec["tasks"]] == [("requirement", "product_manager")]
    assert spec["project"] == {
        "name": "A tea shop",
        "type": "api",
        "audience": "People who drink tea",
        "requirement": "Sell tea.",
        "technical": {"language": "Python"},
        "folders": [],
    }
    assert spec["stage"] == {
        "name": "requirement",
        "round": 1,
        "deliverables": [{"type": "requirement", "title": "Product requirements"}],
        "instructions": "One page.",
    }
    assert frozen["limits"]["max_duration_seconds"] == snapshot.MAX_SECONDS
    assert spec["project"].keys() == protocol.ProjectSpec.__annotations__.keys()
    assert spec["stage"].keys() == protocol.StageSpec.__annotations__.keys()


def test_materials_have_the_form_of_the_protocol():
    project = make.project_of()
    actions.start(project, project.owner)
    make.through(project, "requirement")
    (material,) = make.run_of(make.stage_of(project, "design")).snapshot["spec"]["materials"]
    assert material.keys() == protocol.Material.__annotations__.keys()
    assert (material["role"], material["version"]) == ("Product Manager", "1.0")


def test_in_the_projects_language():
    project = make.crew_project(language="ko", name="찻집", requirement="차를 판다.")
    spec = spec_of(project, "research")["spec"]
    assert spec["language"] == "ko"
    assert "## 사용자의 문제" in spec["tasks"][0]["description"]
    assert "요구사항: 차를 판다." in spec["tasks"][0]["description"]
    assert spec["stage"]["deliverables"][0]["title"] == "조사 보고서"
    make.work(project, "research")
    assert project.deliverables.get().title == "조사 보고서"


def test_a_small_model_has_a_limit_and_a_large_one_has_none():
    project = make.crew_project()
    assert "max_tokens" in spec_of(project, "research")["spec"]["agents"][0]["llm"]
    LLMModelFactory(id="gpt-4")
    actions.set_mappings(project, project.owner, [{"role_name": "Writer", "llm_model": "gpt-4"}])
    assert spec_of(project, "writing")["spec"]["agents"][0]["llm"] == {}


def test_a_crews_limits_are_its_stages():
    project = make.crew_project()
    crew = CrewFactory(owner=project.owner, max_duration_seconds=60, task_timeout_seconds=30, max_llm_calls=7)
    actions.update(project, project.owner, crew=crew)
    frozen = spec_of(project, "research")
    assert (frozen["limits"]["max_duration_seconds"], frozen["limits"]["task_timeout_seconds"]) == (60, 30)
    assert make.run_of(make.stage_of(project, "research")).max_llm_calls == 7


def test_without_a_requirement_the_project_says_what_it_is():
    project = make.project_of(requirement="", description="Green and black.")
    assert snapshot.requirement(project) == "A tea shop\n\nGreen and black."


@pytest.mark.parametrize(("role", "key"), [("QA Engineer", "qa_engineer"), ("Ünï", "n"), ("조사원", "role_")])
def test_keys_of_roles_travel_in_headers(role, key):
    found = plans.slug(role)
    assert found.startswith(key)
    assert found.isascii()
    assert 0 < len(found) <= 40


@pytest.mark.parametrize("engine", list(Project.Engine))
def test_every_stage_has_a_plan(engine):
    for name in Stage.Name.values:
        plan = plans.stage_plan(engine, name)
        assert plan.wanted
        assert plan.task.en
        assert plan.task.ko
