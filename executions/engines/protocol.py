"""The wire between the portal and an engine: a RunSpec goes in, JSON lines come out.

Standard library only, no Django: engines run in processes (some in interpreters) of their own.

Into the engine, once, as JSON: a `RunSpec`, a frozen copy of everything the run needs. Texts have
their `{inputs}` filled in already; an engine replaces nothing.

Out of it, appended to a file of the attempt, one `Line` a line in one `write` each:

    {"kind": "event", "type": "task.started", "at": "…", "task": key, "role": "Writer", "data": {…}}
    {"kind": "result", "output": "…"}                       the last line of an attempt that succeeded
    {"kind": "failure", "reason": "…", "message": "…"}      the last line of one that did not
    {"kind": "paused"}                                      … that ended because it was asked to pause
    {"kind": "waiting"}                                     … in which nothing goes on without a person's answer

An attempt whose file ends in neither has crashed. A torn last line is ignored. Every LLM call goes
to `gateway.base_url` as model `role:<agent key>` with the headers below, and every tool is called
there too; `llm.*` events are the gateway's alone.

Pausing: the process gets `PAUSE_SIGNAL`. It starts no further task, lets those under way finish, and
ends with `paused` unless all is done. Asking a person: a task with `human_input` does its work, writes
`approval.requested` (task, `data.output`) instead of `task.completed`, and what depends on it does not
start. Once nothing else can go on the attempt ends with `waiting`. An approved task comes back in
`finished`, one whose answer is still out in `waiting`, one that was sent back with its `reviews`.
"""

import signal
from typing import Any, Literal, NotRequired, TypedDict

VERSION = 3

PAUSE_SIGNAL = signal.SIGUSR1

HEADER_TASK = "X-Portal-Task"  # the task's key
HEADER_ROLE = "X-Portal-Role"  # the agent's key
HEADER_ORDINAL = "X-Portal-Ordinal"  # counts the identical requests of one agent on one task, from 0

MAX_LINE_BYTES = 1 << 20  # with its newline; an attempt that gives a longer output has failed
EXIT_NO_OUTPUT = 74  # the process could not write a line: its disk is full, or it wrote more than it may

MANAGER_KEY = "manager"

# What an engine may report; `llm.*`, `execution.*` and `approval.answered` are written by others.
ENGINE_EVENTS = frozenset(
    {
        *("task.started", "task.completed", "task.failed"),
        *("agent.started", "agent.thought", "agent.completed"),
        *("tool.started", "tool.completed", "tool.failed"),
        *("approval.requested", "deliverable.created", "log"),
    }
)


class Gateway(TypedDict):
    """Where to call models and tools, and the token that is good for this attempt alone."""

    base_url: str  # …/v1
    token: str


class AgentSpec(TypedDict):
    key: str
    role: str
    goal: str
    backstory: str
    llm: dict[str, Any]  # request parameters: temperature, max_tokens…
    tools: list[str]
    allow_delegation: bool
    max_iterations: int


class TaskSpec(TypedDict):
    key: str
    name: str
    description: str
    expected_output: str
    agent: str | None  # an agent's key; None only in a hierarchical crew
    context: list[str]  # keys of tasks whose output it takes
    async_execution: bool
    human_input: bool
    tools: list[str]


class ToolSpec(TypedDict):
    name: str
    description: str
    parameters: dict[str, Any]  # JSON schema of its arguments


class Review(TypedDict):
    """An answer that a person sent back, and what they ask for."""

    output: str
    feedback: str


class File(TypedDict):
    """A text file; `path` is relative, with forward slashes, and never leads out of its folder."""

    path: str
    content: str


class Material(TypedDict):
    """Finished work, or a text of a person, that a run starts from."""

    key: str
    title: str
    kind: str  # "requirement", "attachment", or what kind of deliverable it is
    role: str  # who made it; empty: a person
    version: str
    content: str  # Markdown
    files: list[File]


class Wanted(TypedDict):
    """A deliverable that a stage has to produce."""

    type: str
    title: str


class StageSpec(TypedDict):
    """Of a run that works on a stage of a project: which, and what it has to produce."""

    name: str
    round: int
    deliverables: list[Wanted]
    instructions: str


class ProjectSpec(TypedDict):
    """The project to which the stage belongs."""

    name: str
    type: str
    audience: str
    requirement: str
    technical: dict[str, Any]
    folders: list[str]


class Made(TypedDict):
    """A deliverable as an engine gives it, in `data.deliverables` of its task's last event."""

    type: str
    title: str
    description: str
    content: str  # Markdown
    file_type: str  # "markdown", "code" or "json"
    files: list[File]
    metadata: dict[str, Any]
    prompt: str  # what the role was asked


class RunSpec(TypedDict):
    version: int
    execution: str
    attempt: int
    name: str
    engine: str
    process: Literal["sequential", "parallel", "hierarchical"]
    manager: str | None  # key of the managing agent; None: a manager of the engine's own, `role:manager`
    agents: list[AgentSpec]
    tasks: list[TaskSpec]  # in execution order
    tools: list[ToolSpec]
    finished: dict[str, str]  # outputs of tasks that need not run again, by task key
    waiting: list[str]  # tasks whose answer a person has not approved yet: neither they nor what needs them may start
    reviews: dict[str, list[Review]]  # by task key, oldest first: work that was sent back
    language: str
    date: str  # the day of the kickoff, ISO
    gateway: Gateway
    project: NotRequired[ProjectSpec]
    stage: NotRequired[StageSpec]  # such a run has one agent and one task
    materials: NotRequired[list[Material]]  # in the order in which they were made


class Line(TypedDict):
    kind: Literal["event", "result", "failure", "paused", "waiting"]
    type: NotRequired[str]
    at: NotRequired[str]
    task: NotRequired[str]
    role: NotRequired[str]
    data: NotRequired[dict[str, Any]]
    output: NotRequired[str]
    reason: NotRequired[Literal["error", "bad_output", "missing", "gateway"]]
    message: NotRequired[str]
