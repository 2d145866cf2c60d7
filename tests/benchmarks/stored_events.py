"""How fast events are stored: a runner's intake of a file that an engine wrote, by turns with COPY of the same rows.

    python -m tests.benchmarks.stored_events EVENTS PAIRS

On the PostgreSQL that `DATABASE_URL` names, which must be migrated. Prints both sides' seconds as a line
of JSON. COPY is given its rows as the text that it reads, made before, in one transaction; the intake
reads lines, checks them, and stores them a megabyte a transaction.
"""

import json
import os
import sys
import tempfile
import time
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.benchmarks.measure import interleaved

WARM_UP = 2
PIECE_BYTES = 1 << 20
COPY = "COPY executions_executionevent (stream_id, seq, type, at, attempt, task, role, data) FROM STDIN"
AT = "2026-07-01T12:00:00.123456+00:00"
TASK, ROLE = str(uuid.UUID(int=1)), "Agent 1"


def data_of(n: int) -> dict[str, Any]:
    return {"kind": "output", "message": f"{n} pages read, and this is what they say about rivers and their names."}


class Arena:
    """An engine's file of `count` events, and both ways into the table."""

    def __init__(self, folder: Path, count: int) -> None:
        self.file = folder / "events.jsonl"
        self.count = count
        with self.file.open("w") as file:
            for n in range(count):
                line = {"kind": "event", "type": "log", "at": AT, "task": TASK, "role": ROLE, "data": data_of(n)}
                file.write(json.dumps(line) + "\n")

    def intake_once(self) -> float:
        from executions.runner.intake import Intake
        from tests.factories.accounts import AccessListFactory, UserFactory
        from tests.factories.executions import LEASE, ExecutionFactory

        owner = UserFactory(username=uuid.uuid4().hex)
        execution = ExecutionFactory(access=AccessListFactory(owner=owner))
        execution.start(worker="benchmark", lease=LEASE)
        execution.stream.refresh_from_db()
        intake = Intake(execution, self.file)
        began = time.perf_counter()
        while intake.read().is_full:
            pass
        took = time.perf_counter() - began
        self._check(execution.stream_id, execution.stream.last_seq)
        return took

    def copy_once(self) -> float:
        from django.db import connection, transaction

        from executions.models import EventStream

        stream = EventStream.objects.create()
        text = "".join(
            f"{stream.pk}\t{n + 1}\tlog\t{AT}\t1\t{TASK}\t{ROLE}\t{json.dumps(data_of(n))}\n" for n in range(self.count)
        ).encode()
        began = time.perf_counter()
        with transaction.atomic(), connection.cursor() as cursor, cursor.copy(COPY) as copy:
            for start in range(0, len(text), PIECE_BYTES):
                copy.write(text[start : start + PIECE_BYTES])
        took = time.perf_counter() - began
        self._check(stream.pk)
        return took

    def _check(self, stream: uuid.UUID, before: int = 0) -> None:
        from executions.models import ExecutionEvent

        stored = ExecutionEvent.objects.filter(stream=stream).count()
        assert stored == before + self.count, stored


def main() -> None:
    count, pairs = int(sys.argv[1]), int(sys.argv[2])
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    import django

    django.setup()
    with tempfile.TemporaryDirectory(prefix="portal-events-") as folder:
        arena = Arena(Path(folder), count)
        print(json.dumps(asdict(interleaved(arena.intake_once, arena.copy_once, pairs, warm_up=WARM_UP))))


if __name__ == "__main__":
    main()
