"""Trying generated programs out: does one start, what do its tests say. What is found out is said as it is."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from executions.engines.metagpt import checks, sandbox
from executions.engines.metagpt.wording import say
from executions.engines.protocol import File

START_SECONDS = 8.0
TEST_SECONDS = 30.0
MOST_SHOWN = 3000  # characters of a program's own words in a deliverable
ENTRIES = ("main.py", "app.py", "cli.py", "run.py", "__main__.py")
_RAN = re.compile(r"^Ran (\d+) tests?", re.MULTILINE)
_BAD = re.compile(r"(?:failures|errors|unexpected successes)=(\d+)")
_FRAME = re.compile(r'File "\./([\w/.-]+\.py)", line (\d+)')
_USAGE = 2  # with which argparse ends a program that was given too little


@dataclass
class Checks:
    """What is known of a bundle of code; becomes `metadata.checks`."""

    syntax_ok: bool | None = None  # None: in no language that is checked here
    ran: bool | None = None  # None: not tried
    exit_code: int | None = None
    tests_run: int = 0
    tests_failed: int = 0
    sandbox: str = sandbox.NONE
    problems: list[str] = field(default_factory=list)
    said: str = ""

    def as_data(self) -> dict[str, Any]:
        return asdict(self)

    def markdown(self, language: str, *, tests: bool = False) -> str:
        """The checks as people read them."""

        def word(text: str) -> str:
            return say(text, language)

        syntax = {None: "not checked", True: "correct", False: "wrong"}[self.syntax_ok]
        started = {None: "not tried", True: "yes", False: "no"}[self.ran]
        code = "" if self.exit_code is None else f" (exit {self.exit_code})"
        lines = [f"- {word('Syntax')}: {word(syntax)}", f"- {word('Started')}: {word(started)}{code}"]
        if tests:
            counted = f"{self.tests_run} {word('run')}, {self.tests_failed} {word('failed')}"
            lines.append(f"- {word('Tests')}: {counted if self.tests_run else word('none run')}")
        lines.append(f"- {word('Sandbox')}: {word(self.sandbox)}")
        if self.problems:
            lines.append(f"- {word('Problems')}:")
            lines += [f"  - {problem}" for problem in self.problems]
        if self.said.strip():
            lines += ["", f"{word('Output')}:", "", "```text", self.said.strip().replace("```", "'''"), "```"]
        return "\n".join(lines)


def static(files: Mapping[str, str]) -> Checks:
    """What can be said without running anything."""
    python = [path for path in files if path.endswith(".py")]
    found = [f"{path}: {problem}" for path in files for problem in checks.problems(path, files[path], files)]
    broken = any(checks.syntax_error(path, files[path]) for path in python)
    return Checks(syntax_ok=not broken if python else None, problems=found, sandbox=sandbox.kind())


def started(files: Mapping[str, str]) -> Checks:
    """Check a program, and start it as a person would: without arguments, and with nothing to read."""
    result = static(files)
    entry = entry_of(files)
    reason = why_not(files, entry)
    if reason:
        result.problems.append(reason)
        return result
    try:
        with sandbox.folder(files) as place:
            outcome = sandbox.run(place, [entry], seconds=START_SECONDS)
    except sandbox.Unavailable as exc:
        result.sandbox = sandbox.NONE
        result.problems.append(f"not started: {exc}")
        return result
    result.exit_code = outcome.exit_code
    result.said = outcome.said[-MOST_SHOWN:]
    problem = crash_of(outcome)
    result.ran = not problem
    if problem:
        result.problems.append(f"{entry} does not start: {problem}")
    return result


def why_not(files: Mapping[str, str], entry: str) -> str:
    """Why a program cannot be started here, or nothing."""
    if not entry and any(path.endswith(".py") for path in files):
        return "not started: no file of it starts a program"
    if not entry:
        return "not started: only programs in Python are run here"
    if checks.syntax_error(entry, files[entry]):
        return "not started: its syntax is wrong"
    if missing := checks.packages(files):
        return f"not started: it needs packages that are not installed here ({', '.join(missing)})"
    return ""


def entry_of(files: Mapping[str, str]) -> str:
    """The file that starts the program; empty when none does."""
    python = [path for path in files if path.endswith(".py")]
    guarded = [path for path in python if "__main__" in files[path]]
    return next(filter(None, (entry_named(python), *guarded, *(python if len(python) == 1 else ()))), "")


def entry_named(paths: Sequence[str]) -> str:
    """The file among these that is named like one that starts a program; empty when none is."""
    return next((path for name in ENTRIES for path in paths if PurePosixPath(path).name == name), "")


def with_entry(paths: Sequence[str]) -> list[str]:
    """The files of a plan; what starts the program is written last, and planned where a program in Python has none."""
    is_python = any(path.endswith(".py") for path in paths)
    return entry_last([*paths, *(["main.py"] if is_python and not entry_named(paths) else [])])


def entry_last(paths: Sequence[str]) -> list[str]:
    """`paths` in their order, but what starts the program after all that it may use."""
    entry = entry_named(paths)
    return [*(path for path in paths if path != entry), *([entry] if entry else [])]


def crash_of(outcome: sandbox.Result) -> str:
    """Why a program ended badly, in a line; nothing when it did not.

    That it still runs, waits for input that never comes, or asks for arguments is as it should be.
    """
    if outcome.exit_code in (None, 0, _USAGE) and "Traceback" not in outcome.error:
        return ""
    lines = [line for line in outcome.error.strip().splitlines() if line.strip()]
    last = lines[-1].strip() if lines else ""
    if last.startswith("EOFError"):
        return ""
    if "Traceback" in outcome.error:
        return f"{_place(outcome.error)}{last}"
    return "" if outcome.exit_code == 1 and outcome.said.strip() else f"exit {outcome.exit_code}: {last}".rstrip(": ")


def culprit_of(error: str, files: Mapping[str, str]) -> str:
    """The file in which a program broke, by its traceback; empty when that is not known."""
    frames = [path for path, _ in _FRAME.findall(error) if path in files]
    return frames[-1] if frames else ""


def _place(error: str) -> str:
    frames = _FRAME.findall(error)
    return f"{frames[-1][0]} line {frames[-1][1]}: " if frames else ""


@dataclass(frozen=True)
class Tested:
    """What came of one file of tests."""

    run: int
    failed: int
    output: str

    @property
    def is_fine(self) -> bool:
        return self.run > 0 and not self.failed


def tested(files: Mapping[str, str], tests: Mapping[str, str], path: str) -> Tested:
    """Run the tests in `path` against the program's files. Raises Unavailable."""
    with sandbox.folder({**files, **tests}) as place:
        name = path.removesuffix(".py").replace("/", ".")
        outcome = sandbox.run(place, ["-m", "unittest", "-v", name], seconds=TEST_SECONDS)
    ran = _RAN.search(outcome.error)
    count = int(ran[1]) if ran else 0
    failed = min(sum(map(int, _BAD.findall(outcome.error.rpartition("FAILED")[2]))), count) if ran else 0
    if outcome.exit_code is None:
        return Tested(max(count, 1), max(failed, 1), f"{outcome.said}\nThe tests did not end in time.")
    if outcome.exit_code != 0 and not failed:
        return Tested(max(count, 1), 1, outcome.said)
    return Tested(count, failed, outcome.said)


def as_files(found: Mapping[str, str]) -> list[File]:
    return [File(path=path, content=content) for path, content in found.items()]
