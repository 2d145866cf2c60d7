"""How a row of the table reads, and what follows from it for one question. From SPEC, "Who may do what"."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.matrix.people import RANKS, Who

SAFE = ("GET", "HEAD", "OPTIONS")
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")

# What a question can come to.
STRANGER = "is nobody here"  # 401; pages lead to the sign-in
FORBIDDEN = "may not do this"  # 403
SCOPE = "has no such scope"  # 403, `scope_missing`
HIDDEN = "sees no such thing"  # 404
UNSERVED = "finds no such method"  # 405, or 403 for whom the route is not
ALLOWED = "may"


@dataclass(frozen=True)
class Cell:
    """What one method of a route asks for, and how one sees that somebody got through.

    `ok`: the statuses that only come once permission was given; a 400 is of a body that is looked at
    after that, a 409 of a thing that is in no state for it. `action` is on the thing of the address.
    `lists`: kinds of things of which exactly those that are visible stand in the answer.
    """

    role: str = "viewer"
    action: str = ""
    ok: tuple[int, ...] = (200,)
    scope: str = ""
    body: Any = None
    query: str = ""
    lists: tuple[str, ...] = ()
    side: str = ""
    is_blind: bool = False  # answers alike whether there is such a thing
    listed: str = ""  # whose lists they are, where the usual side does not tell

    def scope_for(self, method: str) -> str:
        """The scope that an API key needs."""
        if self.role == "admin":
            return "admin"
        return self.scope or ("read" if method in SAFE else "write")


@dataclass(frozen=True)
class Route:
    """A row of the table. `path` says which part of a thing stands for each parameter of the address."""

    kind: str  # page, api, admin
    cells: Mapping[str, Cell]
    path: Mapping[str, str] = field(default_factory=dict)
    things: tuple[str, ...] = ()  # on which it is asked; empty: it is about no thing
    hidden: int = 404
    is_secret: bool = False  # whoever knows the address may see what it shows
    csrf: bool = True  # a session needs the token for what changes

    @property
    def least_role(self) -> str:
        """What any method asks for, whether it is served or not."""
        if any(cell.role == "public" for cell in self.cells.values()):
            return "public"
        return "admin" if self.kind == "admin" else "viewer"

    def cell(self, method: str) -> Cell | None:
        """What `method` asks for; None where the route does not serve it."""
        if method in self.cells:
            return self.cells[method]
        if method == "HEAD" and "GET" in self.cells:
            read = self.cells["GET"]
            return read if self.kind == "api" else replace(read, ok=(*read.ok, 405))  # few pages serve it
        return None


def may(role: str, level: str, action: str) -> bool:
    """Whether somebody with `role` who is `level` to a thing may do `action` with it.

    Levels: owner, editor, viewer, self (a member, of the very membership that is asked about), "" (nobody).
    """
    if not level:
        return False
    if action == "see" or (action == "leave" and level == "self") or (action == "take back" and level == "owner"):
        return True
    if RANKS[role] < RANKS["user"]:
        return False
    if action == "run":
        return True
    if action in {"change", "stop", "answer"}:
        return level in {"owner", "editor"}
    if action in {"delete", "share", "leave", "take back"}:
        return level == "owner"
    raise ValueError(action)


def expected(route: Route, method: str, who: Who, level: str | None) -> str:
    """What `who` has to find out; `level` is what they are to the thing, None when there is no thing to find.

    A route that is about no thing takes any level.
    """
    cell = route.cell(method)
    on_page = route.kind != "api"
    role = who.acts_on_pages_as if on_page else who.acts_as
    needed = cell.role if cell else route.least_role
    if role == "public" and needed != "public":
        return STRANGER
    if not on_page and who.shows not in {"nothing", "session"} and not who.is_good:
        return STRANGER  # whatever is shown and refused is the end, also where nothing is needed
    if cell is None:
        is_kept_out = route.kind == "admin" and role != "admin" and route.least_role == "admin"
        return FORBIDDEN if is_kept_out else UNSERVED
    if not on_page and needed != "public" and not who.has_scope(cell.scope_for(method)):
        return SCOPE
    if RANKS[role] < RANKS[needed]:
        return FORBIDDEN
    if not route.things or cell.is_blind:
        return ALLOWED
    if level is None or (cell.action and not may(role, level, "see")):
        return HIDDEN
    if cell.action and not may(role, level, cell.action):
        return FORBIDDEN
    return ALLOWED


def page(path: Mapping[str, str] | None = None, **rest: Any) -> Route:
    """A row for a page; methods by name: `GET=Cell(…)`."""
    return _route("page", path, rest)


def api(path: Mapping[str, str] | None = None, **rest: Any) -> Route:
    """A row for a route of the API."""
    return _route("api", path, rest)


def admin(path: Mapping[str, str] | None = None, **rest: Any) -> Route:
    """A row for a page of Django admin, which serves any method in some way."""
    return _route("admin", path, {"things": (), **rest})


THINGS = ("own", "viewer's own", "shared", "granted", "private", "missing")
CROSSED = "crossed"  # the part of another thing under one's own
CATALOG = ("there", "missing")
# Parts that are no person's.
OF_ALL = {
    "provider",
    "model",
    "tool",
    "budget",
    "spare",
    "service",
    "identity",
    "spare_key",
    "spare_session",
    "entry",
    "row",
}


def _route(kind: str, path: Mapping[str, str] | None, rest: dict[str, Any]) -> Route:
    cells = {name: rest.pop(name) for name in METHODS if name in rest}
    path = path or {}
    if path and "things" not in rest:
        of_catalog = set(path.values()) <= OF_ALL
        rest["things"] = CATALOG if of_catalog else (*THINGS, *([CROSSED] if len(path) > 1 else []))
    return Route(kind, cells, path, **rest)
