"""What a role is told before it is asked anything: the project, the work of those before it, and people's wishes.

The same spec gives the same words. The parts stand in one order, so that models which remember the beginning of a
text have most of it in mind already at the next question.
"""

import re
from dataclasses import dataclass

from executions.engines.metagpt import documents
from executions.engines.protocol import Material, Review, RunSpec, TaskSpec

MIN_PART = 400  # characters that a part keeps when the whole is too long
CUT = "\n… (shortened)"
_SERVER = re.compile(
    r"\bhttps?\b|(?-i:\bREST)|endpoint|web ?(?:site|app|server|service)|\b(?:flask|fastapi|django)\b"
    r"|서버|웹|엔드포인트",
    re.IGNORECASE,
)
_SERVER_KINDS = frozenset({"web_app", "api"})
_KINDS = {"requirement": "product requirements", "design_doc": "system design", "test_plan": "test plan"}


@dataclass(frozen=True)
class Part:
    title: str
    text: str
    is_vital: bool = False  # the last to be shortened

    def __str__(self) -> str:
        return f"=== {self.title} ===\n{self.text.strip()}"


class Brief:
    """The parts of what a role is told; `text(limit)` shortens the longest of them until the whole fits."""

    def __init__(self, parts: list[Part]) -> None:
        self._parts = [part for part in parts if part.text.strip()]

    def __len__(self) -> int:
        return sum(len(str(part)) for part in self._parts)

    def text(self, limit: int | None = None) -> str:
        """All of it in at most about `limit` characters."""
        if limit is None or len(self) <= limit:
            return "\n\n".join(map(str, self._parts))
        room = limit - sum(len(part.text) for part in self._parts if part.is_vital)
        each = self._share(max(room, 0))
        vital = max(limit - each * sum(not part.is_vital for part in self._parts), MIN_PART)
        lengths = [vital if part.is_vital else each for part in self._parts]
        shortened = [
            Part(part.title, part.text if len(part.text) <= length else _cut(part.text, length), part.is_vital)
            for part, length in zip(self._parts, lengths, strict=True)
        ]
        return "\n\n".join(map(str, shortened))

    def _share(self, room: int) -> int:
        """How long each part may be so that all of them together take `room`."""
        lengths = sorted(len(part.text) for part in self._parts if not part.is_vital)
        for done, length in enumerate(lengths):
            share = room // (len(lengths) - done)
            if length > share:
                return max(share, MIN_PART)
            room -= length
        return max(lengths, default=MIN_PART)


def of_stage(spec: RunSpec, task: TaskSpec) -> Brief:
    """What the role of a project's stage is told."""
    project, stage = spec.get("project"), spec.get("stage")
    parts = []
    if project is not None:
        parts.append(Part("Project", _facts(spec), is_vital=True))
        parts.append(Part("Requirement", project["requirement"], is_vital=True))
    said = project["requirement"].strip() if project is not None else ""
    parts += [_material(found) for found in spec.get("materials", []) if found["content"].strip() != said]
    if stage is not None and stage["instructions"].strip():
        parts.append(Part("Instructions for this stage", stage["instructions"], is_vital=True))
    elif task["description"].strip():
        parts.append(Part("Your task", f"{task['description']}\n{task['expected_output']}", is_vital=True))
    parts += _sent_back(spec["reviews"].get(task["key"], []))
    return Brief(parts)


def of_task(spec: RunSpec, task: TaskSpec, given: list[tuple[str, str]]) -> Brief:
    """What an agent is told of a task that is no stage's; `given`: names and outputs of the tasks before."""
    parts = [Part("Your task", task["description"], is_vital=True)]
    if task["expected_output"].strip():
        parts.append(Part("Expected output", task["expected_output"], is_vital=True))
    parts += [Part(f"Result of: {name}", text) for name, text in given]
    parts += [_material(found) for found in spec.get("materials", [])]
    parts += _sent_back(spec["reviews"].get(task["key"], []))
    return Brief(parts)


def code_given(spec: RunSpec) -> dict[str, str]:
    """The source files among the materials; a later version of one replaces an earlier."""
    return {
        file["path"]: file["content"]
        for found in spec.get("materials", [])
        if found["kind"] == "code"
        for file in found["files"]
    }


def files_named(spec: RunSpec, *kinds: str) -> list[str]:
    """The source files that the approved work names: the newest of the first of these kinds that names any."""
    for kind in kinds:
        for found in reversed(spec.get("materials", [])):
            if found["kind"] == kind and (paths := documents.planned_files(found["content"])):
                return paths
    return []


def speaks_of_http(spec: RunSpec) -> bool:
    """Whether anything in what was asked and approved is about a server: endpoints are planned only there."""
    project = spec.get("project")
    if project is not None and project["type"] in _SERVER_KINDS:
        return True
    texts = [found["content"] for found in spec.get("materials", [])]
    texts += [project["requirement"], str(project["technical"])] if project is not None else []
    texts += [task["description"] for task in spec["tasks"]]
    return any(_SERVER.search(text) for text in texts)


def _facts(spec: RunSpec) -> str:
    project = spec["project"]
    lines = [f"Name: {project['name']}"]
    if project["type"]:
        lines.append(f"Kind: {project['type'].replace('_', ' ')}")
    if project["audience"]:
        lines.append(f"For: {project['audience']}")
    lines += [f"{name}: {_told(value)}" for name, value in sorted(project["technical"].items()) if value]
    if project["folders"]:
        lines.append(f"Folders: {', '.join(project['folders'])}")
    return "\n".join(lines)


def _told(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in sorted(value.items()))
    return str(value)


def _material(found: Material) -> Part:
    kind = _KINDS.get(found["kind"], found["kind"].replace("_", " "))
    by = f", by the {found['role']}" if found["role"] else ""
    return Part(f"{found['title']} ({kind}{by})", found["content"])


def _sent_back(reviews: list[Review]) -> list[Part]:
    if not reviews:
        return []
    asked = [text for review in reviews if (text := review["feedback"].strip())] or ["Do it better."]
    wishes = "\n".join(f"{number}. {text}" for number, text in enumerate(asked, start=1))
    return [
        Part("Your earlier work, which a person has sent back", reviews[-1]["output"]),
        Part("What the person asks you to change: do all of it, and give the whole work anew", wishes, is_vital=True),
    ]


def _cut(text: str, length: int) -> str:
    kept = text[: max(length - len(CUT), 0)]
    return kept[: kept.rfind("\n") if kept.rfind("\n") > len(kept) // 2 else len(kept)] + CUT
