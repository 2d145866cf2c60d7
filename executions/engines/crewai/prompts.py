"""What agents are told beyond what the crew's author wrote. The same spec gives the same words.

Of a run that works on a stage of a project these are what is known of the project, and its materials: the
requirement's files and the finished work of earlier stages, in the order of the spec. Small models read little,
so each material is shortened to `Bounds.one` characters and all of them together to `Bounds.all`; a text that
was shortened says so. When that is still more than the role's model can read, it is asked again within `BRIEF`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from executions.engines.protocol import Material, Review, RunSpec, TaskSpec


@dataclass(frozen=True)
class Bounds:
    """How many characters of materials an agent is given: of one, and of all together."""

    one: int
    all: int


USUAL = Bounds(one=8_000, all=20_000)
BRIEF = Bounds(one=2_000, all=5_000)
_LANGUAGES = {"en": "English", "ko": "Korean"}


def sent_back(reviews: Sequence[Review]) -> str:
    """The agent's last answer to a task, and what people asked for when they sent its answers back, oldest first."""
    asked = [text for review in reviews if (text := review["feedback"].strip())] or ["A better answer."]
    wishes = asked[0] if len(asked) == 1 else "\n".join(f"{n}. {text}" for n, text in enumerate(asked, start=1))
    return (
        "You have answered this task before, and a person has sent your answer back.\n\n"
        f"Your last answer:\n{reviews[-1]['output'].strip()}\n\n"
        f"What the person asks you to change:\n{wishes}\n\n"
        "Answer the task again, and do all that the person asks for. Give the whole new answer, not only what changed."
    )


def of_stage(spec: RunSpec, task: TaskSpec, bounds: Bounds = USUAL) -> list[str]:
    """What an agent that works on a stage is told beside its task; nothing in a run that belongs to no project."""
    known = _about(spec, task)
    return [*([known] if known else []), *given(spec.get("materials", []), bounds)]


def given(materials: Sequence[Material], bounds: Bounds = USUAL) -> list[str]:
    """The materials, in their order, each under a heading that says what it is; those without a text are left out."""
    texts = [(material, text) for material in materials if (text := _text(material))]
    rooms = _shares([len(text) for _material, text in texts], bounds)
    return [
        f"{_heading(material)}\n{_shortened(text, room)}" for (material, text), room in zip(texts, rooms, strict=True)
    ]


def _about(spec: RunSpec, task: TaskSpec) -> str:
    """The project and the document that is wanted, as far as the task's own text does not say it."""
    lines = []
    if project := spec.get("project"):
        said = {
            "The project": project["name"],
            "For whom": project["audience"],
            "What is asked for": project["requirement"],
        }
        lines += [f"{label}: {text}" for label, text in said.items() if text.strip() not in task["description"]]
        lines += [f"{name}: {_value(value)}" for name, value in sorted(project["technical"].items()) if value]
    if stage := spec.get("stage"):
        if (wish := stage["instructions"].strip()) and wish not in task["description"]:
            lines.append(wish)
        titles = ", ".join(f"“{wanted['title']}”" for wanted in stage["deliverables"])
        document = f"Your answer is kept as the document {titles}. " if titles else ""
        language = _LANGUAGES.get(spec["language"], spec["language"])
        lines.append(f"{document}Write it in {language}, as Markdown, and add nothing around it.")
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _heading(material: Material) -> str:
    if material["kind"] == "attachment":
        return f"A file that belongs to what is asked for, {material['title']}:"
    by = ", ".join(filter(None, [material["role"], material["version"] and f"version {material['version']}"]))
    return f"Finished work, “{material['title']}”{f' ({by})' if by else ''}:"


def _text(material: Material) -> str:
    files = [f"{file['path']}:\n```\n{file['content'].strip()}\n```" for file in material["files"]]
    return "\n\n".join(filter(None, [material["content"].strip(), *files]))


def _shares(lengths: Sequence[int], bounds: Bounds) -> list[int]:
    """How much of each text fits: what short ones leave of an even share is for the longer ones."""
    shares, left = [0] * len(lengths), bounds.all
    shortest_first = sorted(range(len(lengths)), key=lambda at: lengths[at])
    for done, at in enumerate(shortest_first):
        shares[at] = min(lengths[at], bounds.one, left // (len(lengths) - done))
        left -= shares[at]
    return shares


def _shortened(text: str, room: int) -> str:
    if len(text) <= room:
        return text
    return f"{text[:room].rstrip()}\n[Shortened: the first {room} of {len(text)} characters.]"
