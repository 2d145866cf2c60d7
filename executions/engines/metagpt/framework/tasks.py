"""A task of a crew, done by a plain role of MetaGPT with one action: for runs that are no stage of a project."""

from typing import Any

from metagpt.actions import Action, UserRequirement
from metagpt.roles import Role

from executions.engines.metagpt.framework import company
from executions.engines.metagpt.framework import desk as desks
from executions.engines.metagpt.framework.desk import Desk
from executions.engines.protocol import AgentSpec


class DoTask(Action):
    """Answers what the role was told to do."""

    name: str = "DoTask"

    async def run(self, *_: Any, **__: Any) -> str:
        desk = desks.current()
        desk.tell("agent.started", {"action": self.name})
        desk.answers[self.name] = {"text": await desk.interview.prose("=== Now: do your task ===")}
        desk.tell("agent.completed", {"action": self.name})
        return str(desk.answers[self.name]["text"])


class Worker(Role):
    """Whoever the crew's author made."""

    name: str = "Worker"
    profile: str = "Worker"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.set_actions([DoTask])
        self._watch([UserRequirement])


async def carry(desk: Desk, agent: AgentSpec) -> str:
    """Do the desk's task; its answer. Raises Failed."""
    await company.work(desk, agent, Worker)
    return str(desk.answers["DoTask"]["text"])
