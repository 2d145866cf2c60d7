"""The engines: which frameworks carry runs, where their adapters are, and whether this machine has them.

Adding one: a folder beside this file with an `adapter.py`, a `preload.txt` (made by `rehearsal`), and a
line here. An adapter has `run(spec: RunSpec, output: Output) -> str`, which carries a run and may raise
`output.Failed` or `output.Unfinished`, and `prepare()`, which the host calls once before it forks any run.
Between tasks it asks `pausing.is_asked()`.
"""

import sys
from dataclasses import dataclass
from importlib import metadata


@dataclass(frozen=True)
class Engine:
    """One framework.

    `module` is the adapter, imported by the engine host alone; `distribution` the package whose
    presence and version are asked without importing it; `runs_programs` whether a run may start
    other programs; `keeps_files` whether its tasks, one at a time, work on files that the next needs.
    """

    key: str
    label: str
    module: str
    distribution: str
    runs_programs: bool = False
    keeps_files: bool = False

    @property
    def interpreter(self) -> str:
        """The Python that has the framework."""
        return sys.executable

    def version(self) -> str | None:
        """The framework's version on this machine; None where it is not installed."""
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return None

    def is_installed(self) -> bool:
        return self.version() is not None


ENGINES: dict[str, Engine] = {
    "crewai": Engine(key="crewai", label="CrewAI", module="executions.engines.crewai.adapter", distribution="crewai"),
}
