"""The rows of Django admin: for the role `admin` with a session, and for nobody else."""

import os

from tests.matrix.rules import Cell, Route, admin

# Model → what admins may do there beside looking.
MODELS = {
    "accounts_apikey": set(),
    "accounts_auditentry": set(),
    "accounts_user": {"add", "change", "delete"},
    "crews_agent": {"add", "change", "delete"},
    "crews_crew": {"add", "change", "delete"},
    "crews_llmmodel": {"add", "change", "delete"},
    "crews_llmprovider": {"add", "change", "delete"},
    "crews_task": {"add", "change", "delete"},
    "crews_tool": {"change"},
    "django_q_failure": {"delete"},
    "django_q_ormq": {"change", "delete"},
    "django_q_schedule": {"add", "change", "delete"},
    "django_q_success": {"delete"},
    "executions_budget": {"add", "change", "delete"},
    "executions_execution": set(),
    "executions_executionevent": set(),
    "executions_llmcall": set(),
    "executions_toolcall": set(),
    "executions_worker": set(),
    "projects_deliverable": set(),
    "projects_deliverableaccess": set(),
    "projects_project": set(),
    "projects_stage": set(),
    "projects_template": set(),
}
if os.environ.get("REDIS_URL"):
    del MODELS["django_q_ormq"]  # the queue is in Redis then, and not in a table
# Where there is no such row, Django leads back to the index.
SEEN = (200, 302)


def _rows(model: str, may: set[str]) -> dict[str, Route]:
    def cells(action: str, *, look: bool) -> dict[str, Cell]:
        done = SEEN if action in may else (403,)
        return {
            "GET": Cell("admin", ok=SEEN if look else done),
            "POST": Cell("admin", ok=(*done, *(SEEN if look else ()))),
        }

    row, of = {"object_id": f"{model} row"}, f"admin:{model}"
    app, _, name = model.rpartition("_")  # of the queue there are no rows to change
    return {
        f"{of}_changelist": admin(**cells("", look=True)),
        f"{of}_add": admin(**cells("add", look=False)),
        f"{of}_change": admin(
            row,
            GET=Cell("admin", ok=SEEN),
            POST=Cell("admin", ok=SEEN if "change" in may else (403, 302) if app == "django_q" else (403,)),
        ),
        f"{of}_delete": admin(row, **cells("delete", look=False)),
        f"{of}_history": admin(row, GET=Cell("admin", ok=SEEN)),
        f"/admin/{app}/{name}/<path:object_id>/": admin(row, GET=Cell("admin", ok=(302,))),
    }


ADMIN: dict[str, Route] = {
    "admin:index": admin(GET=Cell("admin")),
    "admin:login": admin(GET=Cell("public", ok=(302, 403))),
    "admin:logout": admin(GET=Cell("public", ok=(302, 405)), POST=Cell("public", ok=(200, 302))),
    "admin:password_change": admin(GET=Cell("admin"), POST=Cell("admin")),
    "admin:password_change_done": admin(GET=Cell("admin")),
    "admin:autocomplete": admin(GET=Cell("admin", ok=(200, 403))),
    "admin:jsi18n": admin(GET=Cell("admin")),
    "admin:colors": admin(GET=Cell("admin")),
    "admin:search": admin(GET=Cell("admin")),
    "admin:view_on_site": admin({"content_type_id": "1", "object_id": "1"}, GET=Cell("admin", ok=(302, 404))),
    "admin:app_list": admin({"app_label": "crews"}, GET=Cell("admin")),
    "admin:auth_user_password_change": admin(
        {"id": "accounts_user row"}, GET=Cell("admin", ok=(302,)), POST=Cell("admin", ok=(302,))
    ),
    "/admin/(?P<url>.*)$": admin({"url": "nowhere"}, GET=Cell("admin", ok=(404,))),
    **{name: route for model, may in MODELS.items() for name, route in _rows(model, may).items()},
}
