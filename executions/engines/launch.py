"""How an engine host is started: its command line and its scrubbed environment.

Whoever starts it sets PR_SET_PDEATHSIG in the child, from a thread that lives as long as the host should.
"""

import os
from pathlib import Path

from executions.engines import environments
from executions.engines.registry import ENGINES

# Set before the framework is imported: it reads them then.
FRAMEWORK_ENVIRONMENT = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_DISABLE_TRACKING": "true",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "OTEL_SDK_DISABLED": "true",
    "ANONYMIZED_TELEMETRY": "false",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # The host may have one thread only, or forking it would be unsafe.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
    "PYTHONHASHSEED": "0",
    "PYTHONUNBUFFERED": "1",
}
ROOT = Path(__file__).resolve().parents[2]


def command(engine: str, socket: Path) -> list[str]:
    """The command line of a host; it ends with the process that asked, `socket` appears when it is ready."""
    found = ENGINES[engine]
    parent = str(os.getpid())
    return [
        *(found.interpreter, "-m", "executions.engines.host", engine),
        *("--socket", str(socket), "--parent", parent),
    ]


def environment(home: Path) -> dict[str, str]:
    """All that a host gets to see; nothing of the caller's environment. `home` is a folder it may write to."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "HOME": str(home),
        "TMPDIR": str(home),
        "CREWAI_STORAGE_DIR": str(home),
        "METAGPT_PROJECT_ROOT": str(home),
        environments.VARIABLE: str(environments.root()),
        "PYTHONPATH": str(ROOT),
        **FRAMEWORK_ENVIRONMENT,
    }
