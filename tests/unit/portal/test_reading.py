"""What a query that is put together once reads is what the ORM reads."""

import uuid

import pytest

from crews.models import CrewInput, CrewMember, LLMProvider, Task, Tool
from portal.lib.reading import Reading, attach
from tests.factories.crews import CrewFactory, CrewInputFactory, TaskFactory, runnable_crew

pytestmark = pytest.mark.django_db


def test_rows_and_what_they_point_to_are_the_orms(django_assert_num_queries) -> None:
    crew = runnable_crew()
    LLMProvider.objects.update(api_key="secret 한")  # encrypted in the database
    build = CrewMember.objects.select_related("agent__llm_model__provider").filter
    members = Reading(lambda key: build(crew=key))
    expected = list(build(crew=crew))
    with django_assert_num_queries(1):
        found = members(crew.pk)
        models = [found[0], found[0].agent, found[0].agent.llm_model, found[0].agent.llm_model.provider]
    wanted = [expected[0], expected[0].agent, expected[0].agent.llm_model, expected[0].agent.llm_model.provider]
    assert [one.__class__ for one in models] == [one.__class__ for one in wanted]
    for one, other in zip(models, wanted, strict=True):
        names = [field.attname for field in one._meta.concrete_fields]
        assert {name: getattr(one, name) for name in names} == {name: getattr(other, name) for name in names}
        assert not one._state.adding
    assert models[-1].api_key == "secret 한"


def test_it_answers_for_each_key_as_things_stand(django_assert_num_queries) -> None:
    one, other = CrewFactory(), CrewFactory()
    inputs = Reading(lambda key: CrewInput.objects.filter(crew=key, is_required=True))
    CrewInputFactory(crew=one, field_name="b", display_order=2, options=["x", {"y": 1}])
    assert [row.options for row in inputs(one.pk)] == [["x", {"y": 1}]]
    CrewInputFactory(crew=one, field_name="a", display_order=1)
    CrewInputFactory(crew=one, field_name="c", is_required=False)
    assert [row.field_name for row in inputs(one.pk)] == ["a", "b"]
    assert inputs(other.pk) == inputs(uuid.uuid4()) == []


def test_a_relation_that_points_to_nothing_is_none(django_assert_num_queries) -> None:
    crew = CrewFactory()
    TaskFactory(crew=crew, agent=None)
    tasks = Reading(lambda key: Task.objects.filter(crew=key).select_related("agent"))
    with django_assert_num_queries(1):
        assert [task.agent for task in tasks(crew.pk)] == [None]


def test_what_is_attached_is_not_read_again(django_assert_num_queries) -> None:
    crew = runnable_crew()
    (task,), tool = crew.tasks.all(), Tool(name="found")
    attach(task, "tools", [tool])
    attach(crew, "inputs", [])
    with django_assert_num_queries(0):
        assert list(task.tools.all()) == [tool]
        assert not crew.inputs.all()


def test_of_what_is_attached_a_part_can_be_asked_for() -> None:
    crew, _other = runnable_crew(), runnable_crew()
    attach(crew, "tasks", list(crew.tasks.all()))
    assert list(crew.tasks.filter(name="Write")) == list(Task.objects.filter(crew=crew))
    assert not crew.tasks.exclude(name="Write").exists()
