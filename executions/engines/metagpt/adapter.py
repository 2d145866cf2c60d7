"""The metagpt engine: carries a RunSpec with MetaGPT's software company.

The bargain: a run does one role's work on one stage, and starts from the Markdown that people approved, never from
what MetaGPT itself would hand on. Every model call goes to the gateway, code that a model wrote runs in the sandbox
or not at all, and what goes wrong leaves here as `Failed` with a sentence for people. The pinned version is needed for
the methods that `framework` replaces; `tests/unit/engines/test_metagpt_contract.py` holds them.
"""

import asyncio
import logging
import threading
from functools import partial
from typing import Any

from executions.engines import pausing, schedule, taskgraph
from executions.engines.metagpt import brief
from executions.engines.metagpt.asking import TOKENS, Interview, Unusable
from executions.engines.metagpt.framework import coding, company, nodes, provider, stages, tasks, testing
from executions.engines.metagpt.framework.desk import Desk
from executions.engines.metagpt.framework.provider import CLIENT, GatewayClient
from executions.engines.ordinals import Ordinals
from executions.engines.output import Failed, GatewayLost, Output
from executions.engines.protocol import AgentSpec, RunSpec, TaskSpec

logging.getLogger("asyncio").setLevel(logging.ERROR)


def prepare() -> None:
    """Put our ways in the place of MetaGPT's, once, in the host."""
    provider.register()
    for module in (nodes, coding, testing, company):
        module.install()


def run(spec: RunSpec, output: Output) -> str:
    """Carry a run to its end; returns its result, the output of the last task. Raises Failed and Unfinished."""
    return _Carrier(spec, output).run()


class _Carrier:
    """One attempt of a run."""

    def __init__(self, spec: RunSpec, output: Output) -> None:
        self._spec = spec
        self._output = output
        self._tasks = {task["key"]: task for task in spec["tasks"]}
        self._agents = {agent["key"]: agent for agent in spec["agents"]}
        self._ordinals = Ordinals()
        self._done = dict(spec["finished"])
        self._workspace = threading.Lock()  # there is one, so tasks that may run side by side take turns

    def run(self) -> str:
        order = list(self._tasks)
        done = schedule.run(
            order,
            taskgraph.needs(self._spec),
            self._execute,
            finished=self._spec["finished"],
            waiting=self._spec["waiting"],
            may_start=lambda: not pausing.is_asked(),
        )
        return done[order[-1]] if order else ""

    def _execute(self, key: str) -> str | None:
        """Do one task and say so; None when a person has to approve its answer."""
        task = self._tasks[key]
        agent = self._agent(task)
        tell = partial(self._output.event, task=key, role=agent["role"])
        tell("task.started", data={"name": task["name"], "agent": agent["role"]})
        if tools := [*agent["tools"], *task["tools"]]:
            tell("log", data={"message": f"MetaGPT calls no tools; not used: {', '.join(dict.fromkeys(tools))}"})
        try:
            with self._workspace:
                text, extra = asyncio.run(self._work(task, agent, tell))
            what = "approval.requested" if task["human_input"] else "task.completed"
            tell(what, data={"name": task["name"], "output": text, **extra})
        except (GatewayLost, Exception) as exc:
            if isinstance(failure := of_run(exc), Unusable):
                tell("log", data={"kind": "raw_answer", "message": str(failure), "text": failure.raw})
            tell("task.failed", data={"name": task["name"], "error": str(failure)})
            raise failure from exc
        self._done[key] = text
        return None if task["human_input"] else text

    async def _work(self, task: TaskSpec, agent: AgentSpec, tell: Any) -> tuple[str, dict[str, Any]]:
        """The task's answer, and what else its last event says."""
        client = GatewayClient(self._spec["gateway"], self._ordinals, agent, task["key"])
        CLIENT.set(client)
        desk = self._desk(task, agent, client, lambda type_, data: tell(type_, data=data))
        try:
            if "stage" in self._spec:
                text, made = await stages.carry(desk, agent)
                return text, {"deliverables": made}
            return await tasks.carry(desk, agent), {}
        finally:
            await client.close()

    def _desk(self, task: TaskSpec, agent: AgentSpec, client: GatewayClient, tell: Any) -> Desk:
        spec = self._spec
        if "stage" in spec:
            told = brief.of_stage(spec, task)
        else:
            before = taskgraph.takes(spec)[task["key"]]
            told = brief.of_task(spec, task, [(self._tasks[key]["name"], self._done[key]) for key in before])
        system = f"You are the {agent['role']}. {agent['goal']} {agent['backstory']}".strip()
        interview = Interview(
            ask=partial(client.put, system),
            brief=told,
            language=spec["language"],
            max_tokens=int(agent["llm"].get("max_tokens") or agent["llm"].get("max_completion_tokens") or TOKENS),
        )
        return Desk(spec=spec, task=task, interview=interview, tell=tell)

    def _agent(self, task: TaskSpec) -> AgentSpec:
        if task["agent"] is None:
            raise Failed("The MetaGPT engine needs an agent for each task: it has no manager who hands tasks out.")
        return self._agents[task["agent"]]


def of_run(error: BaseException) -> BaseException:
    """Why a task ended: the failure underneath what MetaGPT made of it, else its own words."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (Failed, GatewayLost)):
            return cause
        cause = cause.__cause__ or cause.__context__
    return Failed(f"{type(error).__name__}: {error}"[-2000:])
