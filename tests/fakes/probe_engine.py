"""An engine whose task is Python code: it does inside an engine process whatever a test wants to try there.

    python -m tests.fakes.probe_engine probe --socket PATH

A run executes the description of its first task, which sees `spec` and `output`, and sets `result`.
"""

from executions.engines import registry
from executions.engines.host import main
from executions.engines.output import Output
from executions.engines.protocol import RunSpec


def prepare() -> None:
    """Nothing to do: there is no framework."""


def run(spec: RunSpec, output: Output) -> str:
    names: dict[str, object] = {"spec": spec, "output": output, "result": ""}
    exec(spec["tasks"][0]["description"], names)  # noqa: S102 - that is what it is for
    return str(names["result"])


if __name__ == "__main__":
    registry.ENGINES["probe"] = registry.Engine(
        key="probe", label="Probe", module="tests.fakes.probe_engine", distribution="pytest", runs_programs=True
    )
    main()
