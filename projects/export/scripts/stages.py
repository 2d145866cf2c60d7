"""The project as data, and where its documents go. Standard library only.

What people and models wrote stands in project.json, models.json and the texts beside them, and is only ever
read: nothing of it is run.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# A file of a code bundle in an answer: its path as a heading, then its text as a fenced block.
FILE = re.compile(r"^#{2,6}[ \t]+`?(?P<path>[\w./-]+)`?[ \t]*\n+```[^\n]*\n(?P<text>.*?)^```[ \t]*$", re.M | re.S)
BUNDLES = {"code", "test_plan"}
READABLE = {"", ".md", ".json"}  # a folder, or a text
BUNDLE_FORM = (
    "Give every file in full. Write its path as a heading (### src/main.py), and under it its text as one fenced "
    "code block."
)


@dataclass(frozen=True)
class Role:
    """Who works on a stage."""

    name: str
    goal: str
    backstory: str


@dataclass(frozen=True)
class Wanted:
    """A document that a stage has to produce."""

    type: str
    title: str
    file: str  # where its text goes, below the folder of the output


@dataclass(frozen=True)
class Stage:
    """A step of the project."""

    name: str
    role: Role
    depends_on: list[str]
    task: str
    expected_output: str
    deliverables: list[Wanted]


@dataclass(frozen=True)
class Model:
    """Where a role's model is asked, by OpenAI's protocol."""

    name: str
    base_url: str
    api_key: str = field(repr=False)
    parameters: dict[str, Any]


class Project:
    """All that stands beside this file, and the folder `output` that grows while the stages work."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.facts = _read("project.json")
        self.models = _read("models.json")
        roles = {role["name"]: Role(**role) for role in self.facts["roles"]}
        self.stages = [
            Stage(
                name=stage["name"],
                role=roles[stage["role"]],
                depends_on=stage["depends_on"],
                task=stage["task"],
                expected_output=stage["expected_output"],
                deliverables=[Wanted(**wanted) for wanted in stage["deliverables"]],
            )
            for stage in self.facts["stages"]
        ]
        self.texts: dict[str, list[tuple[Wanted, str]]] = {}  # by stage: what it has produced

    @property
    def name(self) -> str:
        return str(self.facts["name"])

    @property
    def language(self) -> str:
        return {"ko": "Korean", "en": "English"}.get(self.facts["language"], "English")

    # --- Order ----------------------------------------------------------------------------------

    def waves(self) -> Iterator[list[Stage]]:
        """Stages that may work side by side, in the order in which they can: each after all that it depends on."""
        left = [stage for stage in self.stages if stage.name not in self.texts]
        while left:
            ready = [stage for stage in left if all(name in self.texts for name in stage.depends_on)]
            if not ready:
                sys.exit(f"These stages wait for each other: {', '.join(stage.name for stage in left)}")
            yield ready
            left = [stage for stage in left if stage.name not in self.texts]

    def before(self, stage: Stage) -> list[Stage]:
        """All that `stage` depends on, also by others, in the project's order."""
        wanted, open_ = set(), list(stage.depends_on)
        while open_:
            name = open_.pop()
            if name not in wanted:
                wanted.add(name)
                open_ += next(other.depends_on for other in self.stages if other.name == name)
        return [other for other in self.stages if other.name in wanted]

    def take_over(self, until: str) -> None:
        """Use what the portal's stages gave, instead of working again, for all that stands before stage `until`."""
        first = next((stage for stage in self.stages if stage.name == until), None)
        if first is None:
            sys.exit(f"There is no stage {until}. There are: {', '.join(stage.name for stage in self.stages)}")
        for stage in self.before(first):
            delivered = [
                one
                for one in _read("deliverables/index.json")
                if one["stage"] == stage.name and one["status"] != "rejected" and Path(one["file"]).suffix in READABLE
            ]
            if not delivered:
                sys.exit(f"Nothing of stage {stage.name} came along: start with it, or before it.")
            self.texts[stage.name] = [
                (Wanted(one["type"], one["title"], one["file"]), _delivered(one["file"])) for one in delivered
            ]

    # --- What a role is asked, and what it answers -------------------------------------------------

    def brief(self, stage: Stage, wanted: Wanted) -> str:
        """The whole task, with the requirement and all that earlier stages gave."""
        parts = [stage.task, f"Write: {wanted.title}."]
        if wanted.type in BUNDLES:
            parts.append(BUNDLE_FORM)
        if self.language != "English":
            parts.append(f"Write in {self.language}.")
        parts.append(f"# The requirement\n\n{_text(self.facts['requirement'])}")
        parts += [f"# Attached: {name}\n\n{_text(f'attachments/{name}')}" for name in self.facts["attachments"]]
        for earlier in [*self.before(stage), stage]:
            for given, text in self.texts.get(earlier.name, []):
                parts.append(f"# {given.title} ({earlier.role.name})\n\n{text}")
        return "\n\n".join(parts)

    def keep(self, stage: Stage, wanted: Wanted, text: str) -> None:
        """Write an answer into the output folder; a bundle's files also as files."""
        path = self.output / wanted.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.rstrip() + "\n", encoding="utf-8")
        folder = path.with_suffix("")
        if wanted.type in BUNDLES:
            for found in FILE.finditer(text):
                _write_inside(folder, found["path"], found["text"])
        self.texts.setdefault(stage.name, []).append((wanted, text))
        print(f"{stage.name}: {stage.role.name} wrote {path}", flush=True)

    def model(self, role: Role) -> Model:
        """The model of a role: from the environment, else as the project's mapping says."""
        mapped = self.models[role.name]
        own = mapped["variables"]
        base_url = os.environ.get(f"{own}_BASE_URL", "")
        key = os.environ.get(f"{own}_API_KEY", "")
        name = os.environ.get(f"{own}_MODEL", "") or os.environ.get("OPENAI_MODEL", "") or mapped["model"]
        needs_key = False
        if not base_url and (base_url := os.environ.get("OPENAI_BASE_URL", "")):
            key = key or os.environ.get("OPENAI_API_KEY", "")
        elif not base_url:
            base_url, needs_key = mapped["base_url"], mapped["needs_key"]
            key = key or os.environ.get(mapped["key_variable"], "")
        if not base_url:
            sys.exit(f"Where is the model of {role.name}? Set OPENAI_BASE_URL, or {own}_BASE_URL.")
        if needs_key and not key:
            sys.exit(f"The model of {role.name} needs a key: set {mapped['key_variable']}.")
        return Model(name, base_url, key or "none", mapped["parameters"])


def opened() -> Project:
    """The project, as the command line wants it."""
    parser = argparse.ArgumentParser(description="Work the project's stages, and write what they give.")
    parser.add_argument("--output", type=Path, default=HERE / "output", help="where documents go (output)")
    parser.add_argument("--from", dest="start", metavar="STAGE", help="start here, from what came along of the earlier")
    options = parser.parse_args()
    project = Project(options.output)
    if options.start:
        project.take_over(options.start)
    return project


def _read(name: str) -> Any:
    return json.loads(_text(name))


def _text(name: str | Path) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _delivered(name: str) -> str:
    """The text of a deliverable that came along; of a folder those of its files."""
    path = HERE / name
    if path.is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    files = sorted(file for file in path.rglob("*") if file.is_file())
    texts = [f"### {file.relative_to(path).as_posix()}\n\n```\n{_text(file)}\n```" for file in files]
    return "\n\n".join(texts)


def _write_inside(folder: Path, name: str, text: str) -> None:
    """Write a file whose path a model chose: never outside of `folder`."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or path == folder.resolve():
        print(f"left out a file outside of its folder: {name}", file=sys.stderr)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
