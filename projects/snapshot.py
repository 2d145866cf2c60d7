"""Freezing a stage into what its run needs: one agent, one task, and all that it starts from."""

from collections.abc import Iterable, Sequence
from typing import Any

from django.utils import timezone

from crews.builtin_tools import BUILTIN
from crews.models import Agent, Crew, LLMModel
from crews.placeholders import fill
from executions.engines import protocol
from executions.engines.protocol import AgentSpec, Review, TaskSpec
from executions.snapshot import LIMITS, Role, Snapshot
from projects import materials, plans
from projects.library import outline
from projects.models import Deliverable, Project, RoleLLMMapping, Stage

# Of a stage whose project has no crew that says otherwise: a local model takes its time.
MAX_SECONDS = 4 * 3600
MAX_LLM_CALLS = 400


def freeze(
    stage: Stage, mapping: RoleLLMMapping, sources: Iterable[Deliverable], reviews: Sequence[Review] = ()
) -> Snapshot:
    """What a run of `stage` needs: its role with the model and parameters of `mapping`, `sources` to start from, and
    what people said about earlier answers, oldest first.

    Where the project has a crew, the role is that crew's agent of the same name, if there is one.
    """
    project, role = stage.project, mapping.role_name
    plan = plans.stage_plan(project.selected_ai, stage.stage_name)
    key = plans.slug(role)
    agent = agent_of(project, mapping)
    task: TaskSpec = {
        "key": stage.stage_name,
        "name": stage.label,
        "description": description(stage),
        "expected_output": plan.expected.text(project.language),
        "agent": key,
        "context": [],
        "async_execution": False,
        "human_input": False,
        "tools": [],
    }
    spec: dict[str, Any] = {
        "version": protocol.VERSION,
        "name": f"{project.name}: {stage.label}"[:200],
        "engine": project.engine,
        "process": "sequential",
        "manager": None,
        "agents": [agent],
        "tasks": [task],
        "tools": [
            {"name": name, "description": BUILTIN[name].description, "parameters": BUILTIN[name].parameters}
            for name in sorted(agent["tools"])
        ],
        "reviews": {stage.stage_name: list(reviews)} if reviews else {},
        "language": project.language,
        "date": timezone.localdate().isoformat(),
        "materials": materials.as_materials(project, sources),
        "project": {
            "name": project.name,
            "type": project.project_type,
            "audience": project.target_audience,
            "requirement": requirement(project),
            "technical": project.technical_requirements,
            "folders": list(project.template.folders) if project.template else [],
        },
        "stage": {
            "name": stage.stage_name,
            "round": project.round,
            "deliverables": [{"type": one.type, "title": one.title.text(project.language)} for one in plan.wanted],
            "instructions": stage.instructions,
        },
    }
    texts = {
        "tasks": {task["key"]: {name: task[name] for name in ("description", "expected_output")}},
        "agents": {key: {name: agent[name] for name in ("role", "goal", "backstory")}},
    }
    return Snapshot(spec, _limits(project.crew), [Role(key, role, mapping.llm_model)], texts, [])


def max_llm_calls(project: Project) -> int:
    """How many calls of models a run of a stage may make."""
    return project.crew.max_llm_calls if project.crew else MAX_LLM_CALLS


def _limits(crew: Crew | None) -> dict[str, int | None]:
    limits: dict[str, int | None] = dict.fromkeys(LIMITS)
    limits["max_duration_seconds"] = crew.max_duration_seconds if crew else MAX_SECONDS
    limits["task_timeout_seconds"] = crew.task_timeout_seconds if crew else MAX_SECONDS
    return limits


def agent_of(project: Project, mapping: RoleLLMMapping) -> AgentSpec:
    """The role of `mapping` as runs have it: the crew's agent of the same name, else as the engine's company has it."""
    return _agent(project, mapping, _member(project.crew, mapping.role_name))


def _member(crew: Crew | None, role: str) -> Agent | None:
    """The crew's agent of that role, whatever its case of letters."""
    members = crew.members.select_related("agent").prefetch_related("agent__tools") if crew else ()
    return next((one.agent for one in members if one.agent.role.casefold() == role.casefold()), None)


def _agent(project: Project, mapping: RoleLLMMapping, member: Agent | None) -> AgentSpec:
    role, language = mapping.role_name, project.language
    plan = plans.role_plan(project.selected_ai, role)
    values = _values(project) if member else {}
    tools = [tool.name for tool in member.tools.all() if tool.enabled and tool.name in BUILTIN] if member else []
    return {
        "key": plans.slug(role),
        "role": role,
        "goal": fill(member.goal, values) if member else plan.goal.text(language),
        "backstory": fill(member.backstory, values) if member else plan.backstory.text(language),
        "llm": {**(member.llm_config if member else _defaults(plan, mapping.llm_model)), **mapping.llm_config},
        "tools": tools,
        "allow_delegation": False,
        "max_iterations": member.max_iterations if member else 4,
    }


def _defaults(plan: plans.RolePlan, model: LLMModel) -> dict[str, Any]:
    """A small model that may write without end repeats itself; a large one knows when to stop."""
    return {"max_tokens": plan.max_tokens} if model.is_local else {}


def _values(project: Project) -> dict[str, Any]:
    """What the names in a crew's texts stand for: what the crew asks for, as far as the project says it."""
    asked = {one.field_name: one.default for one in project.crew.inputs.all()} if project.crew else {}
    text = requirement(project)
    said = {"topic": text, "requirement": text, "project": project.name, "target_audience": project.target_audience}
    return {**asked, **{name: value for name, value in said.items() if value}}


def requirement(project: Project) -> str:
    """What is asked for, in words: the requirement, else what the project says about itself."""
    if text := project.requirement.strip():
        return text
    told = [project.name, project.description.strip()]
    if project.template and (points := outline(project.template, project.language)):
        told.append(points)
    return "\n\n".join(filter(None, told))


def description(stage: Stage) -> str:
    """What the role of a stage is asked, in the project's language. Earlier work travels beside it."""
    project = stage.project
    plan = plans.stage_plan(project.selected_ai, stage.stage_name)
    is_korean = project.language == Project.Language.KO
    named = {
        "프로젝트" if is_korean else "Project": project.name,
        "대상" if is_korean else "For": project.target_audience,
        "요구사항" if is_korean else "Asked for": requirement(project),
    }
    told = [f"{label}: {text}" for label, text in named.items() if text]
    return "\n\n".join(filter(None, ["\n".join(told), plan.task.text(project.language), stage.instructions.strip()]))
