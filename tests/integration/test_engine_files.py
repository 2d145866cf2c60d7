"""An engine that keeps files: what its tasks worked on comes along to wherever the run goes on."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from executions.engines import client, workspace
from executions.engines.protocol import RunSpec
from tests.deadlines import DEADLINE, wait_for_async
from tests.engines import carry, engine_host, lines_of, run_spec, task

WRITE = """
from pathlib import Path
Path("notes").mkdir(exist_ok=True)
Path("notes", key).write_text(f"by {key}")
result = sorted(path.name for path in Path("notes").iterdir())
"""
STAY = """
import time
Path("notes", "half").write_text("torn")
output.event("log")
time.sleep(1000)
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    with engine_host(tmp_path_factory.mktemp("host"), "keeper") as found:
        yield found


def spec(*codes: str, **changes: Any) -> RunSpec:
    tasks = [task(str(number), description=code) for number, code in enumerate(codes, start=1)]
    return run_spec(engine="keeper", tasks=tasks, **changes)


def hand_over(lines: list[dict[str, Any]], old: Path, new: Path) -> None:
    """What a runner does: the newest archive that the log names goes to the next attempt's folder."""
    (new / "work").mkdir(parents=True)
    names = [line["data"][workspace.KEY] for line in lines if workspace.KEY in line.get("data", {})]
    shutil.copy(old / "work" / names[-1], new / "work")
    (new / "work" / names[-1]).chmod(0o644)
    shutil.rmtree(old / "work")


async def test_a_run_killed_between_two_tasks_goes_on_elsewhere_with_its_files(host, tmp_path):
    run = await client.start(host.socket, spec(WRITE, WRITE, WRITE + STAY), tmp_path / "1")
    await wait_for_async(lambda: "log" in {line["type"] for line in lines_of(tmp_path / "1")}, "the third task")
    run.kill()
    await asyncio.wait_for(run.wait(), DEADLINE)
    run.close()
    lines = lines_of(tmp_path / "1")
    finished = {line["task"]: line["data"]["output"] for line in lines if line["type"] == "task.completed"}
    assert set(finished) == {"1", "2"}
    hand_over(lines, tmp_path / "1", tmp_path / "2")
    ended = await carry(host, spec(WRITE, WRITE, WRITE, finished=finished, attempt=2), tmp_path / "2")
    assert ended.result == "['1', '2', '3']"  # and nothing of the half of a task
    assert {line["task"] for line in ended.events()} == {"3"}


async def test_files_of_a_draft_are_there_when_its_task_is_sent_back(host, tmp_path):
    asks = spec(WRITE)
    asks["tasks"][0]["human_input"] = True
    ended = await carry(host, asks, tmp_path / "1")
    assert ended.lines[-1] == {"kind": "waiting"}
    hand_over(ended.lines, tmp_path / "1", tmp_path / "2")
    code = "from pathlib import Path; result = [p.read_text() for p in Path('notes').iterdir()] + reviews"
    review = {"output": "draft", "feedback": "more"}
    again = await carry(host, spec(code, reviews={"1": [review]}, attempt=2), tmp_path / "2")
    assert again.result == repr(["by 1", review])


async def test_files_that_are_too_large_to_be_kept_end_the_run_with_a_sentence(host, tmp_path):
    code = "for n in range(2):\n    with open(f'{n}', 'wb') as file: file.truncate(100 << 20)"
    ended = await carry(host, spec(code), tmp_path)
    assert "too many to be kept" in ended.failure["message"]
    assert not list((tmp_path / "work").glob("portal-*"))


async def test_an_archive_that_cannot_be_read_ends_the_run_with_a_sentence(host, tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "portal-workspace-1.tar.gz").write_bytes(b"torn")
    (tmp_path / "work" / "portal-workspace-1.tar.gz").chmod(0o644)
    ended = await carry(host, spec(WRITE), tmp_path)
    assert "could not be put back" in ended.failure["message"]
