"""How good the MetaGPT engine is on a model: all five stages on small ideas of many kinds.

Each stage starts from what the one before it gave, as if people had approved it unread. Counted are the documents
in which no section is empty, the programs that start, and the tests that pass: whether a program does what was asked
for is for people to say.
"""

import json
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from executions.engines import launch
from executions.engines.protocol import VERSION, Material, RunSpec, Wanted
from executions.engines.registry import ENGINES

IDEAS = {
    "todo": "A command line to-do list in Python with add, list, done and JSON file storage",
    "units": "A unit converter for the command line: length, weight and temperature",
    "expenses": "An expense tracker that keeps amounts with a category and a date in a file and sums them by month",
    "quiz": "A quiz game in the terminal that asks multiple choice questions from a JSON file and keeps the score",
    "passwords": "A password generator with options for length, digits and symbols, which also rates a password",
    "words": "A program that counts the lines, words and the ten most frequent words of a text file",
    "contacts": "An address book for the terminal that adds, finds and deletes contacts and keeps them in a CSV file",
    "hangman": "A hangman game for the terminal with a list of words built in",
    "dates": "A program that tells how many days lie between two dates and on which weekday each of them falls",
    "tables": "A formatter that aligns the columns of Markdown tables in a file",
}
STAGES: dict[str, tuple[str, list[Wanted], int]] = {
    "requirement": ("Product Manager", [Wanted(type="requirement", title="Product requirements")], 900),
    "design": (
        "Architect",
        [Wanted(type="design_doc", title="System design"), Wanted(type="architecture", title="Architecture")],
        900,
    ),
    "planning": ("Project Manager", [Wanted(type="task_plan", title="Task plan")], 900),
    "development": ("Engineer", [Wanted(type="code", title="Code")], 1400),
    "testing": ("QA Engineer", [Wanted(type="test_plan", title="Tests and their result")], 1200),
}
GOALS = {
    "requirement": "Turn what is asked for into requirements that can be checked.",
    "design": "Design the simplest system that fulfils the requirements.",
    "planning": "Break the design down into tasks in the order of their dependencies.",
    "development": "Write complete code that runs, as the tasks and the design say.",
    "testing": "Find out whether the code does what the requirements say.",
}
# What the catalog sends for the embedded model.
SAMPLING = {"temperature": 0.4, "top_p": 0.9, "top_k": 40, "repeat_penalty": 1.1}
TRIES = 3  # of a stage: without a gateway, a connection that the server drops costs all of it
_SECTION = re.compile(r"^## .+$", re.MULTILINE)
Row = dict[str, Any]


def run(base_url: str, names: list[str], *, language: str = "en", python: str = "", keep: Path | None = None) -> Row:
    """Carry the ideas of these names against an OpenAI-compatible server; what came of them."""
    folder = keep or Path(tempfile.mkdtemp(prefix="portal-ideas-"))
    rows = []
    for name in names:
        rows.append(carry(base_url, name, IDEAS[name], folder / name, language, python))
        print(json.dumps(rows[-1]), flush=True)
    documents = sum(row["documents"] for row in rows)
    wanted = sum(len(wanted) for _, wanted, _ in STAGES.values()) * len(rows)
    return {
        "ok": all(not row["failed"] for row in rows),
        "ideas": len(rows),
        "documents_complete": f"{documents} of {wanted}",
        "programs_started": sum(row["started"] is True for row in rows),
        "tests_run": sum(row["tests_run"] for row in rows),
        "tests_failed": sum(row["tests_failed"] for row in rows),
        "all_tests_passed": sum(bool(row["tests_run"]) and not row["tests_failed"] for row in rows),
        "seconds": round(sum(row["seconds"] for row in rows)),
        "folder": str(folder),
    }


def carry(base_url: str, name: str, idea: str, folder: Path, language: str, python: str) -> Row:
    """One idea through its stages; it ends at the first that fails."""
    row: Row = {"idea": name, "documents": 0, "started": None, "tests_run": 0, "tests_failed": 0, "failed": ""}
    row["by_stage"] = {}
    materials: list[Material] = []
    began = time.monotonic()
    for stage in STAGES:
        work = folder / stage
        work.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        spec = _spec(base_url, name, idea, stage, materials, language)
        for _ in range(TRIES):
            lines = _engine(spec, work, python)
            if not lines or lines[-1].get("reason") != "gateway":
                break
        row["by_stage"][stage] = round(time.monotonic() - start)
        made = next((line["data"]["deliverables"] for line in lines if line.get("type") == "task.completed"), [])
        if not made:
            row["failed"] = f"{stage}: {lines[-1].get('message', 'crashed') if lines else 'crashed'}"
            break
        for one in made:
            (work / f"{one['type']}.md").write_text(one["content"])
            for file in one["files"]:
                (work / "files" / file["path"]).parent.mkdir(parents=True, exist_ok=True)
                (work / "files" / file["path"]).write_text(file["content"])
            row["documents"] += is_complete(one)
            checks = one["metadata"].get("checks", {})
            if one["type"] == "code":
                row |= {"started": checks["ran"], "problems": checks["problems"], "files": len(one["files"])}
            if one["type"] == "test_plan":
                row |= {"tests_run": checks["tests_run"], "tests_failed": checks["tests_failed"]}
            materials.append(
                Material(
                    key=one["type"], title=one["title"], kind=one["type"], role=STAGES[stage][0], version="1.0",
                    content=one["content"], files=one["files"],
                )
            )  # fmt: skip
    row["seconds"] = round(time.monotonic() - began)
    return row


def is_complete(made: Row) -> bool:
    """Whether no section is empty, and there are files where there should be some."""
    sections = _SECTION.split(made["content"])[1:]
    has_files = bool(made["files"]) or made["type"] not in {"code", "test_plan"}
    return len(sections) > 1 and all(section.strip() for section in sections) and has_files


def _engine(spec: RunSpec, work: Path, python: str) -> list[Row]:
    spec_file, events = work / "spec.json", work / "events.jsonl"
    spec_file.write_text(json.dumps(spec))
    events.unlink(missing_ok=True)
    home = work / "home"
    home.mkdir(exist_ok=True)
    command = [python or ENGINES["metagpt"].interpreter, "-m", "tests.soak.stage", str(spec_file), str(events)]
    with (work / "engine.log").open("w") as log:
        subprocess.run(command, cwd=home, env=launch.environment(home), stdout=log, stderr=log, check=False)
    return [json.loads(line) for line in events.read_text().splitlines()] if events.exists() else []


def _spec(base_url: str, name: str, idea: str, stage: str, materials: list[Material], language: str) -> RunSpec:
    role, wanted, max_tokens = STAGES[stage]
    key = role.lower().replace(" ", "_")
    return RunSpec(
        version=VERSION,
        execution=f"idea-{name}-{os.getpid()}",
        attempt=1,
        name=name,
        engine="metagpt",
        process="sequential",
        manager=None,
        agents=[
            {
                "key": key,
                "role": role,
                "goal": GOALS[stage],
                "backstory": "",
                "llm": {**SAMPLING, "max_tokens": max_tokens},
                "tools": [],
                "allow_delegation": False,
                "max_iterations": 4,
            }
        ],
        tasks=[
            {
                "key": stage,
                "name": stage.capitalize(),
                "description": idea,
                "expected_output": "",
                "agent": key,
                "context": [],
                "async_execution": False,
                "human_input": False,
                "tools": [],
            }
        ],
        tools=[],
        finished={},
        waiting=[],
        reviews={},
        language=language,
        date="2026-01-05",
        gateway={"base_url": base_url, "token": "none"},
        project={
            "name": name.capitalize(),
            "type": "",
            "audience": "",
            "requirement": idea,
            "technical": {},
            "folders": [],
        },
        stage={"name": stage, "round": 1, "deliverables": wanted, "instructions": ""},
        materials=materials,
    )
