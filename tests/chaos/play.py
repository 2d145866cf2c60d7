"""Playing one schedule: runs, people and faults side by side, then quiet, then the check."""

import contextlib
import heapq
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos import checker, history
from tests.chaos.faults import Struck, strike
from tests.chaos.history import FamilyFacts, History
from tests.chaos.people import ENDED, Family, People
from tests.chaos.scene import Scene
from tests.chaos.schedule import Schedule
from tests.chaos.watcher import Watchers
from tests.deadlines import SLOWNESS, wait_for

SETTLED_WITHIN = 60 * SLOWNESS  # seconds after the last fault was taken back
TIDY_WITHIN = 20 * SLOWNESS  # until nothing of ended runs is left
JOIN_SECONDS = 20  # a person who waits for the portal's answer
GROWTH_THREADS, GROWTH_FILES = 40, 80  # more than a process had when it was first seen at rest


@dataclass
class Played:
    """What came of one schedule. `seconds` from its start to rest, `settled` from the last fault."""

    schedule: Schedule
    violations: list[str]
    history: History
    kills: int
    repeated_calls: int
    seconds: float
    settled: float
    struck: Struck = field(default_factory=Struck)


class Player:
    """Plays schedules on a scene, one after the other."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.watchers = Watchers(scene.main)
        self._vitals: dict[tuple[str, int], tuple[int, int]] = {}

    def close(self) -> None:
        self.watchers.close()

    def play(self, schedule: Schedule) -> Played:
        """Everything of one schedule; the scene is whole before and after."""
        scene = self.scene
        scene.make_whole()
        scene.fake.reset()
        self.watchers.forget_all()
        began = time.monotonic()
        people = People(scene, self.watchers, began)
        families = [Family(plan, f"{plan.mark}{began}") for plan in schedule.runs if plan.crew in scene.crews]
        threads = [
            threading.Thread(target=people.act, args=(family,), name=family.plan.mark, daemon=True)
            for family in families
        ]
        for thread in threads:
            thread.start()
        struck = Struck()
        leftovers: list[str] = []
        try:
            self._strike(schedule, struck, began)
            scene.make_whole()
            quiet = time.monotonic()
            leftovers += self._settle(families, threads, quiet)
            settled = time.monotonic() - quiet
            people.close()
            ids = [execution for family in families for execution in family.executions]
            leftovers += self._tidy(ids)
        finally:
            people.close()
            scene.thaw()
            for thread in threads:
                thread.join(JOIN_SECONDS)
        found = self._history(families, schedule, struck, leftovers)
        return Played(
            schedule=schedule,
            violations=checker.check(found),
            history=found,
            kills=sum(struck.kills.values()),
            repeated_calls=sum(checker.repeats(found).values()),
            seconds=time.monotonic() - began,
            settled=settled,
            struck=struck,
        )

    # --- Faults ---------------------------------------------------------------------------------

    def _strike(self, schedule: Schedule, struck: Struck, began: float) -> None:
        """Let faults happen and be taken back at their moments."""
        order = itertools.count()
        due: list[tuple[float, int, Callable[[], object]]] = []
        for plan in schedule.faults:

            def happen(plan=plan) -> None:
                if taken_back := strike(self.scene, plan, struck):
                    after, undo = taken_back
                    heapq.heappush(due, (time.monotonic() - began + after, next(order), undo))

            heapq.heappush(due, (plan.at, next(order), happen))
        try:
            while due:
                at, _, work = heapq.heappop(due)
                pause = at - (time.monotonic() - began)
                if pause > 0:
                    time.sleep(pause)
                work()
        finally:
            # An interrupted schedule takes back what it did, or the scene could not even end.
            for _, _, work in sorted(due):
                if work.__name__ != "happen":
                    work()
            for thread in struck.threads:
                thread.join()

    # --- Rest -----------------------------------------------------------------------------------

    def _settle(self, families: list[Family], threads: list[threading.Thread], quiet: float) -> list[str]:
        """Wait until every run rests as its people want it; what does not is stuck."""

        def all_rest() -> bool:
            self.scene.start_missing()
            return not any(thread.is_alive() for thread in threads)

        with contextlib.suppress(AssertionError):
            wait_for(all_rest, "every run rests", SETTLED_WITHIN - (time.monotonic() - quiet))
        stuck = []
        for family in families:
            rows = self.scene.database.of("executions_execution", family.executions, "id")
            where = [f"{row['id']} is {row['status']}, attempt {row['attempt']}" for row in rows]
            if not family.is_settled or any(row["status"] not in ENDED for row in rows):
                passed = time.monotonic() - quiet
                stuck.append(f"{family.plan.mark} does not rest {passed:.0f} s after the last fault: {where}")
        return stuck

    def _tidy(self, ids: list[str]) -> list[str]:
        """Wait until ended runs have left nothing behind; returns what they did leave."""
        leftovers: list[str] = []

        def left() -> bool:
            leftovers[:] = self._left(ids)
            return not leftovers

        with contextlib.suppress(AssertionError):
            wait_for(left, "nothing is left", TIDY_WITHIN, every=0.1)
        for execution in ids:
            stored = self.scene.database.of("executions_eventstream", [execution], "id")[0]["last_seq"]
            seen = self.watchers.seen[execution]
            with contextlib.suppress(AssertionError):
                wait_for(
                    lambda s=seen, n=stored: n == 0 or (s and s[-1]["seq"] >= n), "watchers are there", TIDY_WITHIN
                )
        return leftovers + self._grown()

    def _left(self, ids: list[str]) -> list[str]:
        found = [f"engine process {process.pid}" for process in self.scene.engines()]
        rows = self.scene.database.of("executions_execution", ids, "id")
        ended = [row["id"] for row in rows if row["status"] in ENDED]
        found += [f"folder {folder}" for folder in self.scene.work_folders(ended)]
        found += [
            f"call {r['id']} open" for r in self.scene.database.of("executions_llmcall", ids) if r["status"] == "open"
        ]
        journal = self.scene.database.of("executions_journalentry", ids)
        found += [f"journal entry {row['id']} open" for row in journal if row["state"] == "open"]
        found += [f"{row['id']} reserves" for row in rows if row["reserved_usd"] or row["reserved_tokens"]]
        return found

    def _grown(self) -> list[str]:
        """Threads and descriptors of long-lived processes, against what they had when first seen at rest."""
        grown = []
        for name, (pid, threads, files) in self.scene.vitals().items():
            before = self._vitals.setdefault((name, pid), (threads, files))
            if threads > before[0] + GROWTH_THREADS or files > before[1] + GROWTH_FILES:
                grown.append(f"{name} grew from {before} to {(threads, files)} threads and descriptors")
        return grown

    # --- What happened --------------------------------------------------------------------------

    def _history(self, families: list[Family], schedule: Schedule, struck: Struck, leftovers: list[str]) -> History:
        facts = [
            FamilyFacts(
                mark=family.plan.mark,
                crew=family.plan.crew,
                action=family.plan.action,
                executions=family.executions,
                kicked_off=sorted(family.kicked_off),
                stops=family.stops,
                retries=family.retries,
                wrong=family.wrong,
            )
            for family in families
        ]
        found = history.read(self.scene.database, facts)
        found.seen = {execution: list(self.watchers.seen[execution]) for execution in found.events}
        found.requests = history.requests(list(self.scene.fake.ledger))
        found.faults = [plan.name for plan in schedule.faults]
        found.kills = dict(struck.kills)
        found.in_flight = struck.in_flight
        found.leftovers = leftovers
        return found
