"""The rows of the pages. Only a session opens a page; who has none is led to the sign-in."""

from tests.matrix.rules import THINGS, Cell, Route, page

CREW, RUN = {"pk": "crew"}, {"pk": "run"}


def _form(role: str = "user", action: str = "change", ok: tuple[int, ...] = (422,), **rest: object) -> dict[str, Cell]:
    """A form to look at, and sent empty: it comes back with what is missing (422)."""
    return {"GET": Cell(role, action), "POST": Cell(role, action, ok, **rest)}  # type: ignore[arg-type]


def _do(action: str = "change", role: str = "user", ok: int = 302, **rest: object) -> dict[str, Cell]:
    """Does something, and leads back to the page of it."""
    return {"POST": Cell(role, action, (ok,), **rest)}  # type: ignore[arg-type]


def _parts(kind: str, part: str) -> dict[str, Route]:
    """The parts of a crew, edited on its page."""
    both = {"pk": "crew", "part": part}
    return {
        f"crews:{kind}-add": page(CREW, **_form()),
        f"crews:{kind}-edit": page(both, **_form()),
        f"crews:{kind}-remove": page(both, **_do()),
        f"crews:{kind}-move": page(both, **_do()),
    }


PAGES: dict[str, Route] = {
    "site:home": page(GET=Cell(lists=("crew",))),
    "site:dashboard": page(GET=Cell(lists=("crew",))),
    "site:components": page(GET=Cell("admin")),
    # --- Crews
    "crews:crew-list": page(GET=Cell(lists=("crew",))),
    "crews:crew-create": page(**_form(action="")),
    "crews:crew-detail": page(CREW, GET=Cell(action="see")),
    "crews:crew-settings": page(CREW, **_form()),
    "crews:crew-copy": page(CREW, **_do("run")),
    "crews:crew-delete": page(CREW, **_form(action="delete", ok=(302,))),
    **_parts("agent", "agent"),
    **_parts("task", "task"),
    **_parts("input", "input"),
    "executions:crew-run": page(CREW, **_form(action="run", body={"priority": "99"})),
    # --- Catalog
    "crews:model-list": page(GET=Cell()),
    "crews:model-edit": page({"pk": "model"}, **_form("admin", "")),
    "crews:provider-list": page(GET=Cell("admin")),
    "crews:provider-create": page(**_form("admin", "")),
    "crews:provider-edit": page({"pk": "provider"}, **_form("admin", "")),
    "crews:provider-test": page({"pk": "provider"}, **_do("", "admin")),
    "crews:provider-delete": page({"pk": "provider"}, **_do("", "admin")),
    # --- Runs
    "executions:run-list": page(GET=Cell(lists=("run", "waiting"))),
    "executions:stop-all": page(GET=Cell("user", lists=("waiting",), listed="editable"), POST=Cell("user", ok=(302,))),
    "executions:run-detail": page(RUN, GET=Cell(action="see")),
    "executions:run-live": page(RUN, GET=Cell(action="see")),
    "executions:run-state": page(RUN, GET=Cell(action="see")),
    "executions:run-events": page(RUN, GET=Cell(action="see")),
    "executions:run-stop": page(RUN, **_do("stop")),
    "executions:run-pause": page(RUN, **_do("stop")),
    "executions:run-resume": page(RUN, **_do("stop")),
    "executions:run-retry": page(RUN, **_do("stop")),
    "executions:run-budget": page({"pk": "waiting"}, **_do("change")),
    "executions:run-models": page({"pk": "waiting"}, **_do("answer", ok=422)),
    "executions:run-delete": page(RUN, **_form(action="delete", ok=(302,))),
    "executions:run-result": page(RUN, GET=Cell(action="see")),
    "executions:run-fork": page(
        RUN,
        GET=Cell("user", "run", query="task={row}"),
        POST=Cell("user", "run", (422,), query="task={row}", body={"priority": "99"}),
    ),
    "executions:run-compare": page(GET=Cell(action="see", query="a={run}&b={run}", side="run"), things=THINGS),
    "executions:approval-list": page(GET=Cell(lists=("approval",), listed="editable")),
    "executions:approval-detail": page(
        {"pk": "approval"}, GET=Cell(action="see"), POST=Cell("viewer", "answer", (422,))
    ),
    # Whoever has the link answers as the person it was made for; one that opens nothing is gone.
    "executions:approval-link": page(
        {"token": "token"},
        GET=Cell("public"),
        POST=Cell("public", ok=(422,)),
        things=("own", "missing"),
        hidden=410,
        is_secret=True,
    ),
    # --- Budgets
    "executions:budget-list": page(GET=Cell("admin")),
    "executions:budget-create": page(**_form("admin", "")),
    "executions:budget-edit": page({"pk": "budget"}, **_form("admin", "")),
    "executions:budget-delete": page({"pk": "budget"}, **_do("", "admin")),
    # --- The API's documentation
    "api-docs": page(GET=Cell(), POST=Cell("admin", ok=(405,))),
    "api-redoc": page(GET=Cell(), POST=Cell("admin", ok=(405,))),
}
