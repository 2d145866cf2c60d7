"""How each route of projects that changes something is tried: what goes into its address, and its body."""

from typing import Any

from portal.accounts.models import AccessGrant
from projects import actions
from projects.models import Deliverable, Project, Stage
from tests.factories.accounts import UserFactory
from tests.factories.project_runs import finish, made, project_of, run_of, stage_of

TEMPLATE = {
    "id": "own_kind", "name": "Own kind", "project_type": "api", "selected_ai": "meta-gpt",
    "stages": [{"stage_name": "requirement", "responsible_role": "Product Manager", "depends_on": []}],
}  # fmt: skip


def _project(w: Any, **fields: Any) -> Project:
    return project_of(w.boss, **fields)


def _begun(w: Any) -> Project:
    project = _project(w)
    actions.start(project, w.boss)
    return project


def _reviewed(w: Any) -> Stage:
    """A stage whose work waits for a decision."""
    project = _begun(w)
    finish(run_of(stage_of(project, "requirement")), made())
    return stage_of(project, "requirement")


def _work(w: Any) -> Deliverable:
    return _reviewed(w).deliverables.get()


def _member(w: Any) -> dict[str, Any]:
    project = _project(w)
    AccessGrant.objects.create(access=project.access, user=w.friend, level="viewer")
    return {"project_id": project.pk, "user_id": w.friend.pk}


def _stage(stage: Stage) -> dict[str, Any]:
    return {"project_id": stage.project_id, "stage": stage.stage_name}


def _attachment(w: Any) -> dict[str, Any]:
    project = _project(w)
    attached = project.attachments.create(name="notes.md", content="# Notes", size=7)
    return {"project_id": project.pk, "attachment_id": attached.pk}


def _template(w: Any) -> dict[str, Any]:
    return {"pk": actions.save_as_template(_project(w), w.boss, name="Ours", key="ours").pk}


def _of_engine(key: str, selected_ai: str) -> dict[str, Any]:
    """The projects of an engine, under its name."""

    def one(w: Any) -> dict[str, Any]:
        return {"pk": _project(w, selected_ai=selected_ai).pk}

    return {
        f"{key}-projects post": lambda w: (_project(w) and {}, {"name": "New"}),
        f"{key}-project put": lambda w: (one(w), {"name": "Other", "selected_ai": selected_ai}),
        f"{key}-project patch": lambda w: (one(w), {"name": "Other"}),
        f"{key}-project delete": lambda w: (one(w), None),
    }


TRIED_OF_PROJECTS: dict[str, Any] = {
    **_of_engine("crewai", "crew-ai"),
    **_of_engine("metagpt", "meta-gpt"),
    "project-list post": lambda w: (_project(w) and {}, {"name": "New"}),
    "project-detail put": lambda w: ({"pk": _project(w).pk}, {"name": "Other", "selected_ai": "meta-gpt"}),
    "project-detail patch": lambda w: ({"pk": _project(w).pk}, {"name": "Other"}),
    "project-detail delete": lambda w: ({"pk": _project(w).pk}, None),
    "project-start post": lambda w: ({"pk": _project(w).pk}, None),
    "project-pause post": lambda w: ({"pk": _begun(w).pk}, None),
    "project-cancel post": lambda w: ({"pk": _begun(w).pk}, None),
    "project-restart post": lambda w: ({"pk": _begun(w).pk}, None),
    "project-archive post": lambda w: ({"pk": _project(w).pk}, {}),
    "project-duplicate post": lambda w: ({"pk": _project(w).pk}, {"name": "Twin"}),
    "project-save-as-template post": lambda w: ({"pk": _project(w).pk}, {"name": "Ours"}),
    "project-role-llm-mapping post": lambda w: (
        {"pk": _project(w).pk}, {"mappings": [{"role_name": "Engineer", "llm_model": "spare"}]}
    ),
    "project-attachments post": lambda w: (
        {"project_id": _project(w).pk}, {"name": "notes.md", "content": "# Notes"}
    ),
    "project-attachment delete": lambda w: (_attachment(w), None),
    "project-members post": lambda w: ({"project_id": _project(w).pk}, {"user_id": UserFactory().pk}),
    "project-member patch": lambda w: (_member(w), {"level": "editor"}),
    "project-member delete": lambda w: (_member(w), None),
    "project-owner post": lambda w: ({"project_id": _project(w).pk}, {"owner_id": w.friend.pk}),
    "project-deliverables post": lambda w: (
        {"project_id": _project(w).pk},
        {"stage": "design", "deliverable_type": "document", "title": "Notes", "content": "# Notes"},
    ),
    "project-stage patch": lambda w: (_stage(stage_of(_project(w), "design")), {"quorum": 2}),
    "project-stage-start put": lambda w: (_stage(stage_of(_project(w), "requirement")), {}),
    "project-stage-complete put": lambda w: (_stage(stage_of(_project(w), "requirement")), {"notes": "Done."}),
    "project-stage-review put": lambda w: (_stage(_reviewed(w)), {"status": "approved"}),
    "project-stage-delegate post": lambda w: (_stage(_reviewed(w)), {"user_id": UserFactory(admin=True).pk}),
    "project-stage-roll-back post": lambda w: (_stage(_reviewed(w)), {"reason": "Again."}),
    "deliverable-detail patch": lambda w: ({"pk": _work(w).pk}, {"content": "# Better"}),
    "deliverable-review put": lambda w: ({"pk": _work(w).pk}, {"status": "approved", "reviewed_by_role": "Architect"}),
    "deliverable-comments post": lambda w: ({"pk": _work(w).pk}, {"text": "Good."}),
    "deliverable-share post": lambda w: ({"pk": _work(w).pk}, {"user_id": UserFactory().pk}),
    "template-list post": lambda w: ({}, TEMPLATE),
    "template-detail put": lambda w: (_template(w), {**TEMPLATE, "id": "ours"}),
    "template-detail patch": lambda w: (_template(w), {"name": "Other"}),
    "template-detail delete": lambda w: (_template(w), None),
    "template-copy post": lambda w: (_template(w), {}),
    "template-create-project post": lambda w: (_template(w), {"name": "From it"}),
    "admin-project-force-complete post": lambda w: ({"pk": _begun(w).pk}, None),
}  # fmt: skip
