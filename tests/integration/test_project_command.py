"""`manage.py project`: whole projects from the command line, with their exit codes and their JSON."""

import io
import json
import signal
import subprocess
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from portal.lib.processes import spawn, terminate
from portal.lib.supervisor import manage
from tests.deadlines import wait_for
from tests.fakes.llm import FakeLLM
from tests.roles import ROLES
from tests.stack import ROOT, Stack

pytestmark = pytest.mark.slow

CREWAI_ROLES, METAGPT_ROLES = ROLES["crew-ai"], ROLES["meta-gpt"]


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeLLM]:
    with FakeLLM() as server:
        yield server


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, fake: FakeLLM) -> Iterator[Stack]:
    """A data folder with models, in which nothing runs."""
    with Stack(tmp_path_factory.mktemp("p"), llm_url=fake.url, processes=()) as stack:
        stack.make_crews({name: {"mode": name} for name in ("ok", "401", "slow-1000")})
        yield stack


def project(stack: Stack, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return stack.manage("project", *arguments, "--user", "ann", check=False)


def new(*arguments: str, mode: str = "ok", roles: Sequence[str] = CREWAI_ROLES) -> list[str]:
    """`project new` with a fake model for every role."""
    mapped = [word for role in roles for word in ("--map", f"{role}=fake-{mode}")]
    return ["new", "--requirement", "An app for runners.", *mapped, *arguments]


def lines_of(done: "subprocess.CompletedProcess[str]") -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_whole(events: list[dict[str, Any]]) -> None:
    """No event of any stream is missing or printed twice."""
    seqs: dict[str, list[int]] = {}
    for event in events:
        seqs.setdefault(event.get("execution") or event["project"], []).append(event["seq"])
    for seen in seqs.values():
        assert seen == list(range(1, len(seen) + 1))


def test_a_project_on_a_machine_where_nothing_runs(stack: Stack, fake: FakeLLM) -> None:
    asked_before = len(fake.ledger)
    done = project(stack, *new("--name", "Runners", "--run", "--approve-all", "--json"))

    assert done.returncode == 0, done.stderr
    *events, outcome = lines_of(done)
    assert_whole(events)
    assert (outcome["status"], outcome["progress_percentage"]) == ("completed", 100)
    assert [(one["stage_name"], one["stage_status"]) for one in outcome["stages"]] == [
        ("research", "completed"), ("writing", "completed"), ("planning", "completed"),
    ]  # fmt: skip
    made = {
        one["stage_name"]: (one["deliverable_type"], one["version"], one["status"]) for one in outcome["deliverables"]
    }
    assert made == {
        "research": ("report", "1.0", "approved"),
        "writing": ("document", "1.0", "approved"),
        "planning": ("plan", "1.0", "approved"),
    }
    asked = fake.ledger[asked_before:]
    assert outcome["llm_calls"] == len(asked) == 3
    assert outcome["prompt_tokens"] == sum(request.prompt_tokens for request in asked)
    assert "Starting gateway, worker; logs in" in done.stderr, "the model is not needed here"
    assert stack.processes() == [], "it ends what it started"


def test_the_template_says_what_nobody_else_says(stack: Stack) -> None:
    mapped = [word for role in METAGPT_ROLES for word in ("--map", f"{role}=fake-ok")]
    done = project(stack, "new", "--template", "api", "--engine", "meta-gpt", "--json", *mapped)

    assert done.returncode == 0, done.stderr
    (made,) = lines_of(done)
    assert (made["status"], made["selected_ai"]) == ("planning", "meta-gpt")
    assert [stage["responsible_role"] for stage in made["stages"]] == METAGPT_ROLES
    assert made["name"]


def test_without_approve_all_it_waits_and_goes_on_when_started_again(stack: Stack) -> None:
    done = project(stack, *new("--name", "Waiting", "--run", "--json"))
    assert done.returncode == 3, done.stderr
    outcome = lines_of(done)[-1]
    assert (outcome["status"], outcome["waiting_for"], len(outcome["continue_at"])) == ("review", "approval", 2)
    assert all("/deliverables/" in address for address in outcome["continue_at"])

    again = project(stack, "start", "Waiting")  # there is nothing to start: it still waits, and says where
    assert again.returncode == 3, again.stderr
    assert "It waits for approval. Approve at http" in again.stderr

    for stage in ("research", "writing"):
        approved = project(stack, "approve", "Waiting", stage)
        assert approved.returncode == 0, approved.stderr
    done = project(stack, "start", "Waiting")
    assert done.returncode == 3, done.stderr
    assert "It waits for approval. Approve at http" in done.stderr
    assert "manage.py up" in done.stderr

    assert project(stack, "reject", "Waiting", "planning").returncode == 2, "it wants to know why"
    sent_back = project(stack, "reject", "Waiting", "planning", "--comments", "Fewer weeks.")
    assert sent_back.returncode == 0, sent_back.stderr
    done = project(stack, "start", "Waiting", "--approve-all", "--json")
    assert done.returncode == 0, done.stderr
    versions = {one["stage_name"]: one["version"] for one in lines_of(done)[-1]["deliverables"]}
    assert versions == {"research": "1.0", "writing": "1.0", "planning": "1.1"}
    assert stack.processes() == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["new", "--run"], "--name"),
        (["new", "--template", "castle", "--run"], "there is no template “castle”"),
        (["new", "--name", "It", "--map", "Researcher=gpt-9", "--run"], "there is no model “gpt-9”"),
        (["new", "--name", "It", "--map", "Researcher", "--run"], "ROLE=MODEL"),
        (["new", "--name", "It", "--map", "Painter=fake-ok", "--run"], "Painter"),
        (["new", "--name", "It", "--requirement", "A", "--requirement-file", "/dev/null", "--run"], "not both"),
        (["new", "--name", "It", "--requirement-file", "/nowhere", "--run"], "cannot read"),
        (["new", "--name", "It", "--budget-usd", "much", "--run"], "no amount of money"),
        (["start", "Nobody's"], "There is no project “Nobody's”."),
        (["approve", "Nobody's", "research"], "There is no project"),
    ],
)
def test_bad_input_is_two_and_starts_nothing(stack: Stack, arguments: list[str], words: str) -> None:
    done = project(stack, *arguments)

    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Starting" not in done.stderr
    assert done.stdout == ""


def test_a_failing_project_is_one(stack: Stack) -> None:
    done = project(stack, *new("--name", "Failing", "--run", "--approve-all", "--json", mode="401"))

    assert done.returncode == 1, done.stderr
    outcome = lines_of(done)[-1]
    assert outcome["status"] == "failed"
    assert all(stage["problem"] for stage in outcome["stages"] if stage["stage_status"] == "failed")


def test_ctrl_c_stops_what_is_at_work_and_it_can_go_on(stack: Stack, fake: FakeLLM, tmp_path: Path) -> None:
    fake.reset()
    out, err = tmp_path / "out", tmp_path / "err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = spawn(
            manage("project", *new("--name", "Slow", "--run", "--json", mode="slow-1000"), "--user", "ann"),
            env=stack.environment, cwd=ROOT, stdout=stdout, stderr=stderr,
        )  # fmt: skip
    try:
        wait_for(lambda: fake.ledger or process.poll() is not None, "the model is asked", on_timeout=err.read_text)
        process.send_signal(signal.SIGINT)
        code = process.wait()
    finally:
        terminate(process)

    assert code == 4, err.read_text()
    assert json.loads(out.read_text().splitlines()[-1])["status"] == "paused"
    assert stack.processes() == []
    fake.modes["slow-1000"] = "ok"
    done = project(stack, "start", "Slow", "--approve-all", "--json")
    assert done.returncode == 0, done.stderr
    assert lines_of(done)[-1]["status"] == "completed"


def test_list_show_and_export(stack: Stack, tmp_path: Path) -> None:
    made = project(stack, *new("--name", "Shown"))
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()

    assert key in project(stack, "list").stdout
    shown = lines_of(project(stack, "show", key, "--json"))[0]
    assert (shown["project"], shown["status"]) == (key, "planning")
    assert "Research" in project(stack, "show", "Shown").stdout
    target = tmp_path / "out.zip"
    assert project(stack, "export", key, "--output", str(target)).returncode == 0
    with zipfile.ZipFile(io.BytesIO(target.read_bytes())) as opened:
        assert "shown/run.py" in opened.namelist()


@pytest.mark.metagpt
def test_a_metagpt_project_goes_through_its_five_stages(stack: Stack) -> None:
    arguments = new("--name", "To do", "--engine", "meta-gpt", "--run", "--approve-all", "--json", roles=METAGPT_ROLES)
    done = project(stack, *arguments)

    assert done.returncode == 0, done.stderr
    *events, outcome = lines_of(done)
    assert_whole(events)
    assert [stage["stage_status"] for stage in outcome["stages"]] == ["completed"] * 5
    assert {one["deliverable_type"] for one in outcome["deliverables"]} == {
        "requirement", "design_doc", "architecture", "task_plan", "code", "test_plan",
    }  # fmt: skip
    assert stack.processes() == []
