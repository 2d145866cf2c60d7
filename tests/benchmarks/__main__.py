"""What the portal costs beside the bare thing.

    python -m tests.benchmarks                      all of them
    python -m tests.benchmarks first_event --json   one, its result as a line of JSON

Each is measured in interleaved pairs on this machine. The last line of each: `{"name", "ratio", "low",
"high", "aim", "limit", "n", "ok"}`, a 95 % interval, `ok` when its worse side is within the limit. An aim
below the limit means: at most the limit; an aim above it: at least.
"""

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout

from tests.benchmarks import limits, portal, survival
from tests.benchmarks.measure import Result
from tests.benchmarks.scene import Scene, scene

BENCHMARKS: dict[str, Callable[[Scene, bool], Result]] = {
    function.__name__: function
    for function in (
        *(portal.first_event, portal.crew_overhead, portal.call_overhead_ms, portal.idle_worker_memory),
        *(portal.web_imports, survival.recovery, survival.events),
        *(survival.density_active, survival.density_waiting, limits.rate_limits),
    )
}
COUNTS = {"web_imports"}  # not measured but counted


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--json", action="store_true", help="print the last lines alone")
    parser.add_argument(
        "--quick", action="store_true", help="few pairs: shows that they run; times do not decide the exit code"
    )
    options = parser.parse_args()
    if unknown := set(options.names) - set(BENCHMARKS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    results = []
    # The web process writes down what it imports, for `web_imports`; it costs nothing once it has started.
    with (
        redirect_stdout(sys.stderr if options.json else sys.stdout),
        scene(environment={"PYTHONPROFILEIMPORTTIME": "1"}) as measured,
    ):
        for name in options.names or BENCHMARKS:
            result = BENCHMARKS[name](measured, options.quick)
            results.append(result)
            print(json.dumps(result.as_json()), file=sys.__stdout__, flush=True)
    # Few pairs on a busy machine judge no time; a count needs no more of them.
    judged = [result for result in results if not options.quick or result.name in COUNTS]
    return 0 if all(result.ok for result in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
