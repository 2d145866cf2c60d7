"""Freezing a crew into what a run needs, so that later edits never change a run that has started."""

from dataclasses import dataclass
from typing import Any

from django.utils import timezone, translation

from crews.builtin_tools import BUILTIN
from crews.models import Agent, Crew, LLMModel, Tool
from crews.validation import fill
from executions.engines import protocol

LIMITS = ("max_duration_seconds", "task_timeout_seconds", "approval_timeout_seconds", "approval_reminder_seconds")
# Of a CrewInput: what it takes to clean a value, and to ask for one.
INPUT_FIELDS = ("field_name", "field_type", "field_label", "options", "default", "is_required")


@dataclass(frozen=True)
class Role:
    """A role of the run and the model it starts with."""

    key: str
    name: str
    llm_model: LLMModel


@dataclass(frozen=True)
class Snapshot:
    """What a run needs, frozen.

    `spec`: the RunSpec without what belongs to one attempt; `limits` in seconds; `roles` → models.
    `templates`: the texts before inputs were filled in, and `inputs`: what the crew asks for, so that
    a fork can fill in others.
    """

    spec: dict[str, Any]
    limits: dict[str, int | None]
    roles: list[Role]
    templates: dict[str, dict[str, dict[str, str]]]
    inputs: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        return {"spec": self.spec, "limits": self.limits, "templates": self.templates, "inputs": self.inputs}


def freeze(crew: Crew, values: dict[str, Any], model: LLMModel | None = None) -> Snapshot:
    """A frozen copy of `crew` with its inputs filled in; `model` takes every role's place.

    `crew` as `crews.validation.whole` reads it, so that nothing is read here; `values` as
    `crews.validation.clean_inputs` gives them.
    """
    tasks = crew.tasks.all()
    members = [row.agent for row in crew.members.all()]
    manager = crew.manager_agent if crew.process == Crew.Process.HIERARCHICAL else None
    agents = {agent.pk: agent for agent in [*members, *([manager] if manager else [])]}
    tools: dict[str, Tool] = {}

    def names(of: Any) -> list[str]:
        usable = [tool for tool in of.tools.all() if tool.enabled and tool.name in BUILTIN]
        tools.update({tool.name: tool for tool in usable})
        return [tool.name for tool in usable]

    def agent_spec(agent: Agent) -> protocol.AgentSpec:
        return {
            "key": str(agent.pk),
            "role": fill(agent.role, values),
            "goal": fill(agent.goal, values),
            "backstory": fill(agent.backstory, values),
            "llm": agent.llm_config,
            "tools": names(agent),
            "allow_delegation": agent.allow_delegation,
            "max_iterations": agent.max_iterations,
        }

    spec: dict[str, Any] = {
        "version": protocol.VERSION,
        "name": crew.name,
        "engine": crew.engine,
        "process": crew.process,
        "manager": str(manager.pk) if manager else None,
        "agents": [agent_spec(agent) for agent in agents.values()],
        "tasks": [
            {
                "key": str(task.pk),
                "name": task.name,
                "description": fill(task.description, values),
                "expected_output": fill(task.expected_output, values),
                "agent": str(task.agent_id) if task.agent_id else None,
                "context": [str(other.pk) for other in task.context.all()],
                "async_execution": task.async_execution,
                "human_input": task.human_input,
                "tools": names(task),
            }
            for task in tasks
        ],
        "language": translation.get_language() or "en",
        "date": timezone.localdate().isoformat(),
    }
    spec["tools"] = [
        {
            "name": name,
            "description": tool.description or BUILTIN[name].description,
            "parameters": BUILTIN[name].parameters,
        }
        for name, tool in sorted(tools.items())
    ]
    roles = [Role(str(agent.pk), agent.role, model or agent.llm_model) for agent in agents.values()]
    if crew.process == Crew.Process.HIERARCHICAL and manager is None and (model or crew.manager_llm_model):
        roles.append(Role(protocol.MANAGER_KEY, "Manager", model or crew.manager_llm_model))  # type: ignore[arg-type]
    templates = {
        "tasks": {str(task.pk): task.texts for task in tasks},
        "agents": {str(agent.pk): agent.texts for agent in agents.values()},
    }
    inputs = [{name: getattr(one, name) for name in INPUT_FIELDS} for one in crew.inputs.all()]
    return Snapshot(spec, {name: getattr(crew, name) for name in LIMITS}, roles, templates, inputs)
