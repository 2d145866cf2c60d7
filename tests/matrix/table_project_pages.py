"""The rows of the pages of projects, their stages, deliverables and templates."""

from tests.matrix.rules import THINGS, Cell, Route, page

PROJECT = {"pk": "project"}
STAGE = {"pk": "project", "stage_pk": "stage"}
FILE = {"pk": "project", "file_pk": "attachment"}
DELIVERABLE = {"pk": "deliverable"}
TEMPLATE = {"pk": "template"}
SEE = Cell(action="see")


def _form(*ok: int, action: str = "change") -> dict[str, Cell]:
    """A form to look at, and sent empty: it comes back with what is missing (422), or is done (302)."""
    return {"GET": Cell("user", action), "POST": Cell("user", action, ok or (422,))}


def _do(*ok: int, action: str = "change") -> dict[str, Cell]:
    """Does something, and leads back to the page of it."""
    return {"POST": Cell("user", action, ok or (302,))}


PROJECT_PAGES: dict[str, Route] = {
    "projects:project-list": page(GET=Cell(lists=("project",))),
    "projects:project-new": page(GET=Cell("user", lists=("template",))),
    # It starts from a template that one sees.
    "projects:project-create": page(
        GET=Cell("user", "run", query="template={template}", side="project"),
        POST=Cell("user", "run", (422,), query="template={template}", side="project"),
        things=THINGS,
    ),
    "projects:project-detail": page(PROJECT, GET=SEE),
    "projects:project-live": page(PROJECT, GET=SEE),
    "projects:deliverable-list": page(PROJECT, GET=SEE),
    "projects:project-numbers": page(PROJECT, GET=SEE),
    "projects:project-edit": page(PROJECT, **_form()),
    "projects:project-models": page(PROJECT, **_form()),
    "projects:project-attach": page(PROJECT, **_do()),
    "projects:project-detach": page(FILE, **_do()),
    "projects:project-start": page(PROJECT, **_do()),
    "projects:project-pause": page(PROJECT, **_do()),
    "projects:project-cancel": page(PROJECT, **_form(302)),
    "projects:project-restart": page(PROJECT, **_form(302)),
    "projects:project-duplicate": page(PROJECT, **_do(action="run")),
    "projects:project-archive": page(PROJECT, **_do()),
    "projects:project-export": page(PROJECT, GET=SEE),
    "projects:project-template": page(PROJECT, **_form(action="run")),
    "projects:project-delete": page(PROJECT, **_form(302, action="delete")),
    # --- Stages
    "projects:stage-settings": page(STAGE, **_form()),
    "projects:stage-start": page(STAGE, **_do()),
    "projects:stage-complete": page(STAGE, **_form(302, 422)),
    "projects:stage-review": page(STAGE, **_do(422, action="answer")),
    "projects:stage-delegate": page(STAGE, **_do(action="answer")),
    "projects:stage-roll-back": page(STAGE, **_form(302, 422)),
    # --- Deliverables
    "projects:deliverable-detail": page(DELIVERABLE, GET=SEE),
    "projects:deliverable-changes": page(DELIVERABLE, GET=SEE),
    "projects:deliverable-edit": page(DELIVERABLE, **_form()),
    "projects:deliverable-review": page(DELIVERABLE, **_do(422, action="answer")),
    "projects:deliverable-comment": page(DELIVERABLE, **_do(422, action="run")),
    "projects:deliverable-share": page(DELIVERABLE, **_form(action="share")),
    "projects:deliverable-accesses": page(DELIVERABLE, GET=SEE),
    "projects:deliverable-download": page(DELIVERABLE, GET=SEE),
    # --- Templates and engines
    "projects:template-list": page(GET=Cell(lists=("template",))),
    "projects:template-detail": page(TEMPLATE, GET=SEE),
    "projects:template-run": page(TEMPLATE, **_do(action="run")),
    "projects:template-delete": page(TEMPLATE, **_form(302, action="delete")),
    "projects:crewai": page(GET=Cell()),
    "projects:metagpt": page(GET=Cell(lists=("project",))),
}
