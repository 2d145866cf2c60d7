# ruff: noqa: S608 - raw SQL on our own table is what an attacker writes
"""An attacker on the audit log: whoever can write to the database with any tool, but has not the key.

Each kind of tampering is a function `(table, rng) → numbers`, the entries of which the check must name one
(none: it must find that something is wrong). What comes out as it was before is no tampering.
"""

import hashlib
import json
import random
import uuid
from collections.abc import Callable
from typing import Any

from django.db import connection

from portal.accounts.models import AuditEntry, AuditHead

Numbers = set[int]
TABLE, HEAD = AuditEntry._meta.db_table, AuditHead._meta.db_table
COLUMNS = [str(field.column) for field in AuditEntry._meta.concrete_fields]
SAID = [name for name in COLUMNS if name not in {"number", "digest", "id"}]


class Table:
    """The audit log by raw SQL."""

    def __init__(self) -> None:
        self.raw = "TEXT" if connection.vendor == "postgresql" else "BLOB"  # a column as its bytes are
        if connection.vendor == "postgresql":
            self.run(f"ALTER TABLE {TABLE} DISABLE TRIGGER USER")

    def run(self, sql: str, *params: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(sql, params)

    def rows(self, sql: str, *params: Any) -> list[Any]:
        with connection.cursor() as cursor:
            cursor.execute(sql, params)
            return cursor.fetchall()

    @property
    def last(self) -> int:
        return int(self.rows(f"SELECT MAX(number) FROM {TABLE}")[0][0])

    def everything(self) -> list[Any]:
        names = ", ".join(f'CAST("{name}" AS {self.raw})' for name in COLUMNS)
        log = self.rows(f"SELECT {names} FROM {TABLE} ORDER BY id, number")
        return [str(log), str(self.rows(f"SELECT number, digest, chain_id FROM {HEAD}"))]

    def column(self, number: int, name: str) -> Any:
        return self.rows(f'SELECT "{name}" FROM {TABLE} WHERE number = %s', number)[0][0]

    def set(self, number: int, name: str, value: Any) -> None:
        self.run(f'UPDATE {TABLE} SET "{name}" = %s WHERE number = %s', value, number)

    def head_to(self, number: int, digest: str | None = None) -> None:
        digest = digest if digest is not None else self.column(number, "digest") if number else ""
        self.run(f"UPDATE {HEAD} SET number = %s, digest = %s", number, digest)

    def shift(self, above: int, by: int) -> None:
        """Give all rows above a number another one, in two steps: numbers are unique."""
        self.run(f"UPDATE {TABLE} SET number = number + 1000000 WHERE number > %s", above)
        self.run(f"UPDATE {TABLE} SET number = number - 1000000 + %s WHERE number > 1000000", by)

    def copy(self, number: int, /, **changed: Any) -> None:
        """Put a row in again, with other values in some columns."""
        names = [name for name in COLUMNS if name != "id"]
        chosen = ", ".join("%s" if name in changed else f'"{name}"' for name in names)
        listed = ", ".join(f'"{name}"' for name in names)
        if connection.vendor == "postgresql":
            types = {"uid": "uuid", "number": "bigint", "digest": "varchar", "mac": "varchar", "action": "varchar"}
            casts = {name: f"%s::{types[name]}" for name in changed}
            chosen = ", ".join(casts.get(name, f'"{name}"') for name in names)
        values = [changed[name] for name in names if name in changed]
        self.run(f"INSERT INTO {TABLE} ({listed}) SELECT {chosen} FROM {TABLE} WHERE number = %s", *values, number)

    def plain_digest(self, number: int) -> str:
        names = ", ".join(f'CAST("{name}" AS {self.raw})' for name in COLUMNS if name != "digest")
        return hashlib.sha256(
            str(self.rows(f"SELECT {names} FROM {TABLE} WHERE number = %s", number)).encode()
        ).hexdigest()

    def without_rules(self) -> None:
        """Take all constraints away, so that anything may stand there twice."""
        if connection.vendor == "postgresql":
            for (name,) in self.rows(
                "SELECT conname FROM pg_constraint WHERE conrelid = %s::regclass AND contype IN ('u', 'c')", TABLE
            ):
                self.run(f'ALTER TABLE {TABLE} DROP CONSTRAINT "{name}"')
            return
        self.run(f"CREATE TABLE bare AS SELECT * FROM {TABLE}")
        self.run(f"DROP TABLE {TABLE}")
        self.run(f"ALTER TABLE bare RENAME TO {TABLE}")


def uid(value: uuid.UUID) -> str:
    return str(value) if connection.vendor == "postgresql" else value.hex


def other(name: str, old: Any, rng: random.Random) -> Any:
    """Another value that this column can hold."""
    number = rng.randrange(1, 10**6)
    if name in {"uid", "actor_id"}:
        return uid(uuid.UUID(int=rng.getrandbits(128)))
    if name == "at":
        return f"2020-01-{rng.randrange(1, 28):02} 10:00:00.{number:06}"
    if name in {"count", "id"}:
        return (old or 0) + number
    if name == "address":
        return f"203.0.113.{rng.randrange(1, 250)}" if old is None or rng.random() < 0.7 else None
    if name in {"before", "after"}:
        return (
            json.dumps({"role": f"other{number}"}) if rng.random() < 0.7 else json.dumps({"a": number, **_opened(old)})
        )
    if name in {"digest", "mac", "alike"}:
        return hashlib.sha256(str(number).encode()).hexdigest()
    if name == "outcome":
        return rng.choice([value for value in ("done", "refused", "failed") if value != old])
    text = str(old or "")
    return rng.choice([f"{text}x"[:60], text[:-1], text.swapcase(), f"other {number}", ""])


def _opened(old: Any) -> dict[str, Any]:
    return dict(json.loads(old)) if isinstance(old, str) else dict(old or {})


def pick(table: Table, rng: random.Random) -> int:
    return rng.randrange(1, table.last + 1)


# --- The kinds --------------------------------------------------------------------------------------------


def alter(table: Table, rng: random.Random) -> Numbers:
    number, name = pick(table, rng), rng.choice([*SAID, "id", "digest"])
    table.set(number, name, other(name, table.column(number, name), rng))
    return {number, number + 1} if name == "digest" else {number}


def alter_and_hash(table: Table, rng: random.Random) -> Numbers:
    number = alter(table, rng) - {0}
    first = min(number)
    table.set(first, "mac", table.plain_digest(first))
    for later in range(first, table.last + 1 if rng.random() < 0.5 else first + 1):
        table.set(later, "digest", table.plain_digest(later))
    if rng.random() < 0.5:
        table.head_to(table.last)
    return {first}


def alter_waiting(table: Table, rng: random.Random) -> Numbers:
    name = rng.choice([name for name in SAID if name not in {"at", "alike"}])
    found = table.rows(f'SELECT id, "{name}" FROM {TABLE} WHERE number IS NULL ORDER BY id')
    row, old = rng.choice(found)
    table.run(f'UPDATE {TABLE} SET "{name}" = %s WHERE id = %s', other(name, old, rng), row)
    return set()


def delete(table: Table, rng: random.Random) -> Numbers:
    number = pick(table, rng)
    table.run(f"DELETE FROM {TABLE} WHERE number = %s", number)
    return {number}


def delete_some(table: Table, rng: random.Random) -> Numbers:
    numbers = sorted(rng.sample(range(1, table.last + 1), rng.randrange(2, 6)))
    for number in numbers:
        table.run(f"DELETE FROM {TABLE} WHERE number = %s", number)
    return {numbers[0]}


def delete_and_close_the_gap(table: Table, rng: random.Random) -> Numbers:
    number, last = rng.randrange(1, table.last), table.last
    table.run(f"DELETE FROM {TABLE} WHERE number = %s", number)
    table.shift(number, -1)
    if rng.random() < 0.7:
        table.head_to(last - 1)
    return {number}


def cut_off(table: Table, rng: random.Random) -> Numbers:
    keep, last = rng.randrange(0, table.last), table.last
    table.run(f"DELETE FROM {TABLE} WHERE number > %s", keep)
    if rng.random() < 0.7:
        table.head_to(keep)
    return {last}


def roll_back_all(table: Table, rng: random.Random) -> Numbers:
    """An older state in which everything agrees, those that wait gone too."""
    keep, last = rng.randrange(1, table.last), table.last
    table.run(f"DELETE FROM {TABLE} WHERE number > %s OR number IS NULL", keep)
    table.head_to(keep)
    return {last}


def wipe(table: Table, rng: random.Random) -> Numbers:
    table.run(f"DELETE FROM {TABLE}")
    table.run(f"DELETE FROM {HEAD}" if rng.random() < 0.5 else f"UPDATE {HEAD} SET number = 0, digest = ''")
    return set()


def insert_at_the_end(table: Table, rng: random.Random) -> Numbers:
    last = table.last
    digest = hashlib.sha256(str(rng.random()).encode()).hexdigest()
    table.copy(pick(table, rng), uid=uid(uuid.UUID(int=rng.getrandbits(128))), number=last + 1, digest=digest)
    if rng.random() < 0.7:
        table.head_to(last + 1)
    return {last + 1}


def insert_between(table: Table, rng: random.Random) -> Numbers:
    number, last = rng.randrange(1, table.last), table.last
    table.shift(number, 1)
    table.copy(number, uid=uid(uuid.UUID(int=rng.getrandbits(128))), number=number + 1)
    table.head_to(last + 1)
    return {number + 1}


def slip_in_waiting(table: Table, rng: random.Random) -> Numbers:
    """A forged entry without a number, for the portal to seal."""
    forged = {"uid": uid(uuid.UUID(int=rng.getrandbits(128))), "number": None, "digest": ""}
    if rng.random() < 0.5:
        forged["mac"] = hashlib.sha256(str(rng.random()).encode()).hexdigest()
    table.copy(pick(table, rng), **forged)
    return set()


def put_in_again(table: Table, rng: random.Random) -> Numbers:
    """An entry as it was, once more: its mac is right."""
    table.without_rules()
    number, last = pick(table, rng), table.last
    if rng.random() < 0.5:
        table.copy(number, number=None, digest="")
    else:
        table.copy(number, number=last + 1)
        table.head_to(last + 1)
    if connection.vendor == "sqlite":
        table.run(f"UPDATE {TABLE} SET id = (SELECT MAX(id) + 1 FROM {TABLE}) WHERE id IS NULL")
    return set()


def two_of_a_number(table: Table, rng: random.Random) -> Numbers:
    table.without_rules()
    number = pick(table, rng)
    table.copy(number, number=rng.choice([number, 0, -number]), uid=uid(uuid.UUID(int=rng.getrandbits(128))))
    if connection.vendor == "sqlite":
        table.run(f"UPDATE {TABLE} SET id = (SELECT MAX(id) + 1 FROM {TABLE}) WHERE id IS NULL")
    return set()


def swap_numbers(table: Table, rng: random.Random) -> Numbers:
    one, two = sorted(rng.sample(range(1, table.last + 1), 2))
    table.set(one, "number", 1000000)
    table.set(two, "number", one)
    table.set(1000000, "number", two)
    return {one}


def swap_contents(table: Table, rng: random.Random) -> Numbers:
    one, two = sorted(rng.sample(range(1, table.last + 1), 2))
    names = rng.choice([SAID, ["digest"], ["mac"], ["after", "before"], ["actor_id", "actor_name"], ["at"]])
    unique = {"uid", "alike"}
    old = {name: (table.column(one, name), table.column(two, name)) for name in names if name not in unique}
    for name, (first, second) in old.items():
        for number, value in ((one, second), (two, first)):
            table.set(number, name, json.dumps(value) if isinstance(value, dict) else value)
    return {one}


def turn_around(table: Table, rng: random.Random) -> Numbers:
    first = rng.randrange(1, table.last - 3)
    end = rng.randrange(first + 2, table.last + 1)
    table.run(f"UPDATE {TABLE} SET number = number + 1000000 WHERE number BETWEEN %s AND %s", first, end)
    table.run(f"UPDATE {TABLE} SET number = %s - (number - 1000000) WHERE number > 1000000", first + end)
    if rng.random() < 0.5:
        table.head_to(table.last)
    return {first}


def renumber(table: Table, rng: random.Random) -> Numbers:
    above, by, last = rng.randrange(0, table.last), rng.randrange(1, 5), table.last
    table.shift(above, by)
    if rng.random() < 0.7:
        table.head_to(last + by)
    return {above + 1}


def forge_head(table: Table, rng: random.Random) -> Numbers:
    last = table.last
    how = rng.randrange(5)
    if how == 0:
        table.head_to(rng.randrange(0, last))
    elif how == 1:
        table.head_to(last + rng.randrange(1, 9), table.column(last, "digest"))
    elif how == 2:
        table.head_to(last, hashlib.sha256(str(rng.random()).encode()).hexdigest())
    elif how == 3:
        table.run(f"UPDATE {HEAD} SET chain_id = %s", uid(uuid.UUID(int=rng.getrandbits(128))))
    else:
        table.run(f"DELETE FROM {HEAD}")
    return set()


def take_the_seal_off(table: Table, rng: random.Random) -> Numbers:
    number = pick(table, rng)
    table.run(f"UPDATE {TABLE} SET number = NULL, digest = '' WHERE number = %s", number)
    return {number}


def garbage(table: Table, rng: random.Random) -> Numbers:
    """What SQLite stores although the column is for something else; elsewhere only another value."""
    if connection.vendor != "sqlite":
        return alter(table, rng)
    number = pick(table, rng)
    name, value = rng.choice(
        [
            *(("at", value) for value in ("yesterday", 5, "2026-99-99 10:00:00")),
            *(("after", value) for value in ('{"half', "[1]", "7")),
            *(("uid", value) for value in ("not a uuid", "")),
            *(("actor_id", value) for value in ("nobody", 17)),
            *(("count", value) for value in ("many", 1.5)),
            ("action", b"\xff\xfe"),
        ]
    )
    table.set(number, name, value)
    return {number}


KINDS: list[Callable[[Table, random.Random], Numbers]] = [
    alter, alter, alter, alter, alter_and_hash, alter_waiting, delete, delete_some, delete_and_close_the_gap, cut_off,
    roll_back_all, wipe, insert_at_the_end, insert_between, slip_in_waiting, put_in_again, two_of_a_number,
    swap_numbers, swap_contents, turn_around, renumber, forge_head, take_the_seal_off, garbage,
]  # fmt: skip
# After these the portal may go on for a while before anybody checks: they must be found all the same.
STAYS_TO_BE_SEEN = {
    alter, alter_and_hash, alter_waiting, delete, delete_some, delete_and_close_the_gap, cut_off, roll_back_all, wipe,
    insert_at_the_end, insert_between, slip_in_waiting, swap_numbers, turn_around, renumber,
}  # fmt: skip
