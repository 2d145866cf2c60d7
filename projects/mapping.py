"""Which model each role should have: recommended ones, as far as they can be reached."""

from collections.abc import Iterable
from dataclasses import dataclass

from crews.models import EMBEDDED, LLMModel
from crews.recommend import RECOMMENDED, recommendations
from projects import plans
from projects.models import Project, RoleLLMMapping, Template


@dataclass(frozen=True)
class Recommendation:
    """A role's model: the `best` one of the catalog for its purpose, and the one that can be reached now."""

    role_name: str
    purpose: str
    llm_model: str
    best: str

    @property
    def is_best(self) -> bool:
        return self.llm_model == self.best


def preview(
    selected_ai: str, template: Template | None = None, roles: Iterable[str] | None = None
) -> list[Recommendation]:
    """The recommended model of every role of an engine (or of `roles`), as `template` wants it. Two queries.

    A template names a purpose or a model for a role. A model that cannot be reached gives way to the one for the
    role's purpose, and that one to `embedded`.
    """
    names = list(roles) if roles is not None else [plan.name for plan in plans.ROLES[selected_ai]]
    wishes = {name.casefold(): str(wish) for name, wish in (template.recommended_models if template else {}).items()}
    for_purposes, reachable = recommendations(), _reachable(wish for wish in wishes.values() if wish not in RECOMMENDED)
    found = []
    for name in names:
        wish = wishes.get(name.casefold(), "")
        purpose = wish if wish in RECOMMENDED else plans.purpose(selected_ai, name)
        best = wish if wish and wish not in RECOMMENDED else RECOMMENDED[purpose][0]
        chosen = best if best in reachable else for_purposes[purpose]
        found.append(Recommendation(name, purpose, chosen, best))
    return found


def recommended(
    selected_ai: str, template: Template | None = None, roles: Iterable[str] | None = None
) -> dict[str, str]:
    """`preview` as role → id of the model."""
    return {one.role_name: one.llm_model for one in preview(selected_ai, template, roles)}


def _reachable(ids: Iterable[str]) -> set[str]:
    wanted = set(ids)
    models = LLMModel.objects.select_related("provider").filter(pk__in=wanted) if wanted else ()
    return {model.pk for model in models if model.is_runnable and model.health != LLMModel.Health.DOWN}


def complete(project: Project) -> list[RoleLLMMapping]:
    """The mappings of a project, by the order of its roles; a role that had none gets the recommended model.

    A role that its project has no more (of another crew, say) is left out.
    """
    roles = plans.roles_of(project)
    known = {row.role_name: row for row in project.mappings.select_related("llm_model__provider")}
    if missing := [role for role in roles if role not in known]:
        chosen = recommended(project.selected_ai, project.template, missing)
        RoleLLMMapping.objects.bulk_create(
            RoleLLMMapping(project=project, role_name=role, llm_model_id=chosen.get(role, EMBEDDED)) for role in missing
        )
        known = {row.role_name: row for row in project.mappings.select_related("llm_model__provider")}
    return [known[role] for role in roles]


def of_role(project: Project, role: str) -> RoleLLMMapping:
    """The mapping of one role, made where there was none. One that is not active counts as recommended."""
    found = next(row for row in complete(project) if row.role_name == role)
    if not found.is_active:
        wanted = recommended(project.selected_ai, project.template, [role])[role]
        found.llm_model = LLMModel.objects.select_related("provider").get(pk=wanted)
    return found
