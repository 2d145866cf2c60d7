"""Putting the templates that come along into the database."""

from typing import Any

from django.db import transaction

from projects.library.content import BUILTIN
from projects.models import Template


def seed_templates() -> None:
    """Bring the templates that come along up to date. Safe to repeat; those that people made are left alone."""
    with transaction.atomic():
        for made in BUILTIN.values():
            values: dict[str, Any] = {
                "name": made.name,
                "description": made.description,
                "project_type": made.project_type,
                "selected_ai": made.selected_ai,
                "requirement_outline": made.outline.en,
                "stages": made.stages,
                "recommended_models": made.models,
                "folders": list(made.folders),
                "technical_requirements": made.technical,
            }
            row = Template.objects.filter(pk=made.id).first()
            if row is None:
                Template.objects.create(id=made.id, is_builtin=True, **values)
            elif row.is_builtin and any(getattr(row, name) != value for name, value in values.items()):
                for name, value in values.items():
                    setattr(row, name, value)
                row.save(update_fields=[*values, "updated_at"])


def outline(template: Template, language: str) -> str:
    """The points that a requirement should cover, in the project's language where the template came along."""
    made = BUILTIN.get(template.pk) if template.is_builtin else None
    return made.outline.text(language) if made else template.requirement_outline
