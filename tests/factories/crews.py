"""The smallest valid definitions."""

import factory
from factory.django import DjangoModelFactory

from crews.models import Agent, Crew, CrewInput, CrewMember, LLMModel, LLMProvider, Task, Tool
from portal.accounts.models import Visibility
from tests.factories.accounts import AccessListFactory, UserFactory


class LLMProviderFactory(DjangoModelFactory):
    """An OpenAI-compatible server without a key; point it somewhere with `api_base=`."""

    class Meta:
        model = LLMProvider

    name = factory.Sequence(lambda n: f"Provider {n}")
    kind = LLMProvider.Kind.OPENAI_COMPATIBLE
    api_base = "http://127.0.0.1:9/v1"
    allow_private = True  # the fakes are on this machine
    needs_key = False


class LLMModelFactory(DjangoModelFactory):
    """A runnable, unpriced model; `api_base=` points its provider somewhere."""

    class Meta:
        model = LLMModel
        exclude = ["api_base"]

    api_base = "http://127.0.0.1:9/v1"
    id = factory.Sequence(lambda n: f"model-{n}")
    name = factory.LazyAttribute(lambda model: model.id.title())
    provider = factory.SubFactory(LLMProviderFactory, api_base=factory.SelfAttribute("..api_base"))
    route = factory.LazyAttribute(lambda model: f"openai/{model.id}")


class ToolFactory(DjangoModelFactory):
    class Meta:
        model = Tool
        django_get_or_create = ["name"]

    name = "calculator"


class _GuardedFactory(DjangoModelFactory):
    """Of a new user, or of `owner=`; private, or `shared=True`."""

    class Meta:
        abstract = True
        exclude = ["owner", "visibility"]

    class Params:
        shared = factory.Trait(visibility=Visibility.SHARED)

    owner = factory.SubFactory(UserFactory)
    visibility = Visibility.PRIVATE
    access = factory.SubFactory(
        AccessListFactory, owner=factory.SelfAttribute("..owner"), visibility=factory.SelfAttribute("..visibility")
    )


class AgentFactory(_GuardedFactory):
    class Meta:
        model = Agent

    role = factory.Sequence(lambda n: f"Agent {n}")
    goal = "Answer."
    llm_model = factory.SubFactory(LLMModelFactory)


class CrewFactory(_GuardedFactory):
    """A crew without agents or tasks; `runnable_crew` makes one that can run."""

    class Meta:
        model = Crew

    name = factory.Sequence(lambda n: f"Crew {n}")


class CrewMemberFactory(DjangoModelFactory):
    class Meta:
        model = CrewMember

    crew = factory.SubFactory(CrewFactory)
    agent = factory.SubFactory(AgentFactory, owner=factory.SelfAttribute("..crew.owner"))


class TaskFactory(DjangoModelFactory):
    """A task whose agent is made a member of its crew."""

    class Meta:
        model = Task
        skip_postgeneration_save = True

    crew = factory.SubFactory(CrewFactory)
    agent = factory.SubFactory(AgentFactory, owner=factory.SelfAttribute("..crew.owner"))
    name = factory.Sequence(lambda n: f"Task {n}")
    description = "Say something."
    expected_output = "A sentence."
    execution_order = factory.Sequence(lambda n: n + 1)

    @factory.post_generation
    def membership(self, create, extracted, **kwargs):
        if create and self.agent is not None:
            CrewMember.objects.get_or_create(crew=self.crew, agent=self.agent)

    @factory.post_generation
    def context(self, create, extracted, **kwargs):
        if create and extracted:
            self.context.set(extracted)


class CrewInputFactory(DjangoModelFactory):
    class Meta:
        model = CrewInput

    crew = factory.SubFactory(CrewFactory)
    field_name = factory.Sequence(lambda n: f"field_{n}")


def runnable_crew(*, model=None, owner=None, **fields):
    """A crew with one input `topic` and one task that uses it, on `model` (a new one by default)."""
    crew = CrewFactory(**({"owner": owner} if owner else {}), **fields)
    CrewInputFactory(crew=crew, field_name="topic", default="tea")
    agent = AgentFactory(owner=crew.owner, llm_model=model or LLMModelFactory())
    TaskFactory(crew=crew, agent=agent, name="Write", description="Write about {topic}.")
    return crew
