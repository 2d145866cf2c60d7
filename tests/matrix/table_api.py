"""The rows of the REST API. A key needs `read` for reading, and for the rest `write` unless a row says `run`."""

from tests.matrix.rules import THINGS, Cell, Route, api

CREW, RUN, ASKS = {"pk": "crew"}, {"pk": "run"}, {"pk": "approval"}
OF_CREW = {"crew_id": "crew"}


def _steer(action: str = "stop", ok: int = 409, **rest: object) -> Cell:
    """Starts, stops or answers something: a finished run is in no state for it (409), and `{}` lacks values (400)."""
    return Cell("user", action, (ok,), "run", **rest)  # type: ignore[arg-type]


def _owned(part: str, *, deleted: int) -> Route:
    return api(
        {"pk": part},
        GET=Cell(action="see"),
        PUT=Cell("user", "change", (400,)),
        PATCH=Cell("user", "change"),
        DELETE=Cell("user", "delete", (deleted,)),
    )


def _catalog(part: str, *, read: str = "viewer", put: int = 400, deleted: int = 409) -> Route:
    return api(
        {"pk": part},
        GET=Cell(read),
        PUT=Cell("admin", ok=(put,)),
        PATCH=Cell("admin"),
        DELETE=Cell("admin", ok=(deleted,)),
    )


def _new(role: str = "user") -> Cell:
    """Makes something; `{}` lacks values."""
    return Cell(role, ok=(400,))


API: dict[str, Route] = {
    # --- Definitions
    "agent-list": api(GET=Cell(lists=("agent",)), POST=_new()),
    "agent-detail": _owned("agent", deleted=409),
    "agent-copy": api({"pk": "agent"}, POST=Cell("user", "run", (201,))),
    "crew-list": api(GET=Cell(lists=("crew",)), POST=_new()),
    "crew-detail": _owned("crew", deleted=409),
    "crew-copy": api(CREW, POST=Cell("user", "run", (201,))),
    "crew-inputs": api(
        OF_CREW,
        GET=Cell(action="see"),
        POST=Cell("user", "change", (400,)),
        PUT=Cell("user", "change", (400,)),
    ),
    "crew-input": api(
        {"crew_id": "crew", "input_id": "input"},
        GET=Cell(action="see"),
        PUT=Cell("user", "change", (400,)),
        PATCH=Cell("user", "change"),
        DELETE=Cell("user", "change", (409,)),  # a text uses it
    ),
    "task-list": api(GET=Cell(lists=("task",)), POST=_new()),
    "task-detail": api(
        {"pk": "task"},
        GET=Cell(action="see"),
        PUT=Cell("user", "change", (400,)),
        PATCH=Cell("user", "change"),
        DELETE=Cell("user", "change", (204,)),
    ),
    # --- Catalog: tools and models are there for everybody; providers are the admins'
    "tool-list": api(GET=Cell()),
    "tool-detail": api({"pk": "tool"}, GET=Cell(), PUT=Cell("admin"), PATCH=Cell("admin")),
    "llm-model-list": api(GET=Cell(), POST=_new("admin")),
    "llm-model-detail": _catalog("model", deleted=204),
    "llm-provider-list": api(GET=Cell("admin"), POST=_new("admin")),
    "llm-provider-detail": _catalog("provider", read="admin"),
    "llm-provider-test": api({"pk": "provider"}, POST=Cell("admin")),
    # --- Runs
    "crew-kickoff": api(OF_CREW, POST=_steer("run", 400, body={"priority": 99})),
    "crew-stop": api(OF_CREW, POST=_steer("run", 202)),
    "crew-estimate": api(OF_CREW, GET=Cell(action="see")),
    "crew-status": api(OF_CREW, GET=Cell(action="see", side="crew+run")),
    "crew-result": api(OF_CREW, GET=Cell(action="see", side="crew+run")),
    "crew-executions": api(OF_CREW, GET=Cell(action="see")),
    "crew-execution": api(
        {"crew_id": "crew", "exec_id": "run"}, GET=Cell(action="see"), DELETE=Cell("user", "delete", (204,))
    ),
    "execution-list": api(GET=Cell(lists=("run", "waiting"))),
    "execution-detail": api(RUN, GET=Cell(action="see"), PATCH=Cell("user", "change", (200,), "run")),
    "execution-stop": api(RUN, POST=_steer()),
    "execution-stop-all": api(POST=_steer("", 202, lists=("waiting",), listed="editable")),
    "execution-pause": api(RUN, POST=_steer()),
    "execution-resume": api(RUN, POST=_steer()),
    "execution-retry": api(RUN, POST=_steer()),
    "execution-fork": api(RUN, POST=_steer("run", 400)),
    "execution-compare": api(GET=Cell(action="see", query="a={run}&b={run}", side="run"), things=THINGS),
    "execution-events": api(RUN, GET=Cell(action="see")),
    "execution-stream": api(RUN, GET=Cell(action="see")),
    "execution-llm-calls": api(RUN, GET=Cell(action="see")),
    "execution-approvals": api({"pk": "waiting"}, GET=Cell(action="see")),
    "execution-role-llm-mapping": api({"pk": "waiting"}, GET=Cell(action="see"), POST=_steer("answer", 400)),
    "approval-list": api(GET=Cell(lists=("approval",), listed="editable")),
    "approval-detail": api(ASKS, GET=Cell(action="see")),
    "approval-answer": api(ASKS, POST=_steer("answer", 400)),
    "approval-link": api(ASKS, POST=_steer("answer", 200)),
    # --- Budgets
    "budget-list": api(GET=Cell("admin"), POST=_new("admin")),
    "budget-detail": _catalog("budget", read="admin", deleted=204),
    "budgets-mine": api(GET=Cell()),
    # --- The API itself
    "api-schema": api(GET=Cell()),
    "api-nothing-here": api(
        {"rest": "nothing"},
        things=(),
        **dict.fromkeys(("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"), Cell(ok=(404,))),
    ),
}
