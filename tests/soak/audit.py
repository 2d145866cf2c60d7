"""The audit log finds whatever is done to it, and nothing where nothing was done:

python -m tests.soak.audit --trials 1000
python -m tests.soak.audit --trials 1000 --postgres      on PostgreSQL, thrown away afterwards

Every trial begins with the same whole log, of which some rows wait to be sealed. An attacker who has the
database and not the key does one thing to it (`tests.soak.tampering`); in some trials the portal goes on
for a while; then the check must find it, and name the entry.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

from tests import services

SEALED, WAITING = 60, 6


def build(rng: random.Random) -> None:
    """A log as it might be: all columns filled somewhere, a part waiting."""
    from portal.accounts import audit
    from portal.accounts.audit import appender, heads, refusals
    from portal.accounts.models import User

    people = [User(pk=uuid.UUID(int=rng.getrandbits(128)), username=f"person{n}") for n in range(5)]

    def some(count: int) -> None:
        for n in range(count):
            audit.set_origin(
                address=rng.choice([None, f"198.51.100.{n}", f"2001:db8::{n:x}"]),
                user_agent=rng.choice(["", "Mozilla/5.0", "curl/8"]),
                credential=rng.choice(["session", "api_key:ap_12ab", ""]),
            )
            audit.record(
                rng.choice(["crew.changed", "user.signed_in", "execution.started", "key.revoked"]),
                by=rng.choice([None, *people]),
                target=rng.choice([None, *people]),
                before=rng.choice([{}, {"role": "user", "n": n}]),
                after=rng.choice([{}, {"role": "admin", "of": ["ä", {"deep": n}], "price": 0.25}]),
            )

    some(SEALED // 2)
    appender.seal(batch=7)
    some(SEALED // 2)
    appender.seal(batch=11)
    for n in range(40):
        audit.refused("request.refused", by=people[n % 2], after={"status": 403})
    refusals.flush()
    some(WAITING - 2)
    audit.set_origin(address=None, user_agent="", credential="")
    heads.keep()


def trial(seed: int, folder: Path) -> dict[str, Any] | None:
    """One tampering, undone afterwards; None when it came to nothing. `found` says whether the check saw it."""
    from django.db import DatabaseError, transaction

    from portal.accounts import audit
    from portal.accounts.audit import appender, verify
    from tests.soak import tampering

    rng = random.Random(seed)
    kept = folder / "audit"
    backup = Path(shutil.copytree(kept, folder / "audit.before"))
    result: dict[str, Any] | None = None
    try:
        with contextlib.suppress(DatabaseError), transaction.atomic():
            table = tampering.Table()
            before = table.everything()
            kind = rng.choice(tampering.KINDS)
            numbers = kind(table, rng)
            goes_on = kind in tampering.STAYS_TO_BE_SEEN and rng.random() < 0.3
            if table.everything() != before:
                if goes_on:
                    for _ in range(rng.randrange(1, 70)):
                        audit.record("crew.changed", by=None)
                    appender.seal()
                report = verify.verify()
                named = {fault.number for fault in report.faults}
                result = {
                    "kind": kind.__name__,
                    "seed": seed,
                    "goes_on": goes_on,
                    "found": not report.is_whole,
                    "named": not numbers or goes_on or bool(numbers & named),
                    "faults": [str(fault) for fault in report.faults[:5]],
                }
            transaction.set_rollback(True)
    finally:
        shutil.rmtree(kept)
        backup.rename(kept)
    return result


def run(trials: int, seed: int) -> dict[str, Any]:
    """`trials` tamperings of the log in this process's database, whose data folder is PORTAL_DATA_DIR."""
    from django.conf import settings

    from portal.accounts.audit import verify

    rng = random.Random(seed)
    build(rng)
    found: Counter[str] = Counter()
    missed, false_alarms, attempts = [], [], 0
    while sum(found.values()) + len(missed) < trials:
        attempts += 1
        if attempts % 10 == 1 and not (untouched := verify.verify()).is_whole:
            false_alarms.append([str(fault) for fault in untouched.faults])
        outcome = trial(seed * 1_000_000 + attempts, Path(settings.PORTAL_DATA_DIR))
        if outcome is None:
            continue
        if outcome["found"] and outcome["named"]:
            found[outcome["kind"]] += 1
        else:
            missed.append(outcome)
    return {
        "ok": not missed and not false_alarms,
        "seed": seed,
        "trials": trials,
        "found": sum(found.values()),
        "missed": missed[:20],
        "untouched_checked": -(-attempts // 10),
        "false_alarms": false_alarms[:5],
        "kinds": dict(sorted(found.items())),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak.audit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=None, help="repeat an earlier run")
    parser.add_argument("--postgres", action="store_true", help="on PostgreSQL instead of SQLite")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    with contextlib.ExitStack() as running:
        folder = running.enter_context(tempfile.TemporaryDirectory(prefix="portal-audit-"))
        os.environ.update(PORTAL_DATA_DIR=folder, DJANGO_SETTINGS_MODULE="portal.settings", LOG_LEVEL="WARNING")
        os.environ.pop("DATABASE_URL", None)
        if options.postgres:
            os.environ["DATABASE_URL"] = services.create_database(running.enter_context(services.postgres()), "audit")
        import django

        django.setup()
        import logging

        from django.core.management import call_command
        from django.db import connections

        logging.disable(logging.ERROR)  # each trial is an alarm
        call_command("migrate", verbosity=0, skip_checks=True)
        found = run(options.trials, seed)
        connections.close_all()
    print(json.dumps(found, indent=2, ensure_ascii=False))
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
