"""Templates of one's own."""

from collections.abc import Collection
from decimal import Decimal
from typing import Any, cast

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from crews.models import LLMModel
from crews.recommend import RECOMMENDED
from executions.events import plain
from portal.accounts import sharing
from portal.accounts.models import AccessList, Guarded, User, Visibility
from portal.lib.problems import Conflict, FieldError, InvalidValues, model_errors
from projects import mapping, plans
from projects.actions.laying import GATE, as_template, default_stages
from projects.deliverables.files import path_fault
from projects.models import Project, Stage, Template

FIELDS = frozenset(
    {
        *("name", "description", "project_type", "selected_ai", "requirement_outline", "stages"),
        *("recommended_models", "folders", "technical_requirements"),
    }
)
_JSON = frozenset({"stages", "recommended_models", "folders", "technical_requirements"})
MAX_STAGES = 10
MAX_FOLDERS = 100
MAX_OUTLINE = 20_000  # characters
_STAGE_KEYS = frozenset({"stage_name", "responsible_role", "depends_on", *GATE})


def save_template(template: Template | None, by: User, *, visibility: str | None = None, **fields: Any) -> Template:
    """Make a template that belongs to `by` (None), or change one; `fields` as `Template` has them, `id` for a new one.

    Whoever calls has made sure that `by` may change it. Raises `InvalidValues` by field, `Conflict` for one
    that came along.
    """
    if template is None:
        return _make(by, str(fields.pop("id", "") or ""), visibility or Visibility.PRIVATE, fields)
    _require_own(template)
    if fields.pop("id", template.pk) != template.pk:
        raise InvalidValues([FieldError("id", "fixed", _("A template keeps its id; copy it under another one."))])
    with transaction.atomic():
        _set(template, fields)
        template.save()
        if visibility is not None and template.access is not None and template.access.visibility != visibility:
            sharing.set_visibility(cast("Guarded", template), Visibility(visibility), by=by)
    return template


def save_as_template(
    project: Project, by: User, *, name: str, key: str = "", description: str = "", visibility: str = Visibility.PRIVATE
) -> Template:
    """A template of `by` with the stages, gates, models and folders of `project`; its id is `key`, or made of the name.

    Raises `InvalidValues` by field.
    """
    fields = {
        "name": name,
        "description": description,
        "project_type": project.project_type,
        "selected_ai": project.selected_ai,
        "requirement_outline": project.template.requirement_outline if project.template else "",
        "stages": as_template(project),
        "recommended_models": {row.role_name: row.llm_model_id for row in mapping.complete(project)},
        "folders": list(project.template.folders) if project.template else [],
        "technical_requirements": project.technical_requirements,
    }
    return _make(by, key, visibility, fields)


def copy_template(template: Template, by: User, *, key: str = "", name: str = "") -> Template:
    """A template like `template` that belongs to `by`, private. Raises `InvalidValues` by field."""
    fields = {field: getattr(template, field) for field in FIELDS}
    unknown = _unknown_models(template.recommended_models)
    fields["recommended_models"] = {
        role: wish for role, wish in template.recommended_models.items() if wish not in unknown
    }
    fields["name"] = (name.strip() or _("Copy of %(name)s") % {"name": template.name})[:200]
    return _make(by, key, Visibility.PRIVATE, fields)


def delete_template(template: Template, by: User) -> None:
    """Delete a template; its projects stay. Raises `Conflict` for one that came along."""
    _require_own(template)
    with transaction.atomic():
        access = template.access
        template.delete()
        if access is not None:
            access.delete()


def _make(by: User, key: str, visibility: str, fields: dict[str, Any]) -> Template:
    template = Template(id=key.strip() or _free_id(str(fields.get("name") or "")), created_by=by)
    _set(template, fields)
    if Template.objects.filter(pk=template.pk).exists():
        raise _taken()
    try:
        with transaction.atomic():
            template.access = AccessList.objects.create(owner=by, visibility=Visibility(visibility))
            template.save(force_insert=True)
    except IntegrityError as exc:  # somebody took the id in this moment
        raise _taken() from exc
    return template


def _taken() -> InvalidValues:
    return InvalidValues([FieldError("id", "taken", _("There is a template of this id already."))])


def _free_id(name: str) -> str:
    """An id made of a name, with a number where it is taken."""
    base = plans.slug(name)
    base = base if base[0].isalpha() else f"t_{base}"
    key, number = base, 1
    while Template.objects.filter(pk=key).exists():
        number += 1
        key = f"{base}_{number}"
    return key


def _require_own(template: Template) -> None:
    if template.is_builtin:
        raise Conflict(
            _("This template came along and is read-only."),
            code="template_builtin",
            hint=_("Copy it, and change that."),
        )


def _set(template: Template, fields: dict[str, Any]) -> None:
    if unknown := fields.keys() - FIELDS:
        raise InvalidValues([FieldError(name, "unknown", _("This cannot be set.")) for name in sorted(unknown)])
    for name, value in fields.items():
        setattr(template, name, plain(value) if name in _JSON else value)
    if not template.stages and "stages" not in fields and template.selected_ai in Project.Engine.values:
        template.stages = default_stages(template.selected_ai)
    errors = []
    try:
        template.full_clean(exclude=["access", "stages"], validate_unique=False, validate_constraints=False)
    except ValidationError as exc:
        errors += model_errors(exc)
    if template.selected_ai in Project.Engine.values:
        errors += _stage_errors(template.selected_ai, template.stages)
    errors += _model_errors(template.recommended_models)
    if len(template.requirement_outline) > MAX_OUTLINE:
        detail = _("At most %(limit)d characters.") % {"limit": MAX_OUTLINE}
        errors.append(FieldError("requirement_outline", "too_long", detail))
    if not isinstance(template.technical_requirements, dict):
        errors.append(FieldError("technical_requirements", "not_an_object", _("Give an object.")))
    errors += _folder_errors(template.folders)
    if errors:
        raise InvalidValues(errors)


def _folder_errors(folders: Any) -> list[FieldError]:
    is_list = isinstance(folders, list) and len(folders) <= MAX_FOLDERS
    if is_list and all(isinstance(path, str) and len(path) <= 200 and not path_fault(path) for path in folders):
        return []
    detail = _("Give at most %(limit)d relative paths, with forward slashes.") % {"limit": MAX_FOLDERS}
    return [FieldError("folders", "invalid", detail)]


def _model_errors(wishes: Any) -> list[FieldError]:
    """A role's wish is a purpose, or a model of the catalog."""
    if not isinstance(wishes, dict):
        return [FieldError("recommended_models", "not_an_object", _("Give an object: role and model."))]
    return [
        FieldError("recommended_models", "unknown_model", _("There is no model “%(model)s”.") % {"model": name})
        for name in sorted(_unknown_models(wishes))
    ]


def _unknown_models(wishes: dict[str, Any]) -> set[str]:
    named = {str(wish) for wish in wishes.values()} - RECOMMENDED.keys()
    return named - set(LLMModel.objects.filter(pk__in=named).values_list("pk", flat=True)) if named else set()


def _stage_errors(engine: str, stages: Any) -> list[FieldError]:
    """What is wrong with the stages of a template, each fault by its place."""
    if not isinstance(stages, list) or not 1 <= len(stages) <= MAX_STAGES:
        detail = _("Give 1 to %(limit)d stages.") % {"limit": MAX_STAGES}
        return [FieldError("stages", "invalid", detail)]
    errors: list[FieldError] = []
    earlier: list[str] = []
    for number, stage in enumerate(stages):
        at = f"stages.{number}"
        if not isinstance(stage, dict) or stage.keys() - _STAGE_KEYS:
            detail = _("A stage has: %(names)s.") % {"names": ", ".join(sorted(_STAGE_KEYS))}
            errors.append(FieldError(at, "invalid", detail))
            continue
        errors += _name_errors(engine, at, stage.get("stage_name"), earlier)
        after = stage.get("depends_on", [])
        if not isinstance(after, list) or not all(name in earlier for name in after):
            detail = _("It can depend on stages that stand before it.")
            errors.append(FieldError(f"{at}.depends_on", "unknown_stage", detail))
        gate = {name: stage[name] for name in (*GATE, "responsible_role") if stage.get(name) is not None}
        errors += _gate_errors(at, {"responsible_role": "", **gate})
        earlier.append(str(stage.get("stage_name")))
    return errors


def _name_errors(engine: str, at: str, name: Any, earlier: Collection[str]) -> list[FieldError]:
    known = plans.FIXED_STAGES if engine == Project.Engine.META_GPT else set(Stage.Name.values)
    if name not in known:
        detail = _("This engine has the stages: %(names)s.") % {"names": ", ".join(sorted(map(str, known)))}
        return [FieldError(f"{at}.stage_name", "unknown_stage", detail)]
    if name in earlier:
        return [FieldError(f"{at}.stage_name", "repeated", _("A stage can stand here once."))]
    return []


def _gate_errors(at: str, values: dict[str, Any]) -> list[FieldError]:
    errors: list[FieldError] = []
    for name, value in values.items():
        field: Any = Stage._meta.get_field(name)
        try:
            # JSON knows no decimals: 1.1 is what was meant, not the nearest binary number.
            field.clean(Decimal(str(value)) if isinstance(value, float) else value, None)
        except ValidationError as exc:
            errors += model_errors(ValidationError({f"{at}.{name}": exc}))
    return errors
