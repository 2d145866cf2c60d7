"""What each part of MetaGPT's documents looks like when it is asked for as data: one `Field` for each of their keys.

MetaGPT asks for diagrams as Mermaid and for tables as nested lists, which models get wrong. Here they are asked for
as records; `documents` draws the diagrams. A part that is not listed is asked for as its type says.
"""

import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from executions.engines.metagpt import schemas
from executions.engines.metagpt.schemas import Schema

NAME = r"[A-Za-z_][A-Za-z0-9_]{0,38}"
PATH = r"[A-Za-z0-9_-][A-Za-z0-9_./-]{1,58}\.[A-Za-z0-9]{1,8}"
ENGLISH = r"[A-Za-z0-9][A-Za-z0-9 &+._'-]{1,38}"


@dataclass(frozen=True)
class Field:
    """How one part is asked for."""

    schema: Schema
    ask: str  # what it is to hold


@dataclass(frozen=True)
class Known:
    """A part that need not be asked for."""

    value: Any


def requirement(language: str) -> dict[str, Field]:
    """The parts of a product requirement document."""
    line = _lines(language)
    return {
        "Programming Language": Field(
            schemas.word(r"[A-Za-z#+., /-]{1,40}"),
            "the programming language that the requirement names; if it names none: Python",
        ),
        "Product Goals": Field(schemas.many(line(130), 2, 4), "three different goals of this product, each concrete"),
        "User Stories": Field(
            schemas.many(line(170), 3, 5),
            "사용자 이야기 3~5개. 형식: 사용자로서, ...하기 위해 ...하고 싶다"
            if language == "ko"
            else "3 to 5 stories: As a <kind of user>, I want <what> so that <why>",
        ),
        "Competitive Analysis": Field(
            schemas.many(schemas.record(product=schemas.word(ENGLISH), assessment=line(150)), 3, 5),
            "3 to 5 real products like this one, each with a strength and a weakness",
        ),
        "Competitive Quadrant Chart": Field(
            schemas.record(
                x_low=schemas.word(ENGLISH),
                x_high=schemas.word(ENGLISH),
                y_low=schemas.word(ENGLISH),
                y_high=schemas.word(ENGLISH),
                points=schemas.many(
                    schemas.record(name=schemas.word(ENGLISH), x=schemas.whole(0, 10), y=schemas.whole(0, 10)), 3, 6
                ),
            ),
            "two axes, each with the name of its low and its high end, and where on them (0 to 10) this product and "
            "each of those stand",
        ),
        "Requirement Analysis": Field(
            line(700, least=80), "what the product must do: functions, data, storage, and what happens on errors"
        ),
        "Requirement Pool": Field(
            schemas.many(schemas.record(priority=schemas.choice("P0", "P1", "P2"), requirement=line(150)), 3, 8),
            "the 5 most important requirements, most important first, each with its priority",
        ),
        "UI Design draft": Field(
            line(500, least=40), "how people use it: screens or commands, what they enter and what they see"
        ),
        "Anything UNCLEAR": Field(line(250), "what is open, as questions to the customer; “Nothing.” if nothing is"),
    }


def design(language: str) -> dict[str, Field]:
    """The parts of a system design; `Usage` is ours, all else MetaGPT's."""
    line = _lines(language)
    english = _lines("en")
    return {
        "Implementation approach": Field(
            line(700, least=80),
            "which libraries are used (the language's standard library where it will do), how data is stored, how "
            "errors are handled",
        ),
        "Usage": Field(
            schemas.many(schemas.record(example=english(90), result=line(140)), 2, 6),
            "how the finished program is used: a command line, a request or an input with real values, and what it "
            "gives; in the order in which somebody would try them",
        ),
        "File list": Field(
            schemas.many(schemas.word(PATH, 60), 1, 8),
            "the source files, as few as make sense, one where that will do, with the file that starts the program "
            "(main.py in Python); no files that the program itself writes",
        ),
        "Data structures and interfaces": Field(
            schemas.many(
                schemas.record(
                    name=schemas.word(NAME),
                    file=schemas.word(PATH, 60),
                    purpose=line(110),
                    attributes=schemas.many(english(50), 0, 6),
                    methods=schemas.many(english(80), 1, 8),
                ),
                1,
                6,
            ),
            "the classes: in which of the files each stands, attributes as name: type, and methods as "
            "name(argument: type) -> type",
        ),
        "Program call flow": Field(
            schemas.many(
                schemas.record(**{"from": schemas.word(NAME), "to": schemas.word(NAME), "call": english(80)}), 3, 12
            ),
            "who calls what in a typical run, from User to the classes above, in order",
        ),
        "Anything UNCLEAR": Field(line(250), "what is open; “Nothing.” if nothing is"),
    }


def plan(language: str, files: Sequence[str] = ()) -> dict[str, Field]:
    """The parts of a task plan; `files`: those of the design, each of which it tells of once, and of no others."""
    line = _lines(language)
    english = _lines("en")
    told = _each(files, line) if files else _any_files(line)
    return {
        "Required packages": Field(
            schemas.many(english(40), 0, 6), "packages to install; empty if the standard library will do"
        ),
        "Logic Analysis": Field(
            told,
            "for each file of the design, in the order in which they are to be written (a file after those that it "
            "uses): what it holds, and which of the other files it uses",
        ),
        "Full API spec": Field(
            schemas.many(
                schemas.record(
                    method=schemas.choice("GET", "POST", "PUT", "PATCH", "DELETE"), path=english(60), does=line(110)
                ),
                0,
                10,
            ),
            "the HTTP endpoints, if the program has any; else empty",
        ),
        "Shared Knowledge": Field(line(350, least=20), "formats and conventions that the files share"),
        "Anything UNCLEAR": Field(line(250), "what is open; “Nothing.” if nothing is"),
    }


def _any_files(line: Any) -> Schema:
    """Tasks on files that nobody has named yet."""
    uses = schemas.many(schemas.word(PATH, 60), 0, 4)
    return schemas.many(schemas.record(file=schemas.word(PATH, 60), does=line(200), uses=uses), 1, 12)


def _each(files: Sequence[str], line: Any) -> Schema:
    """A task for each of these files, by its name; what a task uses is one of the others."""
    others = {path: [other for other in files if other != path] for path in files}
    return schemas.of(
        {
            path: schemas.record(
                does=line(200),
                uses=schemas.many(schemas.choice(*(others[path] or [path])), 0, min(len(others[path]), 4)),
            )
            for path in files
        }
    )


def tasks(told: Any) -> list[dict[str, Any]]:
    """What `plan` asks for of the files, as a list, in either of its forms."""
    return [{"file": path, **task} for path, task in told.items()] if isinstance(told, dict) else list(told)


def tests(language: str) -> dict[str, Field]:
    """The parts of a test plan."""
    line = _lines(language)
    return {
        "Test approach": Field(line(450, least=40), "what is tested, how, and what is not"),
        "Test cases": Field(
            schemas.many(schemas.record(title=line(80), steps=line(170), expected=line(130)), 3, 8),
            "the cases that matter most, with real values; wrong input too",
        ),
        "Risks": Field(schemas.many(line(150), 1, 4), "where this program is most likely to fail"),
    }


def document(language: str) -> dict[str, Field]:
    """The parts of any other document."""
    line = _lines(language)
    section = schemas.record(heading=line(60), text=line(700, least=40))
    return {
        "Summary": Field(line(400, least=40), "what matters most, in a few sentences"),
        "Sections": Field(schemas.many(section, 3, 8), "the document itself, section by section"),
    }


FORMS: dict[str, typing.Callable[[str], dict[str, Field]]] = {
    "WritePRD": requirement,
    "DesignAPI": design,
    "PM_NODE": plan,
    "TestPlan": tests,
    "Document": document,
}


def typed(kind: Any, language: str) -> Schema:
    """A bounded schema for a Python type, for a part that no form knows."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Union:
        return typed(next(item for item in arguments if item is not type(None)), language)
    if origin is list or kind is list:
        return schemas.many(typed(arguments[0], language) if arguments else schemas.text(170, language), 1, 8)
    if kind is int:
        return schemas.whole(0, 1_000_000)
    return schemas.text(400, language)


def _lines(language: str) -> Any:
    def line(length: int, **options: Any) -> Schema:
        return schemas.text(length, language, **options)

    return line
