"""The engines: which frameworks carry runs, where their adapters are, and whether this machine has them.

Adding one: a folder beside this file with an `adapter.py`, a `preload.txt` (made by `rehearsal`), and a
line here. An adapter has `run(spec: RunSpec, output: Output) -> str`, which carries a run and may raise
`output.Failed` or `output.Unfinished`, and `prepare()`, which the host calls once before it forks any run.
Between tasks it asks `pausing.is_asked()`. Before a host is forked it has one thread, which it checks itself.

A framework that cannot share the portal's packages gets an interpreter of its own: the folder has a lock,
`requirements.txt`, and the line names it in `environment`. `manage.py engine install` makes it, or a worker
when a run first needs it. What runs there (`executions.engines` and the adapter) takes the standard
library and the packages of that lock, nothing else.

Proof: its key in `FRAMEWORKS` of tests/engines.py, for which the conformance suites have to hold then
(test_engine_conformance.py, test_engine_resume.py and test_conformance.py in tests/integration).
"""

import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from executions.engines.environments import Environment


@dataclass(frozen=True)
class Engine:
    """One framework.

    `module` is the adapter, imported by the engine host alone; `distribution` the package whose
    presence and version are asked without importing it; `environment` the interpreter that has it, where that is
    not the portal's; `runs_programs` whether a run may start other programs; `keeps_files` whether its
    tasks, one at a time, work on files that the next needs.
    """

    key: str
    label: str
    module: str
    distribution: str
    environment: Environment | None = None
    runs_programs: bool = False
    keeps_files: bool = False

    @property
    def interpreter(self) -> str:
        """The Python that has the framework."""
        return str(self.environment.python) if self.environment else sys.executable

    def version(self) -> str | None:
        """The framework's version on this machine; None where it is not installed."""
        if self.environment:
            return self.environment.version_of(self.distribution)
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return None

    def is_installed(self) -> bool:
        """Whether it can carry runs here. Costs next to nothing where it has an interpreter of its own."""
        return self.environment.is_complete() if self.environment else self.version() is not None


def installed() -> list[str]:
    """The keys of the engines that this machine has."""
    return [key for key, engine in ENGINES.items() if engine.is_installed()]


_HERE = Path(__file__).resolve().parent
ENGINES: dict[str, Engine] = {
    "crewai": Engine(key="crewai", label="CrewAI", module="executions.engines.crewai.adapter", distribution="crewai"),
    "metagpt": Engine(
        key="metagpt",
        label="MetaGPT",
        module="executions.engines.metagpt.adapter",
        distribution="metagpt",
        environment=Environment("metagpt", lock=_HERE / "metagpt" / "requirements.txt", megabytes=900),
        runs_programs=True,
    ),
}
