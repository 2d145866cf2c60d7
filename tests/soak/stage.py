"""Carries one stage in an engine's own interpreter: reads a RunSpec from a file, appends events to another.

python -m tests.soak.stage SPEC EVENTS          in the work folder of the run
"""

import json
import os
import sys
from pathlib import Path


def main(spec_file: Path, events_file: Path) -> int:
    from executions.engines.metagpt import adapter
    from executions.engines.output import Failed, GatewayLost, Output

    spec = json.loads(spec_file.read_text())
    output = Output(os.open(events_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    adapter.prepare()
    try:
        output.result(adapter.run(spec, output))
    except Failed as exc:
        output.failure(exc.reason, str(exc))
        return 1
    except GatewayLost as exc:
        output.failure("gateway", str(exc))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
