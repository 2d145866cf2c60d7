"""The SQL of full-text search, for each database: what `search_text` is looked up in, and how.

PostgreSQL has a column of its own with the terms, which it makes from `search_text`, and an index over it. SQLite
has an FTS5 table without content beside the deliverables, which triggers keep in step, and a table that gives each
deliverable the number that FTS5 knows it by.

A migration that changes a column of `project_deliverables` makes that table anew on SQLite, without its
triggers: it ends with `RunPython(fulltext.install)`. A test holds migrations to that.
"""

from collections.abc import Iterable
from typing import Any

from django.db.models import BooleanField, Func

TABLE = "project_deliverables"
KEYS = "project_deliverable_search_keys"
INDEX = "project_deliverable_search"
COLUMN = "search_terms"  # PostgreSQL's
_FORGET = (
    f"INSERT INTO {INDEX} ({INDEX}, rowid, terms)"  # noqa: S608
    f" SELECT 'delete', key, OLD.search_text FROM {KEYS} WHERE deliverable = OLD.id;"
)
_LEARN = f"INSERT INTO {INDEX} (rowid, terms) SELECT key, NEW.search_text FROM {KEYS} WHERE deliverable = NEW.id;"  # noqa: S608
_TRIGGERS = {
    "made": ("AFTER INSERT", f"INSERT INTO {KEYS} (deliverable) VALUES (NEW.id); {_LEARN}"),  # noqa: S608
    "changed": ("AFTER UPDATE OF search_text", f"{_FORGET} {_LEARN}"),
    "gone": ("BEFORE DELETE", f"{_FORGET} DELETE FROM {KEYS} WHERE deliverable = OLD.id;"),  # noqa: S608
}


def install(apps: Any, schema_editor: Any) -> None:
    """Make what is searched, with all that is there already in it; for `RunPython`. Safe to repeat."""
    uninstall(apps, schema_editor)
    if schema_editor.connection.vendor == "postgresql":
        terms = "array_to_tsvector(string_to_array(search_text, ' '))"
        schema_editor.execute(f"ALTER TABLE {TABLE} ADD COLUMN {COLUMN} tsvector GENERATED ALWAYS AS ({terms}) STORED")
        schema_editor.execute(f"CREATE INDEX {INDEX} ON {TABLE} USING gin ({COLUMN})")
        return
    schema_editor.execute(f"CREATE TABLE {KEYS} (key integer PRIMARY KEY, deliverable char(32) NOT NULL UNIQUE)")
    # Terms come without case; what is not ASCII is a letter of one.
    schema_editor.execute(
        f"CREATE VIRTUAL TABLE {INDEX} USING fts5 (terms, content='', detail=none, columnsize=0, tokenize='ascii')"
    )
    schema_editor.execute(f"INSERT INTO {KEYS} (deliverable) SELECT id FROM {TABLE}")  # noqa: S608
    schema_editor.execute(
        f"INSERT INTO {INDEX} (rowid, terms)"  # noqa: S608
        f" SELECT key, search_text FROM {TABLE} JOIN {KEYS} ON deliverable = id"
    )
    for name, (moment, body) in _TRIGGERS.items():
        schema_editor.execute(f"CREATE TRIGGER {INDEX}_{name} {moment} ON {TABLE} BEGIN {body} END")


def uninstall(apps: Any, schema_editor: Any) -> None:
    """Take it away again."""
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(f"ALTER TABLE {TABLE} DROP COLUMN IF EXISTS {COLUMN}")
        return
    for name in _TRIGGERS:
        schema_editor.execute(f"DROP TRIGGER IF EXISTS {INDEX}_{name}")
    schema_editor.execute(f"DROP TABLE IF EXISTS {INDEX}")
    schema_editor.execute(f"DROP TABLE IF EXISTS {KEYS}")


class Matches(Func):
    """Whether a deliverable, given by key and `search_text`, holds all `terms`: each a word, and whether longer
    ones that begin so do too. A term holds letters and digits alone."""

    output_field = BooleanField()

    def __init__(self, *expressions: Any, terms: Iterable[tuple[str, bool]], **extra: Any) -> None:
        super().__init__(*expressions, **extra)
        self.terms = tuple(terms)

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> tuple[str, tuple[Any, ...]]:
        key, params = compiler.compile(self.source_expressions[0])
        question = " AND ".join(f'"{term}"{" *" if is_open else ""}' for term, is_open in self.terms)
        found = f"SELECT deliverable FROM {INDEX} JOIN {KEYS} ON key = {INDEX}.rowid WHERE {INDEX} MATCH %s"  # noqa: S608
        return f"{key} IN ({found})", (*params, question)

    def as_postgresql(self, compiler: Any, connection: Any, **extra: Any) -> tuple[str, list[Any]]:
        column: Any = self.source_expressions[1]
        table = connection.ops.quote_name(column.alias)
        question = " & ".join(f"'{term}'{':*' if is_open else ''}" for term, is_open in self.terms)
        return f"{table}.{COLUMN} @@ %s::tsquery", [question]
