"""What each stage of a project asks of which role, and the deliverables that are made of what comes back."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from executions.engines.metagpt import brief, checks, documents, fields, sandbox, trials
from executions.engines.metagpt.framework import coding, company, nodes
from executions.engines.metagpt.framework import desk as desks
from executions.engines.metagpt.framework.desk import Desk
from executions.engines.metagpt.wording import say
from executions.engines.protocol import AgentSpec, File, Made, Wanted

MOST_PROMPT = 20_000  # characters kept of what a role was asked
MOST_LISTED = 200_000  # characters of code in the text of a result

# What the work of a stage is, as deliverables in the order in which they are wanted.
Work = Callable[[Desk, AgentSpec], Awaitable[dict[str, Made]]]


async def carry(desk: Desk, agent: AgentSpec) -> tuple[str, list[Made]]:
    """Do the work of the desk's stage: its main text, and what it produced. Raises Failed."""
    stage = desk.spec["stage"]
    wanted = stage["deliverables"] or _USUAL.get(stage["name"], [Wanted(type="document", title=desk.task["name"])])
    work = _WORK.get(stage["name"], _nothing_yet)
    ready = await work(desk, agent)
    made = []
    for one in wanted:
        found = ready.get(one["type"]) or await _document(desk, one)
        titled: Made = {**found, "type": one["type"], "title": one["title"], "prompt": asked(desk)}
        made.append(titled)
        size = len(titled["content"]) + sum(len(file["content"]) for file in titled["files"])
        desk.tell("deliverable.created", {"type": one["type"], "title": one["title"], "size": size})
    main = made[0]
    listed = documents.listing(main["files"])[:MOST_LISTED]
    return "\n\n".join(filter(None, [main["content"].strip(), listed])), made


def asked(desk: Desk) -> str:
    """What the role was told and asked."""
    return "\n\n".join([desk.interview.brief.text(), *desk.interview.asked])[:MOST_PROMPT]


async def _requirement(desk: Desk, agent: AgentSpec) -> dict[str, Made]:
    await _act(desk, agent, "requirement", "WritePRD")
    values = desk.answers["WritePRD"]
    project = desk.spec.get("project")
    wish = project["requirement"] if project else desk.task["description"]
    return {"requirement": _made(documents.requirement(_title(desk, "requirement"), values, wish, desk.language))}


async def _design(desk: Desk, agent: AgentSpec) -> dict[str, Made]:
    await _act(desk, agent, "design", "WriteDesign")
    values = desk.answers["DesignAPI"]
    return {
        "design_doc": _made(documents.design(_title(desk, "design_doc"), values, desk.language)),
        "architecture": _made(documents.architecture(_title(desk, "architecture"), values, desk.language)),
    }


async def _planning(desk: Desk, agent: AgentSpec) -> dict[str, Made]:
    await _act(desk, agent, "planning", "WriteTasks")
    values = desk.answers["PM_NODE"]
    return {"task_plan": _made(documents.plan(_title(desk, "task_plan"), values, desk.language))}


async def _development(desk: Desk, agent: AgentSpec) -> dict[str, Made]:
    desks.put(desk)
    reviews = desk.spec["reviews"].get(desk.task["key"], [])
    desk.earlier = documents.listed(reviews[-1]["output"]) if reviews else {}
    named = brief.files_named(desk.spec, "task_plan", "design_doc", "architecture")
    desk.plan = await coding.plan(desk, list(desk.earlier) or named)
    await _act(desk, agent, "development", "WriteCode")
    found = await coding.repair(desk)
    title = _title(desk, "code")
    entry = trials.entry_of(desk.files)
    start = f"```sh\npython {entry}\n```" if entry else ""
    files = trials.as_files(desk.files)
    content = documents.assembled(
        title,
        [
            (say("Files", desk.language), documents.file_table(files, desk.language)),
            (say("How to start", desk.language), start),
            (say("Checks", desk.language), found.markdown(desk.language)),
        ],
    )
    return {"code": _made(content, files=files, checks=found.as_data())}


async def _testing(desk: Desk, agent: AgentSpec) -> dict[str, Made]:
    desks.put(desk)
    desk.files = brief.code_given(desk.spec)
    desk.tell("agent.started", {"action": "TestPlan"})
    await nodes.TEST_PLAN.fill(context="", llm=None)
    desk.tell("agent.completed", {"action": "TestPlan"})
    python = {path: code for path, code in desk.files.items() if path.endswith(".py")}
    if python:
        await _act(desk, agent, "testing", "WriteTest")
    found = _test_checks(desk)
    word = desk.language
    files = trials.as_files(dict(sorted(desk.tests.items())))
    findings = [f"- `{path}`: {text}" for path, text in sorted(desk.findings.items())]
    rest = [
        (say("Test files", word), documents.file_table(files, word) if files else ""),
        (say("How to run the tests", word), "```sh\npython -m unittest discover -s tests -t .\n```" if files else ""),
        (say("Checks", word), found.markdown(word, tests=True)),
        (say("Findings", word), "\n".join(findings)),
    ]
    content = documents.testing(_title(desk, "test_plan"), desk.answers["TestPlan"], word, rest)
    return {"test_plan": _made(content, files=files, checks=found.as_data())}


def _test_checks(desk: Desk) -> trials.Checks:
    """What is known of the program and its tests, once they have run."""
    found = trials.static(desk.tests)
    if missing := checks.packages({**desk.files, **desk.tests}):
        found.problems.append(f"needs packages that are not installed here: {', '.join(missing)}")
    if not desk.files:
        found.problems.append("there is no code to test")
    elif not desk.tests:
        found.problems.append("not run: only programs in Python are run here")
    found.tests_run = sum(result.run for result in desk.tested.values())
    found.tests_failed = sum(result.failed for result in desk.tested.values())
    found.ran = True if desk.tested else None
    if found.tests_run:
        found.exit_code = int(any(not result.is_fine for result in desk.tested.values()))
    if any(text.startswith("not run") for text in desk.findings.values()):
        found.sandbox = sandbox.NONE
    told = [f"== {path}\n{result.output.strip()}" for path, result in sorted(desk.tested.items())]
    found.said = "\n\n".join(text[-trials.MOST_SHOWN :] for text in told)
    return found


async def _nothing_yet(desk: Desk, agent: AgentSpec) -> dict[str, Made]:
    """A stage that none of MetaGPT's roles knows: its deliverables are documents of no special form."""
    desks.put(desk)
    return {}


async def _document(desk: Desk, wanted: Wanted) -> Made:
    """A document of no special form, by the role whose desk it is."""
    desk.tell("agent.started", {"action": "Document", "title": wanted["title"]})
    language = desk.language
    form = {key: (part.schema, part.ask) for key, part in fields.document(language).items()}
    values = await desk.interview.form(f"{wanted['title']} ({wanted['type'].replace('_', ' ')})", form)
    desk.tell("agent.completed", {"action": "Document", "title": wanted["title"]})
    return _made(documents.other(wanted["title"], values, language))


async def _act(desk: Desk, agent: AgentSpec, stage: str, action: str) -> None:
    kind, options = company.ROLES[stage]
    is_short = stage not in ("development", "testing")  # those tell of each file
    if is_short:
        desk.tell("agent.started", {"action": action})
    await company.work(desk, agent, kind, **options)
    if is_short:
        desk.tell("agent.completed", {"action": action})


def _title(desk: Desk, kind: str) -> str:
    wanted = desk.spec["stage"]["deliverables"] or _USUAL.get(desk.spec["stage"]["name"], [])
    title = next((one["title"] for one in wanted if one["type"] == kind), kind.replace("_", " ").capitalize())
    project = desk.spec.get("project")
    return f"{title}: {project['name']}" if project else title


def _made(content: str, *, files: list[File] | None = None, checks: Mapping[str, Any] | None = None) -> Made:
    return Made(
        type="",
        title="",
        description="",
        content=content,
        file_type="code" if files else "markdown",
        files=files or [],
        metadata={"checks": dict(checks)} if checks is not None else {},
        prompt="",
    )


_WORK: dict[str, Work] = {
    "requirement": _requirement,
    "design": _design,
    "planning": _planning,
    "development": _development,
    "testing": _testing,
}
_USUAL: dict[str, list[Wanted]] = {
    "requirement": [Wanted(type="requirement", title="Product requirements")],
    "design": [Wanted(type="design_doc", title="System design"), Wanted(type="architecture", title="Architecture")],
    "planning": [Wanted(type="task_plan", title="Task plan")],
    "development": [Wanted(type="code", title="Code")],
    "testing": [Wanted(type="test_plan", title="Tests and their result")],
}
