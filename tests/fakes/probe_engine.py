"""Engines whose tasks are Python code: they do inside an engine process whatever a test wants to try there.

    python -m tests.fakes.probe_engine probe --socket PATH

`probe` executes the description of its first task, which sees `spec` and `output`, and sets `result`.
`keeper` carries a whole crew, and keeps files: it executes the description of each task, which sees `key`,
`given` (the outputs it takes) and `reviews` too, and asks and pauses as engines do.
"""

from typing import Any

from executions.engines import pausing, registry, schedule, taskgraph
from executions.engines.host import main
from executions.engines.output import Output
from executions.engines.protocol import RunSpec, TaskSpec


def prepare() -> None:
    """Nothing to do: there is no framework."""


def run(spec: RunSpec, output: Output) -> str:
    if spec["engine"] == "keeper":
        return _carry(spec, output)
    return _execute(spec["tasks"][0], spec=spec, output=output)


def _carry(spec: RunSpec, output: Output) -> str:
    tasks = {task["key"]: task for task in spec["tasks"]}
    takes = taskgraph.takes(spec)
    done = dict(spec["finished"])

    def execute(key: str) -> str | None:
        task = tasks[key]
        output.event("task.started", task=key, data={"name": task["name"]})
        given = [done[other] for other in takes[key]]
        reviews = spec["reviews"].get(key, [])
        result = _execute(task, spec=spec, output=output, key=key, given=given, reviews=reviews)
        what = "approval.requested" if task["human_input"] else "task.completed"
        output.event(what, task=key, data={"name": task["name"], "output": result})
        if task["human_input"]:
            return None
        done[key] = result
        return result

    outputs = schedule.run(
        list(tasks), taskgraph.needs(spec), execute,
        finished=spec["finished"], waiting=spec["waiting"], may_start=lambda: not pausing.is_asked(),
    )  # fmt: skip
    return outputs[spec["tasks"][-1]["key"]]


def _execute(task: TaskSpec, **names: Any) -> str:
    names["result"] = ""
    exec(task["description"], names)  # noqa: S102 - that is what it is for
    return str(names["result"])


if __name__ == "__main__":
    for key in ("probe", "keeper"):
        registry.ENGINES[key] = registry.Engine(
            key=key,
            label=key.title(),
            module="tests.fakes.probe_engine",
            distribution="pytest",
            runs_programs=True,
            keeps_files=key == "keeper",
        )
    main()
