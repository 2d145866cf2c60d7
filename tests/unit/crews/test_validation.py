"""Whether a crew can run, and what stands in the way."""

import pytest

from crews.models import Crew, Task
from crews.validation import CrewNotRunnable, problems_of, require_runnable
from tests.factories.crews import (
    AgentFactory,
    CrewFactory,
    CrewMemberFactory,
    LLMModelFactory,
    LLMProviderFactory,
    TaskFactory,
    ToolFactory,
    runnable_crew,
)

pytestmark = pytest.mark.django_db


def codes(crew, model=None):
    return [error.code for error in problems_of(crew, model)]


def detail(crew):
    [error] = problems_of(crew)
    return error.detail


def test_a_crew_that_can_run_has_no_problems():
    crew = runnable_crew()
    assert problems_of(crew) == []
    require_runnable(crew)


def test_everything_wrong_is_named_at_once():
    with pytest.raises(CrewNotRunnable) as refused:
        require_runnable(CrewFactory(status=Crew.Status.INACTIVE))
    assert [error.code for error in refused.value.errors] == ["crew_inactive", "no_agents", "no_tasks"]


def test_an_agent_without_a_task_is_named():
    crew = runnable_crew()
    CrewMemberFactory(crew=crew, agent=AgentFactory(role="Idler"))
    assert codes(crew) == ["agent_without_task"]
    assert "Idler" in detail(crew)


def test_a_task_without_an_agent_is_named():
    crew = runnable_crew()
    Task.objects.create(crew=crew, name="Nobody's", description="x", expected_output="x")
    assert codes(crew) == ["task_without_agent"]
    assert "Nobody's" in detail(crew)


def test_an_agent_that_left_the_crew_is_named():
    crew = runnable_crew()
    TaskFactory(crew=crew)
    crew.members.filter(agent=crew.tasks.get(name="Write").agent).delete()
    assert codes(crew) == ["not_a_member"]
    assert "Write" in detail(crew)


def test_a_circle_of_tasks_is_named():
    crew = runnable_crew()
    agent = crew.agents.get()
    first = TaskFactory(crew=crew, agent=agent, name="Boil")
    second = TaskFactory(crew=crew, agent=agent, name="Pour", context=[first])
    first.context.add(second)
    assert codes(crew) == ["cyclic_context"]
    assert "Boil → Pour → Boil" in detail(crew) or "Pour → Boil → Pour" in detail(crew)


def test_context_of_another_crew_is_named():
    crew = runnable_crew()
    crew.tasks.get().context.add(TaskFactory(name="Foreign"))
    assert codes(crew) == ["context_of_another_crew"]
    assert "Foreign" in detail(crew)


def test_context_that_comes_later_is_named_unless_side_by_side():
    crew = runnable_crew()
    later = TaskFactory(crew=crew, agent=crew.agents.get(), name="Later", execution_order=99)
    first = crew.tasks.get(name="Write")
    Task.objects.filter(pk=first.pk).update(execution_order=1)
    first.context.add(later)
    assert codes(crew) == ["context_comes_after"]
    Crew.objects.filter(pk=crew.pk).update(process=Crew.Process.PARALLEL)
    assert codes(crew) == []


def test_a_task_may_ask_a_person():
    crew = runnable_crew()
    crew.tasks.update(human_input=True)
    assert codes(crew) == []


@pytest.mark.parametrize("field", ["role", "goal", "backstory"])
def test_an_unknown_name_of_an_agent_is_named(field):
    crew = runnable_crew()
    crew.agents.update(**{field: "About {colour}"})
    [error] = problems_of(crew)
    assert (error.code, error.field) == ("unknown_placeholder", f"agents.{crew.agents.get().pk}.{field}")


@pytest.mark.parametrize("field", ["description", "expected_output"])
def test_an_unknown_name_of_a_task_is_named(field):
    crew = runnable_crew()
    crew.tasks.update(**{field: "About {colour}"})
    [error] = problems_of(crew)
    assert (error.code, error.field) == ("unknown_placeholder", f"tasks.{crew.tasks.get().pk}.{field}")


def test_a_tool_that_is_switched_off_is_named():
    crew = runnable_crew()
    crew.agents.get().tools.add(ToolFactory(name="abacus", enabled=False))
    assert codes(crew) == ["tool_disabled"]
    assert "abacus" in detail(crew)


class TestModels:
    @pytest.mark.parametrize(
        "model",
        [
            lambda: LLMModelFactory(enabled=False),
            lambda: LLMModelFactory(provider=LLMProviderFactory(enabled=False)),
            lambda: LLMModelFactory(provider=LLMProviderFactory(needs_key=True)),
        ],
    )
    def test_one_that_cannot_be_reached_is_named(self, model):
        crew = runnable_crew(model=model())
        assert codes(crew) == ["model_not_runnable"]
        assert crew.agents.get().llm_model_id in detail(crew)

    def test_another_takes_its_place(self):
        crew = runnable_crew(model=LLMModelFactory(enabled=False))
        assert codes(crew, LLMModelFactory()) == []
        assert codes(crew, LLMModelFactory().pk) == []
        assert codes(crew, LLMModelFactory(enabled=False)) == ["model_not_runnable"]
        assert codes(crew, "no-such-model") == ["unknown_model"]


class TestLedCrews:
    @pytest.fixture
    def crew(self):
        crew = runnable_crew()
        crew.process = Crew.Process.HIERARCHICAL
        crew.save()
        return crew

    def test_they_need_a_manager(self, crew):
        assert codes(crew) == ["manager_missing"]

    @pytest.mark.parametrize("manager", ["manager_agent", "manager_llm_model"])
    def test_an_agent_or_a_model_manages(self, crew, manager):
        setattr(crew, manager, AgentFactory() if manager == "manager_agent" else LLMModelFactory())
        crew.save()
        assert codes(crew) == []

    def test_the_managers_model_must_be_runnable(self, crew):
        crew.manager_agent = AgentFactory(llm_model=LLMModelFactory(enabled=False))
        crew.save()
        assert codes(crew) == ["model_not_runnable"]
        crew.manager_agent, crew.manager_llm_model = None, LLMModelFactory(enabled=False)
        crew.save()
        assert codes(crew) == ["model_not_runnable"]

    def test_members_may_wait_for_work_and_tasks_for_an_agent(self, crew):
        crew.manager_llm_model = LLMModelFactory()
        crew.save()
        CrewMemberFactory(crew=crew)
        crew.tasks.update(agent=None)
        assert codes(crew) == []


def test_the_number_of_queries_does_not_grow(django_assert_max_num_queries):
    crew = runnable_crew()
    for _ in range(5):
        task = TaskFactory(crew=crew, context=[crew.tasks.first()])
        task.tools.add(ToolFactory())
        task.agent.tools.add(ToolFactory())
    with django_assert_max_num_queries(14):
        assert problems_of(crew) == []
