"""Making, changing, copying and removing projects."""

import uuid
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from django.core.exceptions import ValidationError
from django.core.files.storage import default_storage
from django.db import transaction
from django.db.models import ProtectedError
from django.utils import timezone
from django.utils.translation import gettext as _

from crews.inputs import InputFile
from crews.models import Crew
from executions import actions as runs
from executions import budgets
from executions.events import plain
from executions.models import EventStream, Execution
from portal.accounts import audit
from portal.accounts.models import AccessList, User, Visibility
from portal.lib.problems import Conflict, FieldError, InvalidValues, model_errors
from projects import mapping
from projects.actions import attachments, roles
from projects.actions.ground import hold
from projects.actions.laying import copy_stages, lay_out
from projects.actions.life import start as start_project
from projects.actions.progress import GOES_ON, follow
from projects.actions.starting import advance
from projects.models import Project, Stage, Template
from projects.plans import slug

FIELDS = frozenset(
    {
        *("name", "description", "selected_ai", "project_type", "target_audience", "requirement", "language"),
        *("technical_requirements", "estimated_hours", "deadline", "budget_usd", "crew", "auto_advance"),
    }
)
# What a copy takes over; the rest is its own.
COPIED = sorted(FIELDS - {"name", "crew", "deadline"})
MAX_TEXT = 100_000  # characters of the requirement, and of a description
MAX_TECHNICAL = 20_000  # characters of the technical requirements, as JSON


def create(
    *,
    by: User,
    name: str,
    template: Template | None = None,
    mappings: Iterable[Mapping[str, Any]] = (),
    files: Iterable[InputFile] = (),
    visibility: str = Visibility.PRIVATE,
    start: bool = False,
    api_key_id: uuid.UUID | None = None,
    **fields: Any,
) -> Project:
    """A project that belongs to `by`, with its stages and a model for every role; started at once with `start`.

    `fields`: description, selected_ai, project_type, target_audience, requirement, language,
    technical_requirements, estimated_hours, deadline, budget_usd, crew, auto_advance. What is not given comes from
    the `template`; with another engine than the template's, the stages are that engine's own.
    `mappings` as `set_mappings` takes them; roles that are not named get the recommended model.

    Raises `InvalidValues` by field; nothing is stored then.
    """
    if template is not None:
        inherited = ("selected_ai", "project_type", "technical_requirements")
        fields = {**{name: getattr(template, name) for name in inherited}, **fields}
        if not Template.objects.visible_to(by).filter(pk=template.pk).exists():
            raise InvalidValues([FieldError("template", "unknown_template", _("There is no such template."))])
    pk = uuid.uuid4()
    with transaction.atomic():
        project = Project(id=pk, template=template, workspace_path=slug(name))
        _set(project, by, {"name": name, **fields})
        project.stream = EventStream.objects.create(id=pk)
        project.access = AccessList.objects.create(owner=by, visibility=Visibility(visibility))
        project.save(force_insert=True)
        lay_out(project)
        follow(project)  # the first stage is the current one
        mapping.complete(project)
        audit.record("project.created", by=by, target=project, after=_told(project))
        roles.write(project, by, list(mappings))
        attachments.add(project, by, files)
        if project.budget_usd is not None:
            budgets.set_for_access(project.access_id, limit_usd=project.budget_usd, by=by)
        if start:
            start_project(project, by, api_key_id=api_key_id)
    return project


def update(project: Project, by: User, **fields: Any) -> Project:
    """Change fields of a project (those that `create` takes). Stages that have started keep what they were given.

    Raises `InvalidValues` by field, and `Conflict` for an archived project and for another engine.
    """
    with transaction.atomic():
        hold(project)
        if fields.get("selected_ai", project.selected_ai) != project.selected_ai:
            raise Conflict(
                _("A project stays with its engine."), code="engine_fixed", hint=_("Make a new project for the other.")
            )
        before = {name: getattr(project, name) for name in fields if name in FIELDS}
        _set(project, by, fields)
        changed = [name for name, value in before.items() if getattr(project, name) != value]
        if not changed:
            return project
        project.save(update_fields=[*changed, "updated_at"])
        audit.record(
            "project.changed",
            by=by,
            target=project,
            before={name: _shown(before[name]) for name in changed},
            after={name: _shown(getattr(project, name)) for name in changed},
        )
        if "budget_usd" in changed:
            budgets.set_for_access(project.access_id, limit_usd=project.budget_usd, by=by)
        if "crew" in changed:
            mapping.complete(project)
        if "auto_advance" in changed and project.status in GOES_ON:
            advance(project)
            follow(project)
    return project


def _set(project: Project, by: User, fields: Mapping[str, Any]) -> None:
    """Put `fields` into a project, not saved yet. Raises `InvalidValues`, and the project is not to be saved then."""
    if unknown := fields.keys() - FIELDS:
        raise InvalidValues([FieldError(name, "unknown", _("This cannot be set.")) for name in sorted(unknown)])
    for name, value in fields.items():
        given = plain(value) if name == "technical_requirements" else value
        setattr(project, name, given.strip() if name == "name" and isinstance(given, str) else given)
    errors = []
    try:
        project.full_clean(exclude=["stream", "access"], validate_unique=False, validate_constraints=False)
    except ValidationError as exc:
        errors += model_errors(exc)
    for name in ("requirement", "description"):
        if len(getattr(project, name)) > MAX_TEXT:
            detail = _("At most %(limit)d characters.") % {"limit": MAX_TEXT}
            errors.append(FieldError(name, "too_long", detail))
    technical = project.technical_requirements
    if not isinstance(technical, dict):
        errors.append(FieldError("technical_requirements", "not_an_object", _("Give an object.")))
    elif len(str(technical)) > MAX_TECHNICAL:
        detail = _("At most %(limit)d characters.") % {"limit": MAX_TECHNICAL}
        errors.append(FieldError("technical_requirements", "too_long", detail))
    errors += _crew_errors(project, by, is_given="crew" in fields)
    if errors:
        raise InvalidValues(errors)


def _crew_errors(project: Project, by: User, *, is_given: bool) -> list[FieldError]:
    if project.crew is None or not is_given:
        return []
    if project.selected_ai != Project.Engine.CREW_AI:
        return [FieldError("crew", "not_crewai", _("Only a CrewAI project has a crew."))]
    if not _sees(by, project.crew):
        return [FieldError("crew", "unknown_crew", _("There is no such crew."))]
    return []


def _sees(user: User, crew: Crew) -> bool:
    return Crew.objects.visible_to(user).filter(pk=crew.pk).exists()


def _told(project: Project) -> dict[str, Any]:
    names = ("name", "selected_ai", "project_type", "language", "template_id", "crew_id", "budget_usd", "auto_advance")
    return {name: value for name in names if (value := getattr(project, name)) is not None}


def _shown(value: Any) -> Any:
    return str(value.pk) if isinstance(value, Crew) else value


def duplicate(project: Project, by: User, *, name: str = "", until: Stage | None = None) -> Project:
    """A project like `project` that belongs to `by`, with its gates, models and files, not started.

    `until`: of the stages before it, which do not depend on it, the approved work is copied too, and the copy goes
    on from there. Raises `Conflict` when one of those that it needs is not completed.
    """
    pk = uuid.uuid4()
    with transaction.atomic():
        hold(project, archived_too=True)
        copy = Project(
            id=pk,
            name=(name.strip() or _("Copy of %(name)s") % {"name": project.name})[:200],
            template=project.template,
            crew=project.crew if project.crew is not None and _sees(by, project.crew) else None,
            **{field: getattr(project, field) for field in COPIED},
        )
        copy.workspace_path = slug(copy.name)
        copy.stream = EventStream.objects.create(id=pk)
        copy.access = AccessList.objects.create(owner=by)
        copy.save(force_insert=True)
        if copy.budget_usd is not None:
            budgets.set_for_access(copy.access_id, limit_usd=copy.budget_usd, by=by)
        for row in project.mappings.all():
            row.pk, row.project, row._state.adding = uuid.uuid4(), copy, True
            row.save(force_insert=True)
        for file in project.attachments.all():
            file.pk, file.project, file._state.adding = uuid.uuid4(), copy, True
            file.save(force_insert=True)
        copied = copy_stages(project, copy, by, until=until)
        mapping.complete(copy)
        told = {**_told(copy), "copied_from": project.pk, "stages": copied}
        audit.record("project.duplicated", by=by, target=copy, after=told)
        follow(copy)
    return copy


def archive(project: Project, by: User, *, archived: bool = True) -> Project:
    """Put a project away, or take it back; an archived one is read-only. Raises `Conflict` while it is at work."""
    with transaction.atomic():
        hold(project, archived_too=True)
        if project.is_archived == archived:
            return project
        if archived:
            _require_no_runs(project)
        project.archived_at = timezone.now() if archived else None
        project.save(update_fields=["archived_at", "updated_at"])
        audit.record("project.archived" if archived else "project.unarchived", by=by, target=project)
    return project


def delete(project: Project, by: User) -> None:
    """Delete a project with its stages, deliverables and runs; what they used stays in the ledger.

    Raises `Conflict` while a run of it is active.
    """
    with transaction.atomic():
        hold(project, archived_too=True)
        _require_no_runs(project)
        done = list(
            Execution.objects.filter(stage_run__stage__project=project).select_related("stream", "access__owner")
        )
        uploads = set(project.deliverables.exclude(upload="").values_list("upload", flat=True))
        stream, access = project.stream, project.access
        told = {"status": project.status, "owner": access.owner.get_username(), "runs": len(done)}
        audit.record("project.deleted", by=by, target=project, before=told)
        budgets.set_for_access(access.pk, limit_usd=None, by=by)
        project.delete()
        stream.delete()
        for execution in done:
            runs.delete(execution=execution, by=by)
        _delete_access(access)
        transaction.on_commit(partial(_delete_files, uploads))


def _delete_files(names: Iterable[str]) -> None:
    for name in names:
        default_storage.delete(name)


def _delete_access(access: AccessList) -> None:
    """The last of the project's runs may have taken it along."""
    try:
        with transaction.atomic():
            AccessList.objects.filter(pk=access.pk).delete()
    except ProtectedError:
        pass  # a fork of one of its runs stands under it


def _require_no_runs(project: Project) -> None:
    if Execution.objects.active().filter(stage_run__stage__project=project).exists():
        raise Conflict(
            _("A run of this project is still active."),
            code="run_active",
            hint=_("Cancel the project first, and wait until its runs have ended."),
        )
