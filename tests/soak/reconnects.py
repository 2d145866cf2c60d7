"""A watcher that is cut at random moments: does it see every event once, and every text without a hole?"""

import asyncio
import json
import random
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.deadlines import DEADLINE
from tests.stack import Stack

AT_ONCE = 4
LONGEST_LOOK = 0.4  # seconds between two cuts
CREW = {"tasks": 6, "agents": 3, "mode": "long-40@8"}
END = {"execution.completed", "execution.failed", "execution.stopped"}


@dataclass
class Seen:
    """What one watcher saw of one run, over all of its connections."""

    seqs: list[int] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    deltas: int = 0
    cuts: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def last(self) -> int:
        return self.seqs[-1] if self.seqs else 0


def run(stack: Stack, n: int, seed: int) -> dict[str, Any]:
    """Cut watchers `n` times, and compare what they saw with the database; `ok` when nothing is lost or doubled."""
    crew = stack.make_crews({f"reconnects {uuid.uuid4().hex[:6]}": CREW}).popitem()[1]
    began = time.monotonic()
    seen = asyncio.run(_watch_runs(stack, crew, n, random.Random(seed)))
    lost = doubled = events = disordered = 0
    wrong: list[str] = []
    for execution, watcher in seen.items():
        stored = stack.events_of(execution)
        events += len(stored)
        lost += len({seq for seq, _ in stored} - set(watcher.seqs))
        doubled += len(watcher.seqs) - len(set(watcher.seqs))
        disordered += watcher.seqs != sorted(watcher.seqs)
        if [seq for seq, _ in stored] != list(range(1, len(stored) + 1)):
            wrong.append(f"{execution}: the database has gaps")
        if dict(zip(watcher.seqs, watcher.types, strict=True)) != dict(stored):
            wrong.append(f"{execution}: the watcher saw other events than are stored")
        wrong += [f"{execution}: {what}" for what in watcher.wrong]
    cuts = sum(watcher.cuts for watcher in seen.values())
    return {
        "name": "reconnects",
        "n": cuts,
        "seed": seed,
        "runs": len(seen),
        "events": events,
        "deltas": sum(watcher.deltas for watcher in seen.values()),
        "lost": lost,
        "doubled": doubled,
        "disordered": disordered,
        "wrong": wrong[:20],
        "seconds": round(time.monotonic() - began, 1),
        "ok": cuts >= n and events > 0 and not (lost or doubled or disordered or wrong),
    }


async def _watch_runs(stack: Stack, crew: str, n: int, chance: random.Random) -> dict[str, Seen]:
    """Runs follow one another, `AT_ONCE` side by side, each with its watcher, until `n` cuts were made."""
    seen: dict[str, Seen] = {}
    stack.client()

    async def keep_watching() -> None:
        while sum(watcher.cuts for watcher in seen.values()) < n:
            execution = await asyncio.to_thread(stack.kickoff, crew)
            seen[execution] = Seen()
            await _watch(stack, execution, seen[execution], chance)

    await asyncio.gather(*(keep_watching() for _ in range(AT_ONCE)))
    return seen


async def _watch(stack: Stack, execution: str, seen: Seen, chance: random.Random) -> None:
    """Until the run's last event: connect after what was seen, look for a moment, cut."""
    end = time.monotonic() + DEADLINE * 2
    while not (seen.types and seen.types[-1] in END):
        if time.monotonic() > end:
            seen.wrong.append("its last event never came")
            return
        url, headers = stack.socket(execution, seen.last)
        async with connect(url, additional_headers=headers, open_timeout=DEADLINE, max_size=None) as socket:
            texts: dict[str, int] = {}
            try:
                async with asyncio.timeout(chance.uniform(0.01, LONGEST_LOOK)):
                    async for frame in socket:
                        _take(json.loads(frame), seen, texts)
            except TimeoutError:
                seen.cuts += 1
                if chance.random() < 0.5:
                    socket.transport.abort()  # as a lost network does; else with a goodbye
            except ConnectionClosed as exc:
                seen.wrong.append(f"the portal broke the connection: {exc}")


def _take(event: dict[str, Any], seen: Seen, texts: dict[str, int]) -> None:
    if event["type"] == "llm.delta":
        seen.deltas += 1
        call, offset, text = (event["data"][name] for name in ("call", "offset", "text"))
        if offset != texts.get(call, 0):
            seen.wrong.append(f"text of call {call} goes on at {offset} after {texts.get(call, 0)}")
        texts[call] = offset + len(text)
    else:
        seen.seqs.append(event["seq"])
        seen.types.append(event["type"])
