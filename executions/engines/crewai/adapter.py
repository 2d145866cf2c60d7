"""The crewai engine: carries a RunSpec with CrewAI.

The bargain: every model and tool call goes to the gateway, CrewAI keeps nothing and calls nobody
else, and what goes wrong leaves here as `Failed` with a sentence for people. The pinned version is
needed for four internal names: `add_stream_sink`, `Crew._execute_tasks`, the executor's choice of parallel
tool calls, and the switch of the rate limit retries; `tests/unit/engines/test_crewai_contract.py` holds them.
"""

import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

from crewai import Agent, Crew, Process, Task
from crewai.agents.agent_executor import AgentExecutor, AgentExecutorState
from crewai.crews.utils import prepare_task_execution
from crewai.events import crewai_event_bus
from crewai.events.stream_context import add_stream_sink
from crewai.flow.runtime import FlowState
from crewai.llms.retry import _active_llm_rate_limit_retry
from crewai.tasks.task_output import TaskOutput
from crewai.utilities.agent_utils import extract_tool_call_info
from crewai.utilities.formatter import DIVIDERS
from crewai.utilities.i18n import I18N_DEFAULT
from crewai.utilities.string_utils import sanitize_tool_name
from pydantic import BaseModel, PrivateAttr

from executions.engines import pausing, schedule, taskgraph
from executions.engines.calls import TooLong
from executions.engines.crewai import errors, prompts
from executions.engines.crewai.events import EventSink
from executions.engines.crewai.llm import GatewayClient, RoleLLM
from executions.engines.crewai.tools import GatewayTool, function_name
from executions.engines.output import Output, Unfinished
from executions.engines.protocol import MANAGER_KEY, AgentSpec, RunSpec, TaskSpec

logging.getLogger("crewai").setLevel(logging.ERROR)

_MANAGER_ITERATIONS = 15


def prepare() -> None:
    """Do once, in the host, what CrewAI would do again in every run. Builds no crew and emits nothing."""
    for model in _subclasses(BaseModel):
        if model.__module__.startswith(("crewai.", "executions.", "openai.types.chat.")):
            model.model_rebuild(raise_errors=False)  # does nothing where it is built

    # CrewAI would make this class for each agent, in 10 ms.
    class State(FlowState, AgentExecutorState):
        pass

    AgentExecutor._initial_state_t = State
    # Not in a subclass: CrewAI would not find a flow's steps in it.
    AgentExecutor._should_parallelize_native_tool_calls = _may_run_side_by_side


def run(spec: RunSpec, output: Output) -> str:
    """Carry a run to its end; returns its result, the output of the last task. Raises Failed and Unfinished."""
    _active_llm_rate_limit_retry.set(True)  # "a retry is under way already": the gateway does that
    client = GatewayClient(spec["gateway"])
    sink = EventSink(output, client)
    crew = Cast(spec, client, sink, output).crew()
    # CrewAI's own listeners (console, traces) cost a quarter of its time and start a pool of threads.
    crewai_event_bus._sync_handlers.clear()
    crewai_event_bus._async_handlers.clear()
    add_stream_sink(sink)
    try:
        return str(crew.kickoff().raw)
    except Unfinished:
        raise
    except (Exception, SystemExit) as exc:  # CrewAI ends the process when a text is too long for it
        raise errors.of_run(exc) from exc


class _Nowhere:
    """Takes the place of CrewAI's log of task outputs: a file shared by all runs, 23 ms a task."""

    def reset(self) -> None: ...

    def update(self, *_: Any, **__: Any) -> None: ...

    def add(self, *_: Any, **__: Any) -> None: ...

    def load(self) -> list[Any]:
        return []


class PortalCrew(Crew):
    """A crew whose tasks start when `schedule` says so."""

    _spec: RunSpec = PrivateAttr()
    _cast: "Cast" = PrivateAttr()
    _task_output_handler: Any = PrivateAttr(default_factory=_Nowhere)

    def _execute_tasks(self, tasks: list[Task], start_index: int | None = 0, was_replayed: bool = False) -> Any:
        spec = self._spec
        specs = {task["key"]: task for task in spec["tasks"]}
        by_key = dict(zip(specs, tasks, strict=True))
        takes = taskgraph.takes(spec)
        finished = {key: _recorded(by_key[key], text) for key, text in spec["finished"].items() if key in by_key}
        for key, output in finished.items():
            by_key[key].output = output

        def execute(key: str) -> TaskOutput | None:
            given = [output for other in takes[key] if (output := by_key[other].output) is not None]
            reviews = spec["reviews"].get(key, [])
            texts = [*(output.raw for output in given), *([prompts.sent_back(reviews)] if reviews else [])]
            contexts = [
                DIVIDERS.join([*prompts.of_stage(spec, specs[key], bounds), *texts])
                for bounds in (prompts.USUAL, prompts.BRIEF)
            ]
            return self._carry(specs[key], by_key[key], list(dict.fromkeys(contexts)))

        outputs = schedule.run(
            list(specs), taskgraph.needs(spec), execute,
            finished=finished, waiting=spec["waiting"], may_start=lambda: not pausing.is_asked(),
        )  # fmt: skip
        return self._create_crew_output([outputs[key] for key in specs])

    def _carry(self, spec: TaskSpec, task: Task, contexts: list[str]) -> TaskOutput | None:
        """Do one task and say so, in the first context that its model can read; None when a person has to approve."""
        prepared, _, _ = prepare_task_execution(self, task, 0, None, [], None)
        role = prepared.agent.role
        tell = partial(self._cast.output.event, task=spec["key"], role=role)
        tell("task.started", data={"name": spec["name"], "agent": role})
        try:
            done = self._answer(task, prepared, contexts, tell)
            what = "approval.requested" if spec["human_input"] else "task.completed"
            tell(what, data={"name": spec["name"], "output": done.raw})
        except (Exception, SystemExit) as exc:
            tell("task.failed", data={"name": spec["name"], "error": str(errors.of_run(exc))})
            raise
        return None if spec["human_input"] else done

    def _answer(self, task: Task, prepared: Any, contexts: list[str], tell: Any) -> TaskOutput:
        context, *shorter = contexts
        try:
            return task.execute_sync(agent=prepared.agent, context=context, tools=prepared.tools)
        except Exception as exc:
            if not shorter or not isinstance(errors.of_run(exc), TooLong):
                raise
        tell("log", data={"message": "What the role was given was longer than its model can read: it gets less of it."})
        return self._answer(task, prepared, shorter, tell)

    def _add_delegation_tools(self, task: Task, tools: Any) -> Any:
        # Coworkers of this task's own: one agent cannot work for two tasks at a time.
        coworkers = self._cast.coworkers(task.agent, self)
        return self._inject_delegation_tools(tools or [], task.agent, coworkers) if coworkers else tools


class Cast:
    """Makes a run's agents, tasks and crew from its spec."""

    def __init__(self, spec: RunSpec, client: GatewayClient, sink: EventSink, output: Output) -> None:
        self.output = output
        self._spec = spec
        self._client = client
        self._sink = sink
        self._agents = {agent["key"]: agent for agent in spec["agents"]}
        self._tools = {tool["name"]: tool for tool in spec["tools"]}
        self._keys: dict[int, str] = {}  # agent's key by the id() of its object
        self._llms: dict[str, RoleLLM] = {}

    def crew(self) -> PortalCrew:
        spec = self._spec
        hierarchical = spec["process"] == "hierarchical"
        agents = (
            [self.agent(agent) for agent in spec["agents"] if agent["key"] != spec["manager"]] if hierarchical else []
        )
        tasks = [self._task(task, agents) for task in spec["tasks"]]
        crew = PortalCrew(
            name=spec["name"],
            agents=agents if hierarchical else [task.agent for task in tasks],
            tasks=tasks,
            process=Process.hierarchical if hierarchical else Process.sequential,
            manager_agent=self._manager() if hierarchical else None,
            verbose=False,
        )
        crew._spec = spec
        crew._cast = self
        return crew

    def agent(self, agent: AgentSpec, *, is_manager: bool = False) -> Agent:
        made = Agent(
            role=agent["role"],
            goal=agent["goal"],
            backstory=agent["backstory"],
            llm=self._llm(agent),
            tools=[] if is_manager else self._tools_for(agent["tools"], agent["key"]),
            allow_delegation=is_manager or agent["allow_delegation"],
            max_iter=agent["max_iterations"],
            max_retry_limit=0,
            respect_context_window=False,
            verbose=False,
        )
        self._keys[id(made)] = agent["key"]
        return made

    def coworkers(self, of: Agent, crew: PortalCrew) -> list[Agent]:
        """New agents like all the others of the crew, for one task to delegate to."""
        found = []
        for agent in self._spec["agents"]:
            if agent["key"] != self._keys.get(id(of)):
                made = self.agent(agent)
                made.crew = crew
                found.append(made)
        return found

    def _task(self, task: TaskSpec, crew_agents: list[Agent]) -> Task:
        key = task["agent"]
        if key is None:
            agent = None
        elif self._spec["process"] == "hierarchical":
            agent = next((found for found in crew_agents if self._keys[id(found)] == key), None)
        else:
            agent = self.agent(self._agents[key])
        own = self._tools_for(task["tools"], key or MANAGER_KEY)
        made = Task(  # CrewAI's own `human_input` would ask in a terminal
            name=task["name"],
            description=task["description"],
            expected_output=task["expected_output"],
            agent=agent,
            tools=[*own, *(agent.tools or [] if agent and own else [])],
        )
        self._client.task_keys[str(made.id)] = task["key"]
        return made

    def _manager(self) -> Agent:
        key = self._spec["manager"]
        if key is not None:
            return self.agent(self._agents[key], is_manager=True)
        texts = {
            name: I18N_DEFAULT.retrieve("hierarchical_manager_agent", name) for name in ("role", "goal", "backstory")
        }
        return self.agent(
            AgentSpec(
                key=MANAGER_KEY,
                role=texts["role"],
                goal=texts["goal"],
                backstory=texts["backstory"],
                llm={},
                tools=[],
                allow_delegation=True,
                max_iterations=_MANAGER_ITERATIONS,
            ),
            is_manager=True,
        )

    def _llm(self, agent: AgentSpec) -> RoleLLM:
        if agent["key"] not in self._llms:
            self._llms[agent["key"]] = RoleLLM(
                self._client,
                agent["key"],
                agent["llm"],
                {function_name(tool): tool["parameters"] for tool in self._spec["tools"]},
                lambda text: self._sink.thought(agent["role"], text),
            )
        return self._llms[agent["key"]]

    def _tools_for(self, names: list[str], role: str) -> list[GatewayTool]:
        return [GatewayTool(self._client, self._tools[name], role) for name in names]


def _may_run_side_by_side(self: AgentExecutor, tool_calls: list[Any]) -> bool:
    """Whether the tool calls of one turn cannot be confused with each other.

    Two that are alike would get each other's recorded answers in an attempt that repeats them, and a coworker
    can do one thing at a time.
    """
    named = [extract_tool_call_info(call) for call in tool_calls]
    ours = {sanitize_tool_name(tool.name) for tool in self.original_tools if isinstance(tool, GatewayTool)}
    distinct = {(call[1], str(call[2])) for call in named if call is not None and call[1] in ours}
    return len(tool_calls) > 1 and len(distinct) == len(tool_calls)


def _recorded(task: Task, text: str) -> TaskOutput:
    """What a task gave in an earlier attempt."""
    return TaskOutput(
        name=task.name,
        description=task.description,
        expected_output=task.expected_output,
        raw=text,
        agent=task.agent.role if task.agent else "",
    )


def _subclasses(of: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for found in of.__subclasses__():
        yield found
        yield from _subclasses(found)
