"""The proof that the matrix sees: one guard after the other is taken away, and some cell has to turn wrong.

Three kinds of mutants. *Declarations*: each route's least role, scope and permission class. *Call sites*: each
place that asks `find`, `require`, `visible_to`… stops asking, found in the source and told apart by the line it
stands on. *Rules*: what all of them rest on. A mutant that nobody notices is a hole in the matrix.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from django.http import Http404

from portal.accounts import permissions
from portal.accounts.models import AccessQuerySet, Role, Scope
from portal.accounts.permissions import PUBLIC, Action
from tests.matrix import deep, deep_projects, lists  # noqa: F401 - they fill PROBES
from tests.matrix.asking import Asker
from tests.matrix.probes import PROBES
from tests.matrix.table import ROUTES
from tests.matrix.walk import Found, http_routes

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("portal", "crews", "executions", "projects")
# Those that look for something by these names themselves, and no rows of a person.
_NOT_OURS = {"portal/accounts/permissions.py", "portal/accounts/models/access.py"}
_LOWER = {Role.ADMIN: [Role.USER, PUBLIC], Role.USER: [Role.VIEWER, PUBLIC], Role.VIEWER: [PUBLIC]}

Patch = pytest.MonkeyPatch
# In the place of a field of a model: it says yes, whatever the row holds.
ALWAYS = property(lambda row: True, lambda row, value: None)


@dataclass(frozen=True)
class Mutant:
    """A guard taken away. `routes`: the rows and probes of which one has to notice."""

    name: str
    apply: Callable[[Patch], None]
    routes: tuple[str, ...]


@dataclass
class Report:
    killed: list[str] = field(default_factory=list)
    survived: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{len(self.killed)} killed, {len(self.survived)} survived"]
        return "\n".join([*lines, *(f"  survived: {name}" for name in self.survived)])


def prove(asker: Asker, mutants: list[Mutant]) -> Report:
    """Apply each mutant alone, and ask the routes until something is wrong."""
    report = Report()
    for mutant in mutants:
        with pytest.MonkeyPatch.context() as patch:
            mutant.apply(patch)
            asker.load()
            found = any(_notices(asker, name) for name in mutant.routes)
        (report.killed if found else report.survived).append(mutant.name)
    asker.load()
    return report


def _notices(asker: Asker, name: str) -> bool:
    """Whether a row of the table, or a probe, turns out wrong."""
    if name in ROUTES:
        return bool(asker.row(name, ROUTES[name], everything=False, first_only=True).wrong)
    try:
        PROBES[name](asker)
    except (Exception, pytest.fail.Exception):  # noqa: BLE001 - what is weakened may fail in any way
        return True
    return False


# --- Declarations -------------------------------------------------------------------------------------


def declarations() -> list[Mutant]:
    """Each route with less asked of who comes."""
    return [mutant for route in http_routes() if route.name in ROUTES for mutant in _of_route(route)]


def _of_route(route: Found) -> Iterator[Mutant]:
    cls = getattr(route.view, "cls", None)
    if ROUTES[route.name].kind == "admin":
        if route.name not in {"admin:login", "admin:logout"}:
            yield Mutant(f"{route.name}: for everybody", _open_admin, (route.name,))
    elif cls is None:
        for lower in _LOWER.get(getattr(route.view, "portal_access", None), []):
            yield _setting(route, route.view, "portal_access", lower)
    else:
        yield from _of_api(route, cls)


def _of_api(route: Found, cls: Any) -> Iterator[Mutant]:
    served = {method.upper() for method in getattr(route.view, "actions", None) or _handlers(cls)}
    actions = set((getattr(route.view, "actions", None) or {}).values())
    yield _setting(route, cls, "permission_classes", [])
    for kind, methods in (("read", {"GET"}), ("write", served - {"GET", "HEAD", "OPTIONS"})):
        if not methods & served:
            continue
        role = getattr(cls, f"{kind}_role")
        for lower in _LOWER.get(role, []):
            yield _setting(route, cls, f"{kind}_role", lower)
        # Admins' routes need the scope `admin` by their role, and a key without it is no admin either.
        if role != Role.ADMIN and kind == "write":
            named = {name: scope for name, scope in getattr(cls, "action_scopes", {}).items() if name in actions}
            for name in named:
                yield _setting(route, cls, "action_scopes", {**cls.action_scopes, name: Scope.READ})
            if not actions or actions - set(named):
                yield _setting(route, cls, "write_scope", Scope.READ)


def _handlers(cls: Any) -> list[str]:
    return [name for name in ("get", "post", "put", "patch", "delete") if hasattr(cls, name)]


def _setting(route: Found, target: Any, name: str, value: Any) -> Mutant:
    return Mutant(
        f"{route.name}: {name} = {value!s}",
        lambda patch: patch.setattr(target, name, value, raising=False),
        (route.name,),
    )


def _open_admin(patch: Patch) -> None:
    from portal.site.admin_site import PortalAdminSite

    patch.setattr(PortalAdminSite, "has_permission", lambda self, request: True)


# --- Call sites ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """A place in the source that asks, within a function; a call may go over several lines."""

    asked: str
    file: str
    within: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.file} {self.within}: {self.asked}"


@cache
def call_sites() -> tuple[Site, ...]:
    """Every call of what settles who may do what, in the code of the portal."""
    return tuple(site for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")) for site in _in(path))


def _in(path: Path) -> Iterator[Site]:
    file = path.relative_to(ROOT).as_posix()
    if file in _NOT_OURS or "migrations" in path.parts:
        return
    yield from _calls(ast.parse(path.read_text()), file, "")


def _calls(node: ast.AST, file: str, within: str) -> Iterator[Site]:
    for child in ast.iter_child_nodes(node):
        is_named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        inside = f"{within}.{child.name}".lstrip(".") if is_named else within
        if isinstance(child, ast.Call) and (asked := _asked_by(child.func)):
            yield Site(asked, file, inside, child.lineno, child.end_lineno or child.lineno)
        yield from _calls(child, file, inside)


def _asked_by(function: ast.expr) -> str:
    """What a call asks; empty for any other call."""
    if isinstance(function, ast.Attribute) and function.attr in {"visible_to", "editable_by"}:
        return function.attr
    return function.id if isinstance(function, ast.Name) and function.id in {"find", "require", "require_role"} else ""


def _site_of(frame: FrameType | None, asked: str) -> Site | None:
    """The call site below which `frame` runs; managers stand in between."""
    for _ in range(4):
        if frame is None:
            return None
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and "site-packages" not in path.parts:
            file = path.relative_to(ROOT).as_posix()
            if file not in _NOT_OURS:
                line = frame.f_lineno
                lines = (site for site in call_sites() if site.asked == asked and site.file == file)
                return next((site for site in lines if site.first <= line <= site.last), None)
        frame = frame.f_back
    return None


Instead = Callable[..., Any]


def _exchange(patch: Patch, made: Callable[[str, Instead], Instead]) -> None:
    """Put `made(name, original)` in the place of what is asked, wherever it was imported to."""
    for name in ("find", "require", "require_role"):
        original = getattr(permissions, name)
        instead = made(name, original)
        for module in list(sys.modules.values()):
            if getattr(module, "__name__", "").partition(".")[0] in PACKAGES and module.__dict__.get(name) is original:
                patch.setattr(module, name, instead)
    for name in ("visible_to", "editable_by"):
        for cls in (AccessQuerySet, *AccessQuerySet.__subclasses__()):
            if name in vars(cls):
                patch.setattr(cls, name, made(name, vars(cls)[name]))


@dataclass
class Visits:
    """Who comes to a call site, and what is asked for there."""

    names: set[str] = field(default_factory=set)
    actions: set[Action] = field(default_factory=set)


def reached(asker: Asker) -> dict[Site, Visits]:
    """The call sites that each row and each probe comes to."""
    found: dict[Site, Visits] = defaultdict(Visits)
    asked: list[str] = [""]  # the last is what is under way

    def noting(name: str, original: Instead) -> Instead:
        def instead(*args: Any, **kwargs: Any) -> Any:
            if site := _site_of(sys._getframe(1), name):
                found[site].names.add(asked[-1])
                found[site].actions |= {value for value in args if isinstance(value, Action)}
            return original(*args, **kwargs)

        return instead

    with pytest.MonkeyPatch.context() as patch:
        _exchange(patch, noting)
        for name, route in ROUTES.items():
            if route.kind != "admin" or name == "admin:login":
                asked.append(name)
                asker.row(name, route, everything=False)
        for name, ask in PROBES.items():
            asked.append(name)
            ask(asker)
    return dict(found)


def at_call_sites(sites: dict[Site, Visits]) -> list[Mutant]:
    """Each call site that asks no longer, or for less."""
    return [
        Mutant(f"{site}: {name}", _at(site, weak), tuple(sorted(visits.names)))
        for site, visits in sorted(sites.items(), key=lambda item: (item[0].file, item[0].first))
        for name, weak in _WEAK[site.asked].items()
        # Whether somebody may run what they see follows from their role, which the route asks for.
        if weak is not _find_what_is_seen or visits.actions - {Action.SEE, Action.RUN}
    ]


def _at(site: Site, weak: Callable[[Instead], Instead]) -> Callable[[Patch], None]:
    def apply(patch: Patch) -> None:
        def made(name: str, original: Instead) -> Instead:
            if name != site.asked:
                return original
            weakened = weak(original)

            def instead(*args: Any, **kwargs: Any) -> Any:
                is_here = _site_of(sys._getframe(1), name) == site
                return (weakened if is_here else original)(*args, **kwargs)

            return instead

        _exchange(patch, made)

    return apply


def _unasked_find(original: Instead) -> Instead:
    def find(queryset: Any, user: Any, action: Any, **lookup: Any) -> Any:
        row = queryset.filter(**lookup).first()
        if row is None:
            raise Http404
        return row

    return find


def _find_what_is_seen(original: Instead) -> Instead:
    return lambda queryset, user, action, **lookup: original(queryset, user, Action.SEE, **lookup)


_WEAK: dict[str, dict[str, Callable[[Instead], Instead]]] = {
    "find": {"asks nothing": _unasked_find, "asks for seeing alone": _find_what_is_seen},
    "require": {"asks nothing": lambda original: lambda *args, **kwargs: None},
    "require_role": {"asks nothing": lambda original: lambda *args, **kwargs: None},
    "visible_to": {"gives all": lambda original: lambda rows, user: rows.all()},
    "editable_by": {
        "gives all": lambda original: lambda rows, user: rows.all(),
        "gives what is visible": lambda original: lambda rows, user: rows.visible_to(user),
    },
}


@contextmanager
def silent(asker: Asker) -> Iterator[None]:
    """Faults of weakened code are no news."""
    import logging

    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
