"""Asking a question as somebody, through all of Django, and comparing the answer with what was expected.

Requests go to Django's handler with the whole middleware and no test client around it, each in a
savepoint that is rolled back: one world serves every question. What a request writes is watched, so
that a refusal that has changed something is found where it happens.
"""

import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from django.apps import apps
from django.core.handlers.base import BaseHandler
from django.core.handlers.wsgi import WSGIRequest
from django.core.signals import got_request_exception
from django.db import connection, transaction
from django.test.client import FakePayload
from django.urls import reverse

from tests.matrix import rules
from tests.matrix.people import EVERYBODY, Who
from tests.matrix.rules import ALLOWED, FORBIDDEN, HIDDEN, METHODS, SAFE, SCOPE, STRANGER, UNSERVED, Cell, Route
from tests.matrix.things import KNOWN, SIDES, World

# A refused request may leave these: that it was refused, how often, and that somebody was seen.
MAY_BE_WRITTEN = {"accounts_auditentry", "accounts_audithead", "accounts_ratewindow", "accounts_session"}
_WRITES = re.compile(r'^\s*(?:INSERT INTO|UPDATE|DELETE FROM)\s+"?(\w+)"?', re.IGNORECASE)
_VARYING = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    r'|nonce="[^"]*"|csrfmiddlewaretoken"[^>]*|X-CSRFToken[^}]*'
)


# Where who may not enter a page is led.
ELSEWHERE = ("/sign-in", "/admin/login")


@dataclass
class Answer:
    status: int
    body: str
    location: str = ""
    wrote: list[str] = field(default_factory=list)
    fault: str = ""

    @property
    def code(self) -> str:
        """Of a problem document."""
        try:
            return str(json.loads(self.body).get("code", ""))
        except (ValueError, AttributeError):
            return ""


@dataclass
class Findings:
    """How many cells were asked, and those where something else came than was expected."""

    cells: int = 0
    wrong: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)


class Asker:
    """Asks one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.load()
        self._wrote: list[str] = []
        self._fault = ""

    def load(self) -> None:
        """Build the middleware anew, as its classes are now."""
        self._handler = BaseHandler()
        self._handler.load_middleware()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While it is open, writes and exceptions are noticed."""
        got_request_exception.connect(self._remember)
        try:
            with connection.execute_wrapper(self._watch):
                yield
        finally:
            got_request_exception.disconnect(self._remember)

    def _remember(self, **_: Any) -> None:
        import sys
        import traceback

        self._fault = "".join(traceback.format_exception(*sys.exc_info())[-3:])

    def _watch(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        found = _WRITES.match(sql)
        # That a key was used is kept of each use, also of one that is refused later.
        if found and found[1] not in MAY_BE_WRITTEN and not (found[1] == "accounts_apikey" and "last_used_at" in sql):
            self._wrote.append(sql[:200])
        return execute(sql, params, many, context)

    # --- One question ------------------------------------------------------------------------------

    def ask(self, address: str, method: str, who: Who, *, body: Any = None, form: bool, csrf: bool = True) -> Answer:
        """What `who` gets. `csrf`: whether a browser's proof comes with it; programs never send one."""
        self._wrote, self._fault = [], ""
        request = WSGIRequest(self._environ(address, method, who, body, form))
        if csrf and (form or "session" in who.shows or who.with_cookie or who.shows == "nothing"):
            request._dont_enforce_csrf_checks = True  # type: ignore[attr-defined]
        before = connection.savepoint_ids[:]
        with transaction.atomic():
            response = self._handler.get_response(request)
            wrote = self._wrote
            if wrote and response.status_code >= 400:
                # What was written may have been taken back by the view itself: the tables tell.
                wrote = self._changes(wrote)
            transaction.set_rollback(True)
        assert connection.savepoint_ids == before
        text = "" if response.streaming else response.content.decode(errors="replace")
        return Answer(response.status_code, text, response.headers.get("Location", ""), wrote, self._fault)

    def _environ(self, address: str, method: str, who: Who, body: Any, form: bool) -> dict[str, Any]:
        path, _, query = address.partition("?")
        payload, kind = b"", ""
        if method not in SAFE:
            payload = (
                urlencode(body or {}, doseq=True).encode()
                if form
                else json.dumps(body if body is not None else {}).encode()
            )
            kind = "application/x-www-form-urlencoded" if form else "application/json"
        return {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "SCRIPT_NAME": "",
            "QUERY_STRING": query,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "8000",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
            "CONTENT_TYPE": kind,
            "CONTENT_LENGTH": str(len(payload)),
            "wsgi.url_scheme": "http",
            "wsgi.input": FakePayload(payload),
            "wsgi.errors": io.StringIO(),
            "wsgi.multiprocess": True,
            "wsgi.multithread": False,
            "wsgi.run_once": False,
            **self.world.headers_of(who),
        }

    # --- What a refusal has changed -------------------------------------------------------------------

    def remember_tables(self) -> None:
        """Note what stands in every table now; refusals are held against it."""
        self._tables = _digests()

    def _changes(self, wrote: list[str]) -> list[str]:
        now = _digests()
        return wrote if any(now[table] != self._tables[table] for table in now) else []

    @contextmanager
    def more_of_others(self) -> Iterator[None]:
        """While it is open, somebody has one private crew more with its runs, and a run of the shared one."""
        with transaction.atomic():
            self.world.fill_one_more()
            yield
            transaction.set_rollback(True)

    # --- A row of the table -----------------------------------------------------------------------------

    def address(self, name: str, route: Route, cell: Cell | None, thing: str) -> str:
        parts = self.world.parts(route.path.values(), thing) if thing else {}
        values = {key: parts[part] if part in parts else self.world.fixed(part) for key, part in route.path.items()}
        path = _filled(name, values) if name.startswith("/") else reverse(name, kwargs=values)
        return path + (f"?{cell.query.format(**parts)}" if cell and cell.query else "")

    def row(self, name: str, route: Route, *, everything: bool, first_only: bool = False) -> Findings:
        """Ask all that there is to ask about a route; `first_only`: until something is wrong."""
        found = Findings()
        for method, who, thing in questions(route, everything):
            found.cells += 1
            self._judge(found, name, route, method, who, thing)
            if first_only and found.wrong:
                return found
        self._same_when_hidden(found, name, route)
        self._needs_proof(found, name, route)
        return found

    def _judge(self, found: Findings, name: str, route: Route, method: str, who: Who, thing: str) -> None:
        cell = route.cell(method)
        on_page = route.kind != "api"
        address = self.address(name, route, cell, thing)
        answer = self.ask(address, method, who, body=cell.body if cell else None, form=on_page)
        role = who.acts_on_pages_as if on_page else who.acts_as
        person = who.person if role != "public" else None
        wanted = rules.expected(route, method, who, self._level(route, cell, thing, person, role))
        found.outcomes[wanted] += 1
        for fault in self._faults(route, cell, answer, wanted, method, address, person, role):
            found.wrong.append(f"{who.name}: {method} {address} ({thing or 'no thing'}; {wanted}): {fault}")

    def _level(self, route: Route, cell: Cell | None, thing: str, person: str | None, role: str) -> str | None:
        if thing in {"", "missing", "crossed"}:
            return None
        if thing == "there":
            return "owner"
        sides = (cell.side if cell and cell.side else rules_side(route)).split("+")
        levels = [self.world.things[thing].level(side, person, role) for side in sides]
        return min(levels, key=("", "viewer", "self", "editor", "owner").index)

    def _faults(
        self, route: Route, cell: Cell | None, answer: Answer, wanted: str, method: str, address: str,
        person: str | None, role: str,
    ) -> Iterator[str]:  # fmt: skip
        status = answer.status
        if status >= 500:
            yield f"failed: {answer.fault or status}"
            return
        if wanted == ALLOWED:
            assert cell is not None
            is_led_away = answer.location.startswith(ELSEWHERE) and cell.role != "public"
            if status not in cell.ok or is_led_away:
                said = answer.body[:300] if status >= 400 else answer.location
                yield f"{status} {answer.code}, and {cell.ok} was expected {said}"
            elif status < 400 and method != "HEAD":
                yield from self._list_faults(cell, answer, person, role)
        else:
            if not self._is_refused(route, wanted, answer, method):
                yield f"{status} {answer.code} {answer.location}"
            if answer.wrote and wanted != UNSERVED:
                yield f"was refused and wrote: {answer.wrote}"
        if not route.is_secret and (leaked := set(KNOWN.findall(answer.body)) & self.unseen(address, person, role)):
            yield f"shows what may not be seen: {sorted(leaked)}"

    def unseen(self, address: str, person: str | None, role: str) -> set[str]:
        """What is hidden from somebody, without what stands in the address itself."""
        return set(self.world.hidden_from(person, role)) - set(KNOWN.findall(address))

    def _is_refused(self, route: Route, wanted: str, answer: Answer, method: str) -> bool:
        status = answer.status
        if wanted == STRANGER:
            if route.kind != "api":
                return status == 302 and answer.location.startswith(ELSEWHERE)
            return status == 401
        if wanted == SCOPE:
            return status == 403 and (answer.code == "scope_missing" or method == "HEAD")
        if route.kind == "page" and method == "HEAD" and status == 405 and wanted in {HIDDEN, FORBIDDEN}:
            return True  # few pages serve it
        if wanted == FORBIDDEN:
            # Django admin leads to its own sign-in first, which says 403.
            return status == 403 or (route.kind == "admin" and status == 302 and answer.location.startswith(ELSEWHERE))
        if wanted == HIDDEN:
            return status == route.hidden
        assert wanted == UNSERVED
        if route.kind == "admin":
            return status < 500
        return status in {403, 405}

    def _list_faults(self, cell: Cell, answer: Answer, person: str | None, role: str) -> Iterator[str]:
        seen = set(KNOWN.findall(answer.body))
        for kind in cell.lists:
            shown, visible = seen & self.world.all_of(kind), self.world.visible(kind, person, role, cell.listed)
            if shown != visible:
                yield f"lists {len(shown)} of {kind}, and {len(visible)} may be seen"

    def _same_when_hidden(self, found: Findings, name: str, route: Route) -> None:
        """What is hidden answers with the very words of what is missing, by every method that is served."""
        if "private" not in route.things:
            return
        who = next(who for who in EVERYBODY if self._is_hidden_from(route, who))
        for method in (*route.cells, *(["OPTIONS"] if route.kind == "api" else [])):
            found.cells += 1
            cell = route.cell(method)
            hidden, missing = (
                self.ask(
                    self.address(name, route, cell, thing), method, who,
                    body=cell.body if cell else None, form=route.kind != "api",
                )
                for thing in ("private", "missing")
            )  # fmt: skip
            if (hidden.status, plain(hidden.body)) != (missing.status, plain(missing.body)):
                found.wrong.append(f"{method} {name}: hidden ({hidden.status}) and missing ({missing.status}) differ")

    def _is_hidden_from(self, route: Route, who: Who) -> bool:
        """Whether somebody, signed in and with every role but admin, sees nothing of the private thing."""
        level = self._level(route, next(iter(route.cells.values())), "private", who.person, who.role)
        return who.shows == "session" and who.role == "user" and not level

    def _needs_proof(self, found: Findings, name: str, route: Route) -> None:
        """What changes something takes a session only with the proof that the page is ours (CSRF)."""
        for method, cell in route.cells.items():
            if method in SAFE or not route.csrf:
                continue
            found.cells += 1
            who = next(who for who in EVERYBODY if who.name == "admin")
            thing = next(iter(route.things), "")
            address = self.address(name, route, cell, thing)
            answer = self.ask(address, method, who, body=cell.body, form=route.kind != "api", csrf=False)
            if answer.status != 403:
                found.wrong.append(f"{method} {address}: {answer.status} without the proof of a page of ours")
            if answer.wrote:
                found.wrong.append(f"{method} {address}: refused without proof, and wrote {answer.wrote}")


def _filled(address: str, values: dict[str, Any]) -> str:
    """The address of a route without a name."""
    for key, value in values.items():
        address = re.sub(rf"<\w+:{key}>|\(\?P<{key}>[^)]*\)\$?", str(value), address)
    return address


def rules_side(route: Route) -> str:
    """Whose access list decides: a run's or a project's where the address names one."""
    named = set(route.path.values())
    return next((side for side in ("run", "project") if named & set(SIDES[side])), "crew")


# In the quick suite: one's own and another's for everybody, and the rest for those to whom it makes a difference.
_TELLING = {
    "shared": {"viewer", "other user"},
    "granted": {"editor", "reader", "viewer made editor", "other user"},
    "viewer's own": {"viewer"},
    "missing": {"viewer", "other user", "admin"},
    "crossed": {"user", "admin"},
}
# HEAD is GET without its text, and what is not served has nothing to give: few ask for them there.
_FEW = {"anonymous", "viewer", "user", "other user", "admin", "key: read", "revoked key, good session"}
# Django admin looks at sessions and roles alone, in one place: of those who show something else, few ask.
_AT_ADMIN = {"anonymous", "admin's key: admin", "admin's bearer", "inactive: session", "name and password"}


def questions(route: Route, everything: bool) -> Iterable[tuple[str, Who, str]]:
    """The cells of a route: method, who asks, on what; those of the quick suite, or everything."""
    served = [method for method in METHODS if route.cell(method)]
    others = [method for method in METHODS if method not in served]
    things = route.things or ("",)
    for method in served:
        for who in EVERYBODY:
            if everything or _is_asked(route, method, who):
                yield from ((method, who, thing) for thing in things if everything or _tells(route, who, thing))
    # Django admin serves every method in some way.
    for method in others if everything else others[: 0 if route.kind == "admin" else 1]:
        yield from ((method, who, things[0]) for who in EVERYBODY if everything or who.name in _FEW)


def _is_asked(route: Route, method: str, who: Who) -> bool:
    if route.kind == "admin":
        return who.acts_on_pages_as != "public" or who.name in _AT_ADMIN
    return method != "HEAD" or who.name in _FEW


def _tells(route: Route, who: Who, thing: str) -> bool:
    is_nobody = not who.is_good if route.kind == "api" else who.acts_on_pages_as == "public"
    if not route.things or thing == route.things[0]:
        return True
    return not is_nobody and who.name in _TELLING.get(thing, {who.name})


def plain(body: str) -> str:
    """A page or document without what differs from one answer to the next."""
    return _VARYING.sub("", body)


def _digests() -> dict[str, int]:
    found = {}
    with connection.cursor() as cursor:
        for model in apps.get_models():
            table = model._meta.db_table
            if table not in MAY_BE_WRITTEN and table != "accounts_apikey":
                cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")  # noqa: S608 - our own tables
                found[table] = hash(tuple(sorted(map(repr, cursor.fetchall()))))
    return found
