"""The model of each role."""

from collections.abc import Iterable, Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.translation import gettext as _

from crews.llm_config import validate_llm_config
from crews.models import LLMModel
from executions import actions as runs
from portal.accounts import audit
from portal.accounts.models import User
from portal.lib.problems import FieldError, InvalidValues
from projects import mapping, plans
from projects.actions.ground import hold
from projects.models import Project, RoleLLMMapping, StageRun


def set_mappings(project: Project, by: User, mappings: Iterable[Mapping[str, Any]]) -> list[RoleLLMMapping]:
    """Give roles other models; roles that are not named keep theirs. Returns all of the project's.

    A mapping: `role_name` (in any case of letters), `llm_model` (a model or its id), and `llm_config`, which stays
    as it is where it is not given. A run that is active uses the new model from its very next call, and its own
    parameters to its end.

    Raises `InvalidValues` for unknown roles and models, a role named twice, parameters that are none, and a model
    that the active run of its role cannot use, and `Conflict` for an archived project.
    """
    with transaction.atomic():
        hold(project)
        write(project, by, list(mappings))
    return mapping.complete(project)


def write(project: Project, by: User, mappings: list[Mapping[str, Any]]) -> None:
    """As `set_mappings`, of a project that is locked."""
    chosen = _checked(project, mappings)
    rows = {row.role_name: row for row in mapping.complete(project)}
    changed: dict[str, LLMModel] = {}
    before, after = {}, {}
    for role, (model, config) in chosen.items():
        row = rows[role]
        wanted = row.llm_config if config is None else config
        if (row.llm_model_id, row.llm_config, row.is_active) == (model.pk, wanted, True):
            continue
        before[role], after[role] = _told(row), {"llm_model": model.pk, "llm_config": wanted}
        if row.llm_model_id != model.pk:
            changed[role] = model
        row.llm_model, row.llm_config, row.is_active = model, wanted, True
        row.save(update_fields=["llm_model", "llm_config", "is_active", "updated_at"])
    if after:
        audit.record("project.models_changed", by=by, target=project, before=before, after=after)
    _reach_runs(project, by, changed)


def _told(row: RoleLLMMapping) -> dict[str, Any]:
    return {"llm_model": row.llm_model_id, "llm_config": row.llm_config}


def _reach_runs(project: Project, by: User, changed: Mapping[str, LLMModel]) -> None:
    """Let the project's active runs use the new models."""
    if not changed:
        return
    active = StageRun.objects.filter(stage__project=project, settled_at=None).select_related("execution", "stage")
    for run in active.order_by("pk"):
        named = set(run.execution.role_models.values_list("role", flat=True))
        theirs = {role: model for role, model in changed.items() if role in named}
        if theirs and run.execution.is_active:
            runs.set_role_models(run.execution, by, theirs)


def _checked(project: Project, mappings: list[Mapping[str, Any]]) -> dict[str, tuple[LLMModel, dict[str, Any] | None]]:
    """Role → model and parameters (None: not given). Raises `InvalidValues` that names each fault by its place."""
    known = LLMModel.objects.select_related("provider").in_bulk(
        [model for one in mappings if isinstance(model := one.get("llm_model"), str)]
    )
    errors: list[FieldError] = []
    chosen: dict[str, tuple[LLMModel, dict[str, Any] | None]] = {}
    for number, one in enumerate(mappings):
        at = f"mappings.{number}"
        role = plans.role_named(project, str(one.get("role_name") or ""))
        model, config = one.get("llm_model"), one.get("llm_config")
        if role is None:
            detail = _("The project has no role “%(role)s”; it has: %(known)s.")
            named = {"role": one.get("role_name") or "", "known": ", ".join(plans.roles_of(project))}
            errors.append(FieldError(f"{at}.role_name", "unknown_role", detail % named))
        elif role in chosen:
            detail = _("The role “%(role)s” stands here twice.") % {"role": role}
            errors.append(FieldError(f"{at}.role_name", "repeated", detail))
        found = model if isinstance(model, LLMModel) else known.get(str(model))
        if found is None:
            detail = _("There is no model “%(model)s”.") % {"model": model or ""}
            errors.append(FieldError(f"{at}.llm_model", "unknown_model", detail))
        if config is not None:
            try:
                validate_llm_config(config)
            except ValidationError as exc:
                errors += [FieldError(f"{at}.llm_config", "bad_parameter", message) for message in exc.messages]
        if role is not None and found is not None:
            chosen[role] = (found, config)
    if errors:
        raise InvalidValues(errors)
    return chosen
