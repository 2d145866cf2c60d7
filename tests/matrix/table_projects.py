"""The rows of projects, stages, deliverables and templates in the REST API."""

from tests.matrix.rules import Cell, Route, api

PROJECT = {"pk": "project"}
OF_PROJECT = {"project_id": "project"}
STAGE = {**OF_PROJECT, "stage": "stage"}
ATTACHMENT = {**OF_PROJECT, "attachment_id": "attachment"}
DELIVERABLE = {"pk": "deliverable"}
TEMPLATE = {"pk": "template"}


def _steer(action: str = "change", *ok: int, **rest: object) -> Cell:
    """Starts, stops or decides something: a key needs `run`. In review it is in some state for it, or in none."""
    return Cell("user", action, ok or (202, 400, 409), "run", **rest)  # type: ignore[arg-type]


def _change(*ok: int, action: str = "change", **rest: object) -> Cell:
    return Cell("user", action, ok or (200,), **rest)  # type: ignore[arg-type]


SEE = Cell(action="see")

PROJECTS: dict[str, Route] = {
    "project-list": api(GET=Cell(lists=("project",)), POST=Cell("user", ok=(400,))),
    "project-detail": api(PROJECT, GET=SEE, PUT=_change(400), PATCH=_change(), DELETE=_change(204, action="delete")),
    "project-status": api(PROJECT, GET=SEE),
    "project-start": api(PROJECT, POST=_steer()),
    "project-pause": api(PROJECT, POST=_steer("stop")),
    "project-cancel": api(PROJECT, POST=_steer("stop")),
    "project-restart": api(PROJECT, POST=_steer()),
    "project-archive": api(PROJECT, POST=_change(200, 409)),
    "project-duplicate": api(PROJECT, POST=_change(201, action="run")),
    "project-save-as-template": api(PROJECT, POST=_change(400, action="run")),
    "project-recommended-models": api(GET=Cell()),
    "project-role-llm-mapping": api(PROJECT, GET=SEE, POST=_change(400)),
    "project-executions": api(OF_PROJECT, GET=SEE),
    "project-accessible-deliverables": api(PROJECT, GET=Cell(action="see", query="role=Product%20Manager")),
    "project-analytics": api(PROJECT, GET=SEE),
    "project-export": api(PROJECT, GET=SEE),
    "project-attachments": api(OF_PROJECT, GET=SEE, POST=_change(400)),
    "project-attachment": api(ATTACHMENT, GET=SEE, DELETE=_change(204)),
    # --- Stages
    "project-stages": api(OF_PROJECT, GET=SEE),
    "project-stage": api(STAGE, GET=SEE, PATCH=_change()),
    "project-stage-start": api(STAGE, PUT=_steer("change", 200)),
    "project-stage-complete": api(STAGE, PUT=_steer("change", 409)),
    "project-stage-review": api(STAGE, PUT=_steer("answer", 400)),
    "project-stage-delegate": api(STAGE, POST=_change(400, action="answer")),
    "project-stage-roll-back": api(STAGE, POST=_steer()),
    "project-stage-deliverables": api(STAGE, GET=SEE),
    # --- Deliverables
    "project-deliverables": api(OF_PROJECT, GET=SEE, POST=_change(400)),
    "project-deliverables-search": api(OF_PROJECT, GET=Cell(action="see", query="q=zqcontent")),
    "deliverable-detail": api(DELIVERABLE, GET=SEE, PATCH=_change()),
    "deliverable-review": api(DELIVERABLE, PUT=_steer("answer", 400)),
    "deliverable-versions": api(DELIVERABLE, GET=SEE),
    "deliverable-diff": api(DELIVERABLE, GET=Cell(action="see", query="against={deliverable}")),
    "deliverable-download": api(DELIVERABLE, GET=SEE),
    "deliverable-share": api(DELIVERABLE, POST=_change(400, action="share")),
    "deliverable-access-log": api(DELIVERABLE, GET=SEE),
    "deliverable-comments": api(DELIVERABLE, GET=SEE, POST=_change(400, action="see")),
    # --- Templates
    "template-list": api(GET=Cell(lists=("template",)), POST=Cell("user", ok=(400,))),
    "template-detail": api(TEMPLATE, GET=SEE, PUT=_change(400), PATCH=_change(), DELETE=_change(204, action="delete")),
    "template-search": api(GET=Cell(lists=("template",), query="q=zqtemplate")),
    "template-stats": api(GET=Cell()),
    "template-copy": api(TEMPLATE, POST=_change(201, action="run")),
    "template-create-project": api(TEMPLATE, POST=_change(400, action="run")),
    # --- Engines, and what admins see of all
    "crewai-status": api(GET=Cell()),
    "crewai-projects": api(GET=Cell(), POST=Cell("user", ok=(400,))),
    # The project that is asked about is of the other engine, so that here nobody finds it.
    "crewai-project": api(
        PROJECT,
        GET=Cell(action="see", ok=(404,)),
        PUT=_change(404),
        PATCH=_change(404),
        DELETE=_change(404, action="delete"),
    ),
    "metagpt-status": api(GET=Cell()),
    "metagpt-projects": api(GET=Cell(lists=("project",)), POST=Cell("user", ok=(400,))),
    "metagpt-project": api(PROJECT, GET=SEE, PUT=_change(400), PATCH=_change(), DELETE=_change(204, action="delete")),
    "admin-dashboard": api(GET=Cell("admin")),
    "admin-projects": api(GET=Cell("admin", lists=("project",))),
    "admin-project-force-complete": api(PROJECT, POST=Cell("admin", "change", (200, 409))),
}
