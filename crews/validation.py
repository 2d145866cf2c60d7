"""Whether a crew can run, and what stands in the way: the same answers for form, API, admin and CLI.

What one row can tell is checked by the models' own `clean`; here is what needs the whole crew.
"""

import uuid
from collections.abc import Iterable
from typing import Any

from django.db.models import Model, Q
from django.utils.translation import gettext as _

from crews.graph import find_cycle
from crews.inputs import CleanInputs, InputFile, InvalidInputs, clean_inputs
from crews.models import Agent, Crew, CrewInput, CrewMember, LLMModel, Task
from crews.placeholders import fill, unknown_names
from portal.lib.problems import FieldError, Problem
from portal.lib.reading import Reading, attach

__all__ = [
    "CleanInputs",
    "CrewNotRunnable",
    "InputFile",
    "InvalidInputs",
    "clean_inputs",
    "context_errors",
    "fill",
    "member_errors",
    "problems_of",
    "require_runnable",
    "whole",
]


class CrewNotRunnable(Problem):
    """A crew cannot run as it stands; `errors` names everything that is in the way."""

    code = "crew_not_runnable"


# What a run needs of a crew. On the way of every kickoff.
_LEADERS = ("manager_agent__llm_model__provider", "manager_llm_model__provider")
_CREW = Reading(lambda crew: Crew.objects.filter(pk=crew))
_LED_CREW = Reading(lambda crew: Crew.objects.filter(pk=crew).select_related(*_LEADERS))
_INPUTS = Reading(lambda crew: CrewInput.objects.filter(crew=crew))
_MEMBERS = Reading(lambda crew: CrewMember.objects.filter(crew=crew).select_related("agent__llm_model__provider"))
_AGENT_TOOLS = Reading(
    lambda crew: (
        Agent.tools.through.objects.filter(
            Q(agent__in=CrewMember.objects.filter(crew=crew).values("agent"))
            | Q(agent__in=Crew.objects.filter(pk=crew).values("manager_agent"))
        )
        .select_related("tool")
        .order_by("tool__name")
    )
)
_TASKS = Reading(lambda crew: Task.objects.filter(crew=crew).select_related("agent"))
_TASK_TOOLS = Reading(
    lambda crew: Task.tools.through.objects.filter(task__crew=crew).select_related("tool").order_by("tool__name")
)
_CONTEXTS = Reading(
    lambda crew: (
        Task.context.through.objects.filter(from_task__crew=crew)
        .select_related("to_task")
        .order_by("to_task__execution_order", "to_task__name")
    )
)


def whole(crew: Crew) -> Crew:
    """`crew` as it stands now, with all that a run needs read along. Seven queries, however large it is.

    Raises `Crew.DoesNotExist` when it is gone.
    """
    # For most crews, the tables of managers would be joined for nothing.
    found = (_LED_CREW if crew.manager_agent_id or crew.manager_llm_model_id else _CREW)(crew.pk)
    if not found:
        raise Crew.DoesNotExist(f"no crew {crew.pk}")
    crew = found[0]
    inputs, members, tasks = _INPUTS(crew.pk), _MEMBERS(crew.pk), _TASKS(crew.pk)
    for name, of_crew in (("inputs", inputs), ("members", members), ("tasks", tasks)):
        for row in of_crew:
            row.crew = crew
        attach(crew, name, of_crew)
    agents = [member.agent for member in members] + ([crew.manager_agent] if crew.manager_agent else [])
    _attach_linked(agents, "tools", [(row.agent_id, row.tool) for row in _AGENT_TOOLS(crew.pk)])
    _attach_linked(tasks, "tools", [(row.task_id, row.tool) for row in _TASK_TOOLS(crew.pk)])
    _attach_linked(tasks, "context", [(row.from_task_id, row.to_task) for row in _CONTEXTS(crew.pk)])
    return crew


def _attach_linked(owners: Iterable[Model], name: str, links: list[tuple[uuid.UUID, Any]]) -> None:
    linked: dict[uuid.UUID, list[Any]] = {}
    for key, row in links:
        linked.setdefault(key, []).append(row)
    for owner in owners:
        attach(owner, name, linked.get(owner.pk, ()))


def require_runnable(crew: Crew, model: LLMModel | str | None = None) -> Crew:
    """The `whole` crew, if it can run (on `model`, if one is given).

    Raises `CrewNotRunnable` that names all that is in the way.
    """
    found = whole(crew)
    if errors := _problems(found, model):
        raise CrewNotRunnable(
            _("The crew “%(name)s” cannot run yet.") % {"name": crew.name},
            hint=_("Correct what is named and start again."),
            errors=errors,
        )
    return found


def problems_of(crew: Crew, model: LLMModel | str | None = None) -> list[FieldError]:
    """All that is wrong with a crew before a run, each named; empty when it can run.

    `model` (a catalog id) stands in for the models of all agents. The number of queries does not
    grow with the crew.
    """
    return _problems(whole(crew), model)


def _problems(crew: Crew, model: LLMModel | str | None) -> list[FieldError]:
    return [
        *_crew_errors(crew),
        *_member_work_errors(crew),
        *_task_errors(crew),
        *_model_errors(crew, model),
        *_text_errors(crew),
        *_tool_errors(crew),
    ]


def context_errors(task: Task, context: Iterable[Task]) -> list[FieldError]:
    """What is wrong with giving `task` the output of the tasks in `context`: other crews, circles. Two queries."""
    context = list(context)
    strangers = [other for other in context if other.crew_id != task.crew_id]
    if strangers:
        return [_of_another_crew("context", task, other) for other in strangers]
    siblings = list(Task.objects.filter(crew=task.crew_id).prefetch_related("context"))
    waits_for = {other.pk: [one.pk for one in other.context.all()] for other in siblings}
    waits_for[task.pk] = [other.pk for other in context]
    names = {other.pk: other.name for other in siblings} | {task.pk: task.name}
    circle = find_cycle(waits_for)
    return [_circle_error("context", [names[key] for key in circle])] if circle else []


def member_errors(crew: Crew, agents: Iterable[Agent]) -> list[FieldError]:
    """What is wrong with making `agents` the members of `crew`: tasks left alone, unknown `{names}`. Two queries."""
    agents = list(agents)
    staying = {agent.pk for agent in agents} | {crew.manager_agent_id}
    errors = [
        FieldError(
            "agents",
            "agent_has_tasks",
            _("“%(agent)s” still has the task “%(task)s”.") % {"agent": task.agent, "task": task.name},
        )
        for task in crew.tasks.select_related("agent")
        if task.agent_id and task.agent_id not in staying
    ]
    known = set(crew.inputs.values_list("field_name", flat=True))
    for agent in agents:
        found = unknown_names(agent.texts, known, whose=_("Agent “%(role)s”") % {"role": agent.role})
        errors += [FieldError("agents", error.code, error.detail) for error in found]
    return errors


def _agents(crew: Crew) -> list[Agent]:
    """Everyone who works in a run: the members, and the manager of a crew that is led. Each once."""
    agents = {member.agent_id: member.agent for member in crew.members.all()}
    if crew.process == Crew.Process.HIERARCHICAL and crew.manager_agent:
        agents.setdefault(crew.manager_agent.pk, crew.manager_agent)
    return list(agents.values())


def _crew_errors(crew: Crew) -> list[FieldError]:
    errors = []
    if crew.status != Crew.Status.ACTIVE:
        errors.append(FieldError("status", "crew_inactive", _("The crew is switched off.")))
    if not crew.members.all():
        errors.append(FieldError("agents", "no_agents", _("The crew has no agents.")))
    if not crew.tasks.all():
        errors.append(FieldError("tasks", "no_tasks", _("The crew has no tasks.")))
    if crew.process == Crew.Process.HIERARCHICAL and not (crew.manager_agent or crew.manager_llm_model):
        detail = _("A crew that is led needs a manager: name an agent, or a model for the manager.")
        errors.append(FieldError("manager_agent", "manager_missing", detail))
    return errors


def _member_work_errors(crew: Crew) -> list[FieldError]:
    if crew.process == Crew.Process.HIERARCHICAL:
        return []  # the manager hands the work out
    busy = {task.agent_id for task in crew.tasks.all()}
    return [
        FieldError(
            f"agents.{member.agent_id}",
            "agent_without_task",
            _("The agent “%(role)s” has no task.") % {"role": member.agent.role},
        )
        for member in crew.members.all()
        if member.agent_id not in busy
    ]


def _task_errors(crew: Crew) -> list[FieldError]:
    errors = []
    led = crew.process == Crew.Process.HIERARCHICAL
    places = {agent.pk for agent in _agents(crew)}
    order = {task.pk: place for place, task in enumerate(crew.tasks.all())}
    waits_for: dict[Any, list[Any]] = {}
    for task in crew.tasks.all():
        field = f"tasks.{task.pk}"
        named = {"task": task.name, "agent": task.agent}
        if task.agent is None and not led:
            errors.append(
                FieldError(f"{field}.agent", "task_without_agent", _("The task “%(task)s” has no agent.") % named)
            )
        elif task.agent is not None and task.agent_id not in places:
            detail = _("The agent “%(agent)s” of the task “%(task)s” is no member of the crew.") % named
            errors.append(FieldError(f"{field}.agent", "not_a_member", detail))
        context = list(task.context.all())
        waits_for[task.pk] = [other.pk for other in context if other.crew_id == crew.pk]
        errors += [_of_another_crew(f"{field}.context", task, other) for other in context if other.crew_id != crew.pk]
    names = {task.pk: task.name for task in crew.tasks.all()}
    if circle := find_cycle(waits_for):
        errors.append(_circle_error("tasks", [names[key] for key in circle]))
    elif crew.process != Crew.Process.PARALLEL:
        for key, before in waits_for.items():
            for other in before:
                if order[other] > order[key]:
                    detail = _("The task “%(task)s” takes the output of “%(other)s”, which comes after it.")
                    named = {"task": names[key], "other": names[other]}
                    errors.append(FieldError(f"tasks.{key}.context", "context_comes_after", detail % named))
    return errors


def _model_errors(crew: Crew, model: LLMModel | str | None) -> list[FieldError]:
    if model:
        chosen = model if isinstance(model, LLMModel) else _in_catalog(model)
        if chosen is None:
            detail = _("There is no model “%(model)s” in the catalog.") % {"model": model}
            return [FieldError("model", "unknown_model", detail)]
        return [_model_error("model", "", chosen)] if chosen.why_not_runnable else []
    errors = [
        _model_error(f"agents.{agent.pk}.llm_model", agent.role, agent.llm_model)
        for agent in _agents(crew)
        if agent.llm_model.why_not_runnable
    ]
    manager = crew.manager_llm_model
    led = crew.process == Crew.Process.HIERARCHICAL and crew.manager_agent is None
    if led and manager and manager.why_not_runnable:
        errors.append(_model_error("manager_llm_model", _("Manager"), manager))
    return errors


def _in_catalog(model: str) -> LLMModel | None:
    return LLMModel.objects.select_related("provider").filter(pk=model).first()


def _model_error(field: str, role: str, model: LLMModel) -> FieldError:
    named = {"model": model.pk, "role": role, "why": model.why_not_runnable}
    detail = _("“%(role)s” cannot use the model %(model)s: %(why)s") if role else _("The model %(model)s: %(why)s")
    return FieldError(field, "model_not_runnable", detail % named)


def _text_errors(crew: Crew) -> list[FieldError]:
    known = {definition.field_name for definition in crew.inputs.all()}
    errors = []
    for task in crew.tasks.all():
        texts = {f"tasks.{task.pk}.{field}": text for field, text in task.texts.items()}
        errors += unknown_names(texts, known, whose=_("Task “%(name)s”") % {"name": task.name})
    for agent in _agents(crew):
        texts = {f"agents.{agent.pk}.{field}": text for field, text in agent.texts.items()}
        errors += unknown_names(texts, known, whose=_("Agent “%(role)s”") % {"role": agent.role})
    return errors


def _tool_errors(crew: Crew) -> list[FieldError]:
    users: list[tuple[str, Task | Agent]] = [(f"tasks.{task.pk}.tools", task) for task in crew.tasks.all()]
    users += [(f"agents.{agent.pk}.tools", agent) for agent in _agents(crew)]
    return [
        FieldError(
            field,
            "tool_disabled",
            _("The tool “%(tool)s” of “%(user)s” is switched off.") % {"tool": tool.name, "user": user},
        )
        for field, user in users
        for tool in user.tools.all()
        if not tool.enabled
    ]


def _of_another_crew(field: str, task: Task, other: Task) -> FieldError:
    detail = _("The task “%(task)s” takes the output of “%(other)s”, which belongs to another crew.")
    return FieldError(field, "context_of_another_crew", detail % {"task": task.name, "other": other.name})


def _circle_error(field: str, names: list[str]) -> FieldError:
    shown = " → ".join([*names, names[0]])
    return FieldError(field, "cyclic_context", _("These tasks wait for each other: %(names)s.") % {"names": shown})
