"""`python -m tests.egress [--allow HOST[:PORT]]… -- COMMAND…`; without a command, `tests.egress.scene`."""

import argparse
import sys

from tests.egress import gate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.egress", description="Say what a command tries to reach.")
    parser.add_argument("--allow", action="append", default=[], metavar="HOST[:PORT]")
    parser.add_argument("command", nargs="*", metavar="COMMAND")
    options = parser.parse_args()
    command = options.command or [sys.executable, "-m", "tests.egress.scene"]
    try:
        code, attempts = gate.run(command, allowed=options.allow)
    except gate.Impossible as exc:
        print(f"The gate cannot be closed here: {exc}", file=sys.stderr)
        return 2
    for attempt in attempts:
        print(f"LEAK {attempt}", flush=True)
    return code or (gate.SEEN if attempts else 0)


if __name__ == "__main__":
    sys.exit(main())
