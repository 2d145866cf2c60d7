"""Pages of definitions: `crews` (list, crew page), `parts` (edited in place), `catalog` (models, providers)."""
