"""Lists, their counts, searches, orders, filters and cursors, and pages: nothing of what may not be seen."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import time_machine
from django.utils import timezone

from tests.matrix.asking import Asker, plain
from tests.matrix.people import EVERYBODY, Who
from tests.matrix.probes import probe
from tests.matrix.things import KNOWN, Thing

STOP_ALL = "/runs/stop-all"
PAGES = (
    "/",
    "/runs",
    "/crews",
    "/approvals",
    "/runs/compare",
    STOP_ALL,
    "/crews/{crew}",
    "/projects",
    "/templates",
    "/metagpt",
)
# Keys differ in what they may do, and here all of them read: one of a user's and one of an admin's are enough.
_LIKE_OTHERS = {"key: run", "key: write", "key: run and write", "key: admin", "admin's key: write"}
PEOPLE = [who for who in EVERYBODY if who.is_good and who.name not in _LIKE_OTHERS]
ON_PAGES = [who for who in PEOPLE if who.shows == "session"]


@dataclass(frozen=True)
class Listed:
    """A list of the API: where it is, the part of things whose ids it shows, and what it can be asked."""

    address: str
    parts: tuple[str, ...]
    filters: tuple[tuple[str, str], ...] = ()  # parameter → the part of a thing that it takes
    orderings: tuple[str, ...] = ()
    search: str = ""  # before the mark of a thing


LISTS = [
    Listed(
        "/api/crews",
        ("crew",),
        (("agent_id", "agent"), ("owner_id", "person"), ("name", "crew name")),
        ("name", "-created_at"),
        "zqcrew",
    ),
    Listed(
        "/api/agents", ("agent",), (("crew_id", "crew"), ("owner_id", "person")), ("role", "-updated_at"), "zqagent"
    ),
    Listed("/api/tasks", ("task",), (("crew_id", "crew"), ("agent_id", "agent")), ("name", "-name"), "zqtask"),
    Listed(
        "/api/executions",
        ("run", "waiting"),
        (("crew_id", "crew"), ("created_by", "person")),
        ("name", "-cost_usd"),
        "zqrun",
    ),
]


def rows_of(asker: Asker, who: Who, address: str, **query: Any) -> dict[str, Any]:
    answer = asker.ask(f"{address}?{urlencode(query)}", "GET", who, form=False)
    assert answer.status == 200, (who.name, address, query, answer.body[:300])
    return dict(json.loads(answer.body))


def known(asker: Asker, parts: tuple[str, ...], found: dict[str, Any]) -> set[str]:
    """The ids of the world's things among the results."""
    every = set().union(*(asker.world.all_of(part) for part in parts))
    return {str(row["id"]) for row in found["results"]} & every


def visible(asker: Asker, parts: tuple[str, ...], who: Who) -> set[str]:
    return set().union(*(asker.world.visible(part, who.person, who.acts_as) for part in parts))


def owned(asker: Asker) -> list[Thing]:
    return [thing for thing in asker.world.things.values() if thing.owner]


@probe(*LISTS)
def a_list_holds_what_may_be_seen(asker: Asker, listed: Listed) -> None:
    for who in PEOPLE:
        seen = visible(asker, listed.parts, who)
        found = rows_of(asker, who, listed.address, count=1, page_size=100)
        assert known(asker, listed.parts, found) == seen, who.name
        assert found["count"] == len(found["results"]), who.name
        for ordering in listed.orderings:
            assert known(asker, listed.parts, rows_of(asker, who, listed.address, ordering=ordering)) == seen, who.name
        few = rows_of(asker, who, listed.address, page_size=1, count=1)
        assert few["count"] == found["count"]
        assert (few["next"] is None) == (found["count"] <= 1), who.name


@probe(*LISTS)
def searches_and_filters_find_no_more(asker: Asker, listed: Listed) -> None:
    for who in PEOPLE:
        seen = visible(asker, listed.parts, who)
        for thing in owned(asker):
            own = {str(thing.parts[part]) for part in listed.parts}
            searched = rows_of(asker, who, listed.address, search=f"{listed.search}{thing.mark}", count=1)
            assert {str(row["id"]) for row in searched["results"]} <= own & seen, (who.name, thing.name)
            assert searched["count"] == len(searched["results"]), (who.name, thing.name)
            for name, part in listed.filters:
                value = f"zqcrew{thing.mark}" if part == "crew name" else thing.parts[part]
                filtered = rows_of(asker, who, listed.address, **{name: value, "count": 1})
                assert known(asker, listed.parts, filtered) <= seen, (who.name, thing.name, name)
                assert filtered["count"] == len(filtered["results"]), (who.name, thing.name, name)
                if not own & seen and part != "person":
                    assert not filtered["results"], (who.name, thing.name, name)


@probe(*LISTS)
def anothers_cursor_opens_nothing(asker: Asker, listed: Listed) -> None:
    admin = next(who for who in PEOPLE if who.name == "admin")
    for who in PEOPLE:
        if who.acts_as == "admin":
            continue
        seen = visible(asker, listed.parts, who)
        for address in cursors(asker, admin, listed.address):
            answer = asker.ask(address, "GET", who, form=False)
            assert answer.status in {200, 400}
            if answer.status == 200:
                assert known(asker, listed.parts, json.loads(answer.body)) <= seen, (who.name, address)


def cursors(asker: Asker, who: Who, address: str) -> Iterator[str]:
    """The addresses of all further pages of a list, as somebody sees it."""
    page = rows_of(asker, who, address, page_size=2)
    while page["next"]:
        further = re.sub(r"^https?://[^/]+", "", page["next"])
        yield further
        page = json.loads(asker.ask(further, "GET", who, form=False).body)


@probe()
def lists_of_a_crew_hold_what_may_be_seen(asker: Asker) -> None:
    for who in PEOPLE:
        for thing in owned(asker):
            if not thing.level("crew", who.person, who.acts_as):
                continue
            found = rows_of(asker, who, f"/api/crews/{thing.parts['crew']}/executions", count=1)
            runs = {str(thing.parts[part]) for part in ("run", "waiting")}
            wanted = runs if thing.level("run", who.person, who.acts_as) else set()
            assert known(asker, ("run", "waiting"), found) == wanted, (who.name, thing.name)
            assert found["count"] == len(found["results"])
            address = f"/api/crews/{thing.parts['crew']}/estimate"
            estimate = json.loads(asker.ask(address, "GET", who, form=False).body)
            assert estimate["runs"] == (1 if wanted else 0), (who.name, thing.name)


@probe()
def questions_are_listed_to_who_may_answer_them(asker: Asker) -> None:
    for who in PEOPLE:
        found = rows_of(asker, who, "/api/approvals", count=1)
        may = {
            str(thing.parts["approval"])
            for thing in owned(asker)
            if who.has_role("user") and thing.level("run", who.person, who.acts_as) in {"owner", "editor"}
        }
        assert {str(row["id"]) for row in found["results"]} == may, who.name
        assert found["count"] == len(may), who.name
        for thing in owned(asker):
            one = rows_of(asker, who, "/api/approvals", execution_id=thing.parts["waiting"])
            assert len(one["results"]) == (str(thing.parts["approval"]) in may), (who.name, thing.name)


@probe()
def tasks_tell_no_status_of_runs_that_may_not_be_seen(asker: Asker) -> None:
    for who in PEOPLE:
        for thing in owned(asker):
            if thing.level("crew", who.person, who.acts_as) and not thing.level("run", who.person, who.acts_as):
                answer = asker.ask(f"/api/tasks/{thing.parts['task']}", "GET", who, form=False)
                assert json.loads(answer.body)["status"] is None, (who.name, thing.name)


@probe(*PAGES)
def pages_do_not_change_with_what_may_not_be_seen(asker: Asker, address: str) -> None:
    """A page that looks other to somebody once strangers have more would tell of it."""
    parts = asker.world.things["shared"].parts
    with time_machine.travel(timezone.now(), tick=False):  # how long something has been running is seen too
        for who in ON_PAGES:
            if who.role == "admin" or (address == STOP_ALL and who.role == "viewer"):
                continue
            before = _page(asker, address.format(**parts), who)
            with asker.more_of_others():
                assert _page(asker, address.format(**parts), who) == before, (who.name, address)


def _page(asker: Asker, address: str, who: Who) -> str:
    answer = asker.ask(address, "GET", who, form=True)
    assert answer.status == 200, (address, who.name, answer.status)
    shown = set(KNOWN.findall(answer.body)) & asker.unseen(address, who.person, who.acts_as)
    assert not shown, (address, who.name, shown)
    return plain(answer.body)


@probe()
def who_may_stop_nothing_is_not_offered_to(asker: Asker) -> None:
    for who in ON_PAGES:
        may = bool(asker.world.visible("waiting", who.person, who.acts_as, "editable"))
        assert (STOP_ALL in asker.ask("/runs", "GET", who, form=True).body) == may, who.name
