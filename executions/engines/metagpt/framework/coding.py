"""MetaGPT's Engineer, held to what can be checked.

`WriteCode` writes a file and writes it again, with hints, while the checks find something; the version with the
fewest findings stays. `WriteCodeReview` asks for a judgement, and rewrites only where that makes nothing worse. When
all files are there the program is started once, and the file in which it breaks is repaired.
"""

from collections.abc import Sequence
from typing import Any

from metagpt.actions import WriteCode, WriteCodeReview
from metagpt.schema import CodingContext

from executions.engines.metagpt import checks, documents, prompts, repairs, schemas, trials
from executions.engines.metagpt.framework import desk as desks
from executions.engines.metagpt.framework.desk import Desk

VERSIONS = 3  # of a file that the checks find fault with
REPAIRS = 2  # of a program that does not start
_VERDICT = schemas.record(
    problems=schemas.many(schemas.text(150), 0, 4),
    result=schemas.choice("LGTM", "LBTM"),
)


def install() -> None:
    """Have MetaGPT's engineers work this way."""
    WriteCode.write_code = _write
    WriteCodeReview.write_code_review_and_rewrite = _review


async def _write(self: WriteCode, prompt: str) -> str:
    """Write one file. MetaGPT's own prompt is put aside: the role was told all that it says."""
    desk = desks.current()
    path = CodingContext.loads(self.i_context.content).filename
    desk.tell("agent.started", {"action": "WriteCode", "file": path})
    question = prompts.write(path, desk.plan, desk.files, desk.earlier.get(path, ""))
    code = await best_of(desk, path, question)
    desk.files[path] = code
    desk.tell("agent.completed", {"action": "WriteCode", "file": path})
    return code


async def _review(self: WriteCodeReview, context_prompt: str, cr_prompt: str, filename: str) -> tuple[str, str | None]:
    """Judge a file, and rewrite it where that is asked for. As MetaGPT wants it: the verdict, and the new file."""
    desk = desks.current()
    code = desk.files[filename]
    done = {path: text for path, text in desk.files.items() if path != filename}
    known = _problems(desk, filename, code)
    verdict = await desk.interview.record(prompts.review(filename, code, done, known), _VERDICT)
    wishes = [*known, *verdict["problems"]]
    if not known and (verdict["result"] == "LGTM" or not wishes):
        return "LGTM", None
    question = prompts.rewrite(filename, code, desk.plan, done, wishes or ["make it complete and correct"])
    new = await best_of(desk, filename, question, start=code, versions=1)
    desk.files[filename] = new
    return "LBTM", new


async def best_of(desk: Desk, path: str, question: str, *, start: str | None = None, versions: int = VERSIONS) -> str:
    """The version of a file with the fewest findings; `start`: the one that there is, which stays unless a new one is
    no worse."""
    best, least = start, len(_problems(desk, path, start)) if start is not None else None
    found: Sequence[str] = ()
    for number in range(versions):
        hint = prompts.again(path, found) if found else ""
        code = await desk.interview.code(question + hint, warmer=number * 0.2)
        before = _before(desk, path)
        code = repairs.with_imports(path, repairs.without_repeats(path, code, before), before, desk.plan)
        found = [*_problems(desk, path, code), *_lost(desk, path, start, code)]
        if least is None or len(found) < least or (start is not None and len(found) == least):
            best, least = code, len(found)
        if not found:
            break
    if least:
        desk.note(f"{path}: {least} problems are left", kind="checks")
    return best or ""


async def repair(desk: Desk) -> trials.Checks:
    """Start the finished program, and repair the file in which it breaks. The checks of what is there at the end."""
    result = trials.started(desk.files)
    for _ in range(REPAIRS):
        if result.ran is not False:
            break
        path = trials.culprit_of(result.said, desk.files) or trials.entry_of(desk.files)
        done = {other: text for other, text in desk.files.items() if other != path}
        wishes = [problem.removeprefix(f"{path}: ") for problem in result.problems]
        question = prompts.rewrite(path, desk.files[path], desk.plan, done, [*wishes, result.said[-600:]])
        code = await best_of(desk, path, question, start=desk.files[path], versions=1)
        after = trials.started({**desk.files, path: code})
        desk.note(f"{path} was repaired: {after.problems or 'it starts'}", kind="checks")
        if after.ran is not False or len(after.problems) <= len(result.problems):
            desk.files[path], result = code, after
    return result


def _problems(desk: Desk, path: str, code: str) -> list[str]:
    later = [other for other in desk.plan if other not in desk.files and other != path]
    found = checks.problems(path, code, desk.files, later)
    if path.endswith(".py") and prompts.starts(path, desk.plan) and "__main__" not in code:
        found.append("it does not start the program: end it with if __name__ == '__main__': main()")
    return found


def _before(desk: Desk, path: str) -> dict[str, str]:
    """The finished files that are planned before this one, which it may import."""
    earlier = desk.plan[: desk.plan.index(path)] if path in desk.plan else []
    return {other: desk.files[other] for other in earlier if other in desk.files}


def _lost(desk: Desk, path: str, before: str | None, code: str) -> list[str]:
    """Names of an earlier version that other files use and the new one has no more."""
    if (
        before is None
        or not path.endswith(".py")
        or checks.syntax_error(path, before)
        or checks.syntax_error(path, code)
    ):
        return []
    gone = checks.module_of(before).names - checks.module_of(code).names
    others = "\n".join(text for other, text in desk.files.items() if other != path)
    return [f"{name} is gone, which other files use" for name in sorted(gone) if name in others]


def plan_schema() -> dict[str, Any]:
    """The form in which an engineer says which files to write, where the approved plan names none."""
    return schemas.record(files=schemas.many(schemas.word(r"[A-Za-z0-9_./-]{1,60}", 60), 1, 8))


async def plan(desk: Desk, named: list[str]) -> list[str]:
    """The files to write: those that the plan names, else those that the engineer thinks of; one starts the program."""
    if named:
        return trials.with_entry(named)
    question = (
        "=== Now: which files? ===\nName the source files that have to be written, as few as make sense, in the order "
        "in which they are to be written; the one that starts the program comes last. Answer as JSON."
    )
    found = await desk.interview.record(question, plan_schema())
    return trials.with_entry(documents.planned_files("\n".join(found["files"]))) or ["main.py"]
