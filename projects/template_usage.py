"""How much templates are used, as far as a person sees it."""

from collections import Counter
from dataclasses import dataclass

from django.db.models import Count

from portal.accounts.models import User
from projects.models import Project, Template


@dataclass(frozen=True)
class Usage:
    """Templates by kind, and the projects that were made from each."""

    total: int
    builtin: int
    by_project_type: dict[str, int]
    by_selected_ai: dict[str, int]
    projects: dict[str, int]


def usage(user: User) -> Usage:
    """Of the templates that `user` sees, with the projects that they see. Two queries."""
    rows = list(Template.objects.visible_to(user).values_list("pk", "project_type", "selected_ai", "is_builtin"))
    made = Project.objects.visible_to(user).exclude(template=None).order_by()
    counted = dict(made.values_list("template_id").annotate(made=Count("pk")))
    return Usage(
        total=len(rows),
        builtin=sum(is_builtin for _pk, _kind, _engine, is_builtin in rows),
        by_project_type=dict(Counter(kind for _pk, kind, _engine, _is_builtin in rows)),
        by_selected_ai=dict(Counter(engine for _pk, _kind, engine, _is_builtin in rows)),
        projects={pk: counted.get(pk, 0) for pk, *_rest in rows},
    )
