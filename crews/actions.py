"""Changes of definitions that span rows: one way for pages, API, admin, commands and seed."""

from collections.abc import Iterable
from typing import Any

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import transaction
from django.utils.translation import gettext as _

from crews import extensions
from crews.models import Agent, Crew, CrewInput, CrewMember, Task, Tool
from crews.validation import context_errors, member_errors
from portal.accounts.models import AccessList, User, Visibility
from portal.lib.problems import Conflict, FieldError


def create_agent(*, by: User, visibility: str = Visibility.PRIVATE, tools: Iterable[Tool] = (), **fields: Any) -> Agent:
    """An agent that belongs to `by`. Raises `ValidationError`."""
    with transaction.atomic():
        agent = Agent(access=AccessList.objects.create(owner=by, visibility=visibility), **fields)
        agent.full_clean()
        agent.save()
        agent.tools.set(tools)
    return agent


def create_crew(*, by: User, visibility: str = Visibility.PRIVATE, agents: Iterable[Agent] = (), **fields: Any) -> Crew:
    """A crew that belongs to `by`, with `agents` as its members in that order. Raises `ValidationError`."""
    with transaction.atomic():
        crew = Crew(access=AccessList.objects.create(owner=by, visibility=visibility), **fields)
        crew.full_clean()
        crew.save()
        for position, agent in enumerate(agents):
            CrewMember.objects.create(crew=crew, agent=agent, position=position)
    return crew


def save_agent(agent: Agent, *, tools: Iterable[Tool] | None = None) -> Agent:
    """Check and save an agent, and its tools unless they are None. Raises `ValidationError`."""
    with transaction.atomic():
        agent.full_clean()
        agent.save()
        if tools is not None:
            agent.tools.set(tools)
    return agent


def save_crew(crew: Crew, *, agents: Iterable[Agent] | None = None) -> Crew:
    """Check and save a crew, and its members unless they are None. Raises `ValidationError`."""
    with transaction.atomic():
        crew.full_clean()
        crew.save()
        if agents is not None:
            set_members(crew=crew, agents=agents)
    return crew


def set_members(*, crew: Crew, agents: Iterable[Agent]) -> None:
    """Make `agents`, in that order, the members of `crew`.

    Raises `ValidationError` when one that leaves still has tasks, or a text of one names an unknown input.
    """
    agents = list({agent.pk: agent for agent in agents}.values())
    with transaction.atomic():
        refuse(member_errors(crew, agents))
        crew.members.exclude(agent__in=agents).delete()
        for position, agent in enumerate(agents):
            CrewMember.objects.update_or_create(crew=crew, agent=agent, defaults={"position": position})


def save_task(task: Task, *, context: Iterable[Task] | None = None, tools: Iterable[Tool] | None = None) -> Task:
    """Check and save a task with the tasks whose output it takes and its tools; None leaves those as they are.

    Raises `ValidationError`.
    """
    with transaction.atomic():
        # Two edits at once could close a circle that neither sees: one after the other, a crew.
        Crew.objects.select_for_update().get(pk=task.crew_id)
        task.full_clean()
        if context is not None:
            refuse(context_errors(task, context))
        task.save()
        if context is not None:
            task.context.set(context)
        if tools is not None:
            task.tools.set(tools)
    return task


def set_inputs(*, crew: Crew, definitions: Iterable[dict[str, Any]]) -> list[CrewInput]:
    """Make `definitions` (fields by name) the inputs of `crew`; one of the same `field_name` keeps its id.

    Raises `ValidationError`, and `Conflict` when one that would go is still used.
    """
    kept: list[CrewInput] = []
    with transaction.atomic():
        known = {definition.field_name: definition for definition in crew.inputs.all()}
        for fields in definitions:
            old = known.pop(fields["field_name"], None)
            fresh = CrewInput(**{"id": old.pk} if old else {}, crew=crew, **fields)
            fresh._state.adding = old is None
            fresh.full_clean()
            fresh.save()
            kept.append(fresh)
        for gone in known.values():
            delete_input(definition=gone)
    return kept


def delete_input(*, definition: CrewInput) -> None:
    """Delete an input of a crew. Raises `Conflict` that names the tasks and agents that still use it."""
    if users := definition.used_in():
        raise Conflict(
            _("{%(name)s} is still used in: %(where)s.") % {"name": definition.field_name, "where": ", ".join(users)},
            code="input_in_use",
            hint=_("Take the name out of these texts first."),
        )
    definition.delete()


def delete_crew(*, crew: Crew) -> None:
    """Delete a crew with its tasks and inputs; its agents stay. Raises `Conflict` while it runs."""
    extensions.require_deletable(crew)
    with transaction.atomic():
        access = crew.access
        crew.delete()
        access.delete()


def delete_agent(*, agent: Agent) -> None:
    """Delete an agent. Raises `Conflict` that names the crews in which it still works."""
    crews = Crew.objects.filter(members__agent=agent) | Crew.objects.filter(manager_agent=agent)
    crews = crews | Crew.objects.filter(tasks__agent=agent)
    if users := list(crews.distinct().select_related("access")):
        own = [crew.name for crew in users if crew.access.owner_id == agent.access.owner_id]
        # Which those are, and how many, is for them to tell.
        named = own + ([_("crews of other people")] if len(own) < len(users) else [])
        raise Conflict(
            _("“%(agent)s” still works in: %(crews)s.") % {"agent": agent, "crews": ", ".join(named)},
            code="agent_in_use",
            hint=_("Take the agent out of these crews first."),
        )
    with transaction.atomic():
        access = agent.access
        agent.delete()
        access.delete()


def copy_agent(*, agent: Agent, by: User) -> Agent:
    """An agent like `agent` that belongs to `by`, private."""
    fields = ("role", "goal", "backstory", "llm_model", "llm_config", "allow_delegation", "max_iterations")
    return create_agent(by=by, tools=agent.tools.all(), **{name: getattr(agent, name) for name in fields})


def copy_crew(*, crew: Crew, by: User) -> Crew:
    """A crew like `crew` that belongs to `by`, private, with copies of the agents that `by` does not own."""
    fields = (
        "description", "process", "manager_llm_model", "engine", "max_duration_seconds", "task_timeout_seconds",
        "max_llm_calls", "approval_timeout_seconds", "approval_reminder_seconds",
    )  # fmt: skip
    with transaction.atomic():
        tasks = list(crew.tasks.select_related("agent__access").prefetch_related("context", "tools"))
        members = [member.agent for member in crew.members.select_related("agent__access")]
        working = [
            *members,
            *([crew.manager_agent] if crew.manager_agent else []),
            *(t.agent for t in tasks if t.agent),
        ]
        agents: dict[Any, Agent] = {}
        for agent in working:
            if agent.pk not in agents:
                own = agent.access.owner_id == by.pk
                agents[agent.pk] = agent if own else copy_agent(agent=agent, by=by)
        made = create_crew(
            by=by,
            agents=[agents[agent.pk] for agent in members],
            name=(_("Copy of %(name)s") % {"name": crew.name})[:200],
            manager_agent=agents[crew.manager_agent_id] if crew.manager_agent_id else None,
            **{name: getattr(crew, name) for name in fields},
        )
        for definition in crew.inputs.all():
            definition.pk, definition.crew, definition._state.adding = None, made, True
            definition.id = CrewInput._meta.pk.get_default()
            definition.save()
        copies: dict[Any, Task] = {}
        for task in tasks:
            copies[task.pk] = Task.objects.create(
                crew=made,
                agent=agents[task.agent_id] if task.agent_id else None,
                **{
                    name: getattr(task, name)
                    for name in (
                        "name", "description", "expected_output", "execution_order", "async_execution", "human_input",
                    )
                },
            )  # fmt: skip
            copies[task.pk].tools.set(task.tools.all())
        for task in tasks:
            copies[task.pk].context.set([copies[other.pk] for other in task.context.all() if other.pk in copies])
    return made


def refuse(errors: list[FieldError]) -> None:
    """Raise the errors, if there are any, as Django's `ValidationError`."""
    if errors:
        found: dict[str, list[ValidationError]] = {}
        for error in errors:
            found.setdefault(error.field or NON_FIELD_ERRORS, []).append(ValidationError(error.detail, code=error.code))
        raise ValidationError(found)
