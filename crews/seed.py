"""What a new portal starts with. Safe to repeat: what is there, edited or not, is left alone."""

from decimal import Decimal

from django.conf import settings
from django.db import transaction

from crews import actions, catalog
from crews.builtin_tools import BUILTIN
from crews.demo import DEMO_CREWS, DemoCrew
from crews.models import EMBEDDED, Crew, CrewInput, LLMModel, LLMProvider, Task, Tool
from portal.accounts.models import User, Visibility


def seed_catalog() -> None:
    """The embedded model, the providers with their models, and the builtin tools.

    A provider is only added as long as neither it nor any of its models is there: what an admin
    renamed or deleted does not come back.
    """
    with transaction.atomic():
        _seed_embedded()
        for provider in catalog.PROVIDERS:
            _seed_provider(provider)
        for tool in BUILTIN.values():
            Tool.objects.get_or_create(
                name=tool.name, defaults={"kind": Tool.Kind.BUILTIN, "description": tool.description}
            )


def seed_demo(owner: User) -> list[Crew]:
    """The demo crews, shared, owned by `owner`; returns those that were made. Needs `seed_catalog` first."""
    with transaction.atomic():
        return [_make(demo, owner) for demo in DEMO_CREWS if not Crew.objects.filter(name=demo.name).exists()]


def _seed_embedded() -> None:
    provider, _made = LLMProvider.objects.get_or_create(
        kind=LLMProvider.Kind.EMBEDDED, defaults={"name": catalog.EMBEDDED_PROVIDER, "needs_key": False}
    )
    chosen = catalog.EMBEDDED_MODELS[settings.EMBEDDED_MODEL]
    model, made = LLMModel.objects.get_or_create(
        pk=EMBEDDED,
        defaults={
            "name": chosen.name,
            "description": chosen.description,
            "provider": provider,
            "route": catalog.EMBEDDED_ROUTE,
            "context_window": catalog.EMBEDDED_CONTEXT,
            "max_concurrency": 2,
            "price_in": Decimal(0),
            "price_out": Decimal(0),
            "is_local": True,
            "native_tools": False,
            "defaults": catalog.EMBEDDED_DEFAULTS,
        },
    )
    if not made:
        # Another EMBEDDED_MODEL than last time: our own words follow, an admin's stay.
        if model.name in {known.name for known in catalog.EMBEDDED_MODELS.values()}:
            model.name = chosen.name
        if model.description in {known.description for known in catalog.EMBEDDED_MODELS.values()}:
            model.description = chosen.description
        model.save(update_fields=["name", "description"])


def _seed_provider(provider: catalog.Provider) -> None:
    ids = [entry.id for entry in provider.models]
    if LLMProvider.objects.filter(name=provider.name).exists() or LLMModel.objects.filter(pk__in=ids).exists():
        return
    row = LLMProvider.objects.create(
        name=provider.name,
        kind=provider.kind,
        api_base=provider.api_base,
        needs_key=provider.needs_key,
        enabled=provider.enabled,
        allow_private=provider.is_near,
    )
    for entry in provider.models:
        price_in, price_out = entry.prices
        LLMModel.objects.create(
            pk=entry.id,
            name=entry.name,
            description=entry.description,
            provider=row,
            route=entry.route,
            context_window=entry.context_window,
            price_in=price_in,
            price_out=price_out,
            good_for=list(entry.good_for),
        )


def _make(demo: DemoCrew, owner: User) -> Crew:
    agents = {
        agent.role: actions.create_agent(
            by=owner,
            visibility=Visibility.SHARED,
            role=agent.role,
            goal=agent.goal,
            backstory=agent.backstory,
            llm_config={"temperature": 0.4, "max_tokens": agent.max_tokens},
            max_iterations=2,
        )
        for agent in demo.agents
    }
    crew = actions.create_crew(
        by=owner,
        visibility=Visibility.SHARED,
        agents=agents.values(),
        name=demo.name,
        description=demo.description,
        process=Crew.Process.PARALLEL,
        max_llm_calls=30,
    )
    topic = CrewInput(crew=crew, field_name="topic", field_label=demo.topic_label, default=demo.topic)
    topic.full_clean()
    topic.save()
    tasks: dict[str, Task] = {}
    for order, task in enumerate(demo.tasks, start=1):
        tasks[task.name] = actions.save_task(
            Task(
                crew=crew,
                agent=agents[task.role],
                name=task.name,
                description=task.description,
                expected_output=task.expected_output,
                execution_order=order,
                async_execution=not task.context,
            ),
            context=[tasks[name] for name in task.context],
        )
    return crew
