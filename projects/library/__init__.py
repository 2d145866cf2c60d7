"""The templates that come along: their content, and putting it into the database."""

from projects.library.seed import outline, seed_templates

__all__ = ["outline", "seed_templates"]
