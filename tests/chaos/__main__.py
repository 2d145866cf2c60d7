"""Chaos: random runs beside random faults, each history checked.

python -m tests.chaos --schedules 1000 --seed 1          the full sweep
python -m tests.chaos --schedules 1 --seed 123456789     one schedule again, by the seed that was printed
python -m tests.chaos --schedules 20 --only clock        one kind of fault
python -m tests.chaos --schedules 20 --database sqlite   what one person runs
python -m tests.chaos kills --count 200                  SIGKILLs alone, until there were so many

The last line is JSON: {"schedules", "violations", "kills", "repeated_calls", …}. Exit code 1 on violations.
A call may only be repeated when its answer was on its way (`in_flight`) as a gateway was killed.
"""

import argparse
import collections
import dataclasses
import itertools
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from typing import Any

from tests.chaos import schedule
from tests.chaos.play import Played, Player
from tests.chaos.scene import Scene

# Events that are counted, to see that faults have hit something.
TOLD = {"execution.recovered", "execution.paused", "execution.waiting", "llm.replayed", "approval.answered"}


class Tally:
    """Sums of what was played."""

    def __init__(self) -> None:
        self.schedules = self.violations = self.kills = self.repeated_calls = self.in_flight = self.runs = 0
        self.kinds: collections.Counter[str] = collections.Counter()
        self.statuses: collections.Counter[str] = collections.Counter()
        self.told: collections.Counter[str] = collections.Counter()
        self.failing: list[int] = []
        self.slowest = 0.0

    def add(self, played: Played) -> None:
        self.schedules += 1
        self.violations += len(played.violations)
        self.kills += played.kills
        self.repeated_calls += played.repeated_calls
        self.runs += len(played.history.executions)
        self.kinds.update(played.struck.kills)
        self.statuses.update(row["status"] for row in played.history.executions)
        for event in itertools.chain.from_iterable(played.history.events.values()):
            if event["type"] in TOLD:
                self.told[f"{event['type']} {event['data'].get('for', '')}".strip()] += 1
        self.in_flight += played.struck.in_flight
        self.slowest = max(self.slowest, played.settled)
        if played.violations:
            self.failing.append(played.schedule.seed)

    def lose(self, seed: int) -> None:
        """A schedule after which the portal did not come back."""
        self.schedules += 1
        self.violations += 1
        self.failing.append(seed)

    def merge(self, other: dict[str, Any]) -> None:
        """Add the result of another process."""
        for name in ("schedules", "violations", "kills", "repeated_calls", "in_flight", "runs"):
            setattr(self, name, getattr(self, name) + other[name])
        self.kinds.update(other["killed"])
        self.statuses.update(other["statuses"])
        self.told.update(other["told"])
        self.failing += other["failing"]
        self.slowest = max(self.slowest, other["settled_seconds_max"])

    def result(self) -> dict[str, Any]:
        return {
            "schedules": self.schedules,
            "violations": self.violations,
            "kills": self.kills,
            "repeated_calls": self.repeated_calls,
            "in_flight": self.in_flight,
            "runs": self.runs,
            "killed": dict(self.kinds),
            "statuses": dict(self.statuses),
            "told": dict(self.told),
            "settled_seconds_max": round(self.slowest, 1),
            "failing": self.failing,
        }


def say(*words: object) -> None:
    print(*words, file=sys.stderr, flush=True)


def planned(options: argparse.Namespace) -> Iterator[int]:
    """The seeds to play; for kills without end."""
    if options.seeds:
        yield from options.seeds
    elif options.proof == "kills":
        chance = random.Random(options.seed)
        while True:
            yield chance.randrange(1, 10**9)
    else:
        yield from schedule.seeds(options.seed, options.schedules)


def play_all(options: argparse.Namespace) -> Tally:
    """Play schedules in this process; a scene that cannot be made whole again is a violation, and another is set."""
    tally = Tally()
    seeds = planned(options)
    try:
        while (seed := next(seeds, None)) is not None:
            began = time.monotonic()
            with (
                Scene(team=options.database == "postgres", keep=options.keep) as scene,
                closing(Player(scene)) as player,
            ):
                say(f"the scene is set after {time.monotonic() - began:.0f} s, in {scene.folder}")
                while seed is not None and _play_one(player, seed, options, tally):
                    is_enough = options.proof == "kills" and tally.kills >= options.count
                    seed = None if is_enough else next(seeds, None)
                if seed is None:
                    break
    except KeyboardInterrupt:
        say("interrupted")
    return tally


def _play_one(player: Player, seed: int, options: argparse.Namespace, tally: Tally) -> bool:
    """Play a schedule; False when the scene did not survive it."""
    drawn = schedule.draw(
        seed, team=player.scene.team, only=options.only, only_kills=options.proof == "kills", faults=options.faults
    )
    try:
        played = player.play(drawn)
    except AssertionError as exc:
        tally.lose(seed)
        say(f"{tally.schedules:5d}  seed {seed}: the portal did not come back: {exc}")
        return False
    tally.add(played)
    _tell(played, tally)
    if played.violations and options.keep:
        path = player.scene.folder / f"history-{seed}.json"
        path.write_text(json.dumps(dataclasses.asdict(played.history), default=str, indent=1))
        say("       all that is known of it:", path)
    return True


def _tell(played: Played, tally: Tally) -> None:
    faults = " ".join(f"{plan.name}@{plan.at:.1f}" for plan in played.schedule.faults)
    missed = f" (missed: {' '.join(played.struck.missed)})" if played.struck.missed else ""
    say(
        f"{tally.schedules:5d}  seed {played.schedule.seed:<10d} {played.seconds:5.1f} s "
        f"{'VIOLATED' if played.violations else 'ok':8s} {faults}{missed}"
    )
    for violation in played.violations:
        say(f"       seed {played.schedule.seed}: {violation}")


def play_in_processes(options: argparse.Namespace) -> Tally:
    """Share the schedules among `--jobs` processes, each with a scene of its own."""
    seeds = schedule.seeds(options.seed, options.schedules)
    common = ["--database", options.database, "--json", *(["--only", *options.only] if options.only else [])]
    children = []
    for n in range(options.jobs):
        if mine := seeds[n :: options.jobs]:
            result = tempfile.TemporaryFile("w+")  # noqa: SIM115 - read when the child has ended
            command = [sys.executable, "-m", "tests.chaos", *common, "--seeds", *map(str, mine)]
            children.append((subprocess.Popen(command, stdout=result), result))
    tally = Tally()
    for child, result in children:
        _wait(child)
        result.seek(0)
        if lines := result.read().splitlines():
            tally.merge(json.loads(lines[-1]))
        result.close()
    return tally


def _wait(child: subprocess.Popen[bytes]) -> None:
    """Wait for a process, which hears Ctrl-C too, and ends with what it has played."""
    while child.poll() is None:
        with suppress(KeyboardInterrupt):
            child.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("proof", nargs="?", choices=["schedules", "kills"], default="schedules")
    parser.add_argument("--schedules", type=int, default=50, help="how many (50)")
    parser.add_argument("--seed", type=int, help="the first schedule's seed, from which the others follow (random)")
    parser.add_argument("--count", type=int, default=200, help="for kills: how many SIGKILLs (200)")
    parser.add_argument("--database", choices=["postgres", "sqlite"], default="postgres")
    parser.add_argument(
        "--only", nargs="+", default=[], choices=schedule.WEIGHTS, metavar="FAULT", help="no other faults than these"
    )
    parser.add_argument("--faults", type=int, help="how many a schedule (1 to 4, at random)")
    parser.add_argument("--jobs", type=int, default=1, help="scenes side by side (1)")
    parser.add_argument("--json", action="store_true", help="nothing but the result on standard output")
    parser.add_argument(
        "--keep", action="store_true", help="keep folders, logs, and all that is known of violated schedules"
    )
    parser.add_argument("--seeds", type=int, nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells switch off for what runs in the background
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started and mounted is taken back
    options.seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1, 10**9)
    if options.proof == "kills" and options.jobs > 1:
        parser.error("kills are counted on one scene: leave out --jobs")
    tally = play_in_processes(options) if options.jobs > 1 else play_all(options)
    result = tally.result()
    if not options.json and result["failing"]:
        print("violations in the schedules of seeds", *result["failing"])
    print(json.dumps(result))
    return 1 if result["violations"] or not result["schedules"] else 0


if __name__ == "__main__":
    sys.exit(main())
