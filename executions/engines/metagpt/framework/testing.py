"""MetaGPT's QA Engineer, whose tests really run, and only in the sandbox.

`RunCode` would install packages and run tests with all that the process may do; nothing of that is left.
"""

import re

from metagpt.actions import DebugError, RunCode, WriteTest
from metagpt.schema import RunCodeResult

from executions.engines.metagpt import checks, prompts, repairs, sandbox, schemas, trials
from executions.engines.metagpt.framework import desk as desks
from executions.engines.metagpt.framework.desk import Desk

VERSIONS = 3  # of a file of tests that the checks find fault with
_CAUSE = schemas.record(cause=schemas.text(260, least=10), wrong=schemas.choice("program", "test"))
# What MetaGPT reads out of a result: to whom it goes.
_PASSED = "## Status:\nPASS\n## Send To:\nNoOne\n"
_OURS = "## Status:\nFAIL\n## Send To:\nQaEngineer\n"
_THEIRS = "## Status:\nFAIL\n## Send To:\nEngineer\n"


def install() -> None:
    """Have MetaGPT's testers work this way."""
    WriteTest.write_code = _write
    RunCode.run = _run
    RunCode.run_script = RunCode.run_text = _never
    RunCode._install_dependencies = staticmethod(_install_nothing)
    DebugError.run = _debug


async def _write(self: WriteTest, prompt: str) -> str:
    desk = desks.current()
    path = self.i_context.code_doc.filename
    name = test_path(path)
    desk.tell("agent.started", {"action": "WriteTest", "file": name})
    others = {other: text for other, text in desk.files.items() if other != path}
    code = await _best_of(desk, name, prompts.test(path, desk.files[path], name, others))
    desk.tests[name] = code
    desk.tell("agent.completed", {"action": "WriteTest", "file": name})
    return code


async def _run(self: RunCode) -> RunCodeResult:
    """Run one file of tests, and find out why it fails if it does."""
    desk = desks.current()
    path = self.i_context.code_filename
    name = test_path(path)
    try:
        result = trials.tested(desk.files, desk.tests, name)
    except sandbox.Unavailable as exc:
        desk.findings[name] = f"not run: {exc}"
        return RunCodeResult(summary=_PASSED, stdout="", stderr="")
    desk.tested[name] = result
    desk.note(f"{name}: {result.run} tests run, {result.failed} failed", kind="tests")
    if result.is_fine:
        desk.findings.pop(name, None)
        return RunCodeResult(summary=_PASSED, stdout="", stderr=result.output)
    question = prompts.why_failed(path, desk.files[path], name, desk.tests[name], result.output)
    found = await desk.interview.record(question, _CAUSE)
    desk.findings[name] = found["cause"]
    summary = _THEIRS if found["wrong"] == "program" else _OURS
    return RunCodeResult(summary=f"## instruction:\n{found['cause']}\n{summary}", stdout="", stderr=result.output)


async def _debug(self: DebugError) -> str:
    """Write tests again that were wrong themselves; a new version stays when no more of it fails."""
    desk = desks.current()
    path = self.i_context.code_filename
    name = test_path(path)
    before = desk.tested[name]
    question = prompts.debug(
        path, desk.files[path], name, desk.tests[name], before.output, desk.findings.get(name, "unknown")
    )
    code = await _best_of(desk, name, question)
    try:
        after = trials.tested(desk.files, {**desk.tests, name: code}, name)
    except sandbox.Unavailable:
        return desk.tests[name]
    if after.run and after.failed <= before.failed:
        desk.tests[name] = code
    return desk.tests[name]


async def _best_of(desk: Desk, name: str, question: str) -> str:
    best, least = "", -1
    found: list[str] = []
    for number in range(VERSIONS):
        hint = prompts.again(name, found) if found else ""
        code = await desk.interview.code(question + hint, warmer=number * 0.2)
        code = repairs.with_imports(name, code, desk.files)
        found = checks.problems(name, code, desk.files)
        if not re.search(r"def test_", code):
            found.append("there is no test method")
        if "unittest" not in code:
            found.append("use unittest")
        if least < 0 or len(found) < least:
            best, least = code, len(found)
        if not found:
            break
    return best


def test_path(path: str) -> str:
    """The file of tests that belongs to a file."""
    return f"tests/test_{path.removesuffix('.py').replace('/', '_')}.py"


def _install_nothing(**_: object) -> None:
    """Generated code decides nothing about what is installed."""


async def _never(*_: object, **__: object) -> tuple[str, str]:
    raise RuntimeError("generated code runs in the sandbox alone")
