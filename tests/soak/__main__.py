"""The long proofs, each by one command:

python -m tests.soak stops --n 100
python -m tests.soak reconnects --n 1000
python -m tests.soak reconnects --n 1000 --postgres      on PostgreSQL and Redis, thrown away afterwards
"""

import argparse
import contextlib
import json
import random
import sys
import tempfile
from pathlib import Path

from tests import services
from tests.fakes.llm import FakeLLM
from tests.soak import reconnects, stops
from tests.stack import Stack


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("proof", choices=["stops", "reconnects"])
    parser.add_argument("--n", type=int, help="how many (100 stops, 1000 reconnects)")
    parser.add_argument("--seed", type=int, default=None, help="repeat the random moments of an earlier run")
    parser.add_argument("--json", action="store_true", help="the result as one line of JSON")
    parser.add_argument("--postgres", action="store_true", help="on PostgreSQL and Redis instead of SQLite")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    with contextlib.ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="portal-soak-")))
        folder.chmod(0o711)  # engines may run as a user of their own
        database, redis = "", ""
        if options.postgres:
            server = running.enter_context(services.postgres())
            database = services.create_database(server, "soak")
            redis = running.enter_context(services.redis_url())
        fake = running.enter_context(FakeLLM())
        stack = running.enter_context(Stack(folder / "data", llm_url=fake.url, database_url=database, redis_url=redis))
        if options.proof == "stops":
            found = stops.run(stack, fake, options.n or 100, seed)
        else:
            found = reconnects.run(stack, options.n or 1000, seed)
    print(json.dumps(found) if options.json else json.dumps(found, indent=2))
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
