"""What a project will do, before there is one: the stages and roles of an engine or a template."""

from dataclasses import dataclass

from django.utils.translation import get_language

from projects import plans
from projects.models import Stage, Template


@dataclass(frozen=True)
class Planned:
    """A stage to be: whose work, what comes out, what it waits for."""

    label: str
    role: str
    produces: str
    after: str
    requires_approval: bool
    instructions: str


def stages(engine: str, template: Template | None = None) -> list[Planned]:
    """The stages of an engine's company, or of a template for that engine, in order."""
    if template is not None and template.selected_ai == engine and template.stages:
        rows = template.stages
    else:
        rows = [
            {"stage_name": plan.stage_name, "responsible_role": plan.role, "depends_on": plan.depends_on}
            for plan in plans.STAGES[engine]
        ]
    language = (get_language() or "en")[:2]
    found = []
    for row in rows:
        wanted = plans.stage_plan(engine, row["stage_name"]).wanted
        found.append(
            Planned(
                label=str(Stage.Name(row["stage_name"]).label),
                role=row["responsible_role"],
                produces=", ".join(one.title.text(language) for one in wanted),
                after=", ".join(str(Stage.Name(name).label) for name in row.get("depends_on", ())),
                requires_approval=row.get("requires_approval", True),
                instructions=row.get("instructions", ""),
            )
        )
    return found


def roles(engine: str, template: Template | None = None) -> list[str]:
    """The roles that work in those stages, each once, in order."""
    return list(dict.fromkeys(stage.role for stage in stages(engine, template)))
