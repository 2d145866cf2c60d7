"""The long proofs, each by one command:

python -m tests.soak stops --n 100
python -m tests.soak reconnects --n 1000
python -m tests.soak reconnects --n 1000 --postgres      on PostgreSQL and Redis, thrown away afterwards
python -m tests.soak projects --kills 100                whole projects, while processes are killed
python -m tests.soak ideas --model http://…/v1           what MetaGPT makes of ideas on a real model
"""

import argparse
import contextlib
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests import services
from tests.fakes.llm import FakeLLM
from tests.soak import ideas, projects, reconnects, stops
from tests.stack import Stack


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("proof", choices=["stops", "reconnects", "projects", "ideas"])
    parser.add_argument("--n", type=int, help="how many (100 stops, 1000 reconnects)")
    parser.add_argument("--kills", type=int, default=100, help="for projects: how many SIGKILLs (100)")
    parser.add_argument(
        "--engines", nargs="+", choices=["crew-ai", "meta-gpt"], default=["crew-ai"], help="for projects: of which"
    )
    parser.add_argument("--model", default="", help="for ideas: address of an OpenAI-compatible server, with /v1")
    parser.add_argument("--ideas", nargs="+", choices=sorted(ideas.IDEAS), help="for ideas: which (all)")
    parser.add_argument("--language", choices=["en", "ko"], default="en", help="for ideas: of the documents")
    parser.add_argument("--seed", type=int, default=None, help="repeat the random moments of an earlier run")
    parser.add_argument("--json", action="store_true", help="the result as one line of JSON")
    parser.add_argument("--postgres", action="store_true", help="on PostgreSQL and Redis instead of SQLite")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    if options.proof == "ideas":
        if not options.model:
            parser.error("ideas needs --model")
        found = ideas.run(options.model, options.ideas or list(ideas.IDEAS), language=options.language)
    elif options.proof == "projects":
        found = projects.run(kills=options.kills, seed=seed, engines=options.engines, team=options.postgres)
    else:
        found = _on_a_stack(options, seed)
    print(json.dumps(found) if options.json else json.dumps(found, indent=2))
    return 0 if found["ok"] else 1


def _on_a_stack(options: argparse.Namespace, seed: int) -> dict[str, Any]:
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
            return stops.run(stack, fake, options.n or 100, seed)
        return reconnects.run(stack, options.n or 1000, seed)


if __name__ == "__main__":
    sys.exit(main())
