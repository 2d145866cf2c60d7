"""Runs of an engine whose tasks work on files: another machine goes on with the files of the finished tasks."""

import asyncio
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from executions import workspace
from executions.engines import registry
from executions.models import Execution
from executions.runner.attempt import Run
from executions.status import Status
from portal.lib.dbthreads import DatabaseThreads
from tests.engines import engine_host, run_spec, task
from tests.factories.executions import LEASE, TaskRunFactory, execution_in

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

WRITES = """
from pathlib import Path
Path("src").mkdir()
Path("src/notes.txt").write_text("written by the first task")
result = "done"
"""
# Half a file of a task that was cut off is none of the next attempt's.
DIES_ONCE = """
import os, signal
from pathlib import Path
if spec["attempt"] == 1:
    Path("src/half.txt").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
result = Path("src/notes.txt").read_text() + str(sorted(os.listdir("src")))
"""


@pytest.fixture
def machines(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Two folders for the files of two machines, which share a storage; the engine's host serves both."""
    with tempfile.TemporaryDirectory(prefix="portal-files-") as made:
        folder = Path(made)
        folder.chmod(0o711)
        settings.RUN_DIR, settings.MEDIA_ROOT = folder, folder / "files"
        keeper = registry.Engine("keeper", "Keeper", "tests.fakes.probe_engine", "pytest", keeps_files=True)
        monkeypatch.setitem(registry.ENGINES, "keeper", keeper)
        # A runner starts no engine before there is a gateway; these tasks call nobody.
        with socket.create_server(("127.0.0.1", 0)) as gateway, engine_host(folder / "host", "keeper") as host:
            settings.GATEWAY_URL = f"http://127.0.0.1:{gateway.getsockname()[1]}"
            (folder / "host-keeper.sock").symlink_to(host.socket)
            places = [folder / "one", folder / "two"]
            for place in places:
                place.mkdir(mode=0o711)
            yield places


def carried(execution: Execution, machine: Path, settings: Any) -> Execution:
    """The execution after one attempt by a runner on a machine."""
    settings.RUNS_DIR = machine
    execution.start(worker=machine.name, lease=LEASE)

    async def carry() -> None:
        threads = DatabaseThreads(2)
        run = Run(execution, threads)
        await run.carry()
        run.clean_up()
        threads.close()

    asyncio.run(carry())
    return Execution.objects.get(pk=execution.pk)


def test_another_machine_goes_on_with_the_files_of_the_finished_tasks(machines: list[Path], settings: Any) -> None:
    tasks = [task("1", description=WRITES), task("2", description=DIES_ONCE)]
    limits = {"max_duration_seconds": 3600, "task_timeout_seconds": 3600}
    snapshot = {"spec": run_spec(engine="keeper", tasks=tasks), "limits": limits}
    execution = execution_in(Status.PENDING, engine="keeper", snapshot=snapshot)
    for position, key in enumerate(("1", "2")):
        TaskRunFactory(execution=execution, task=key, position=position)

    first = carried(execution, machines[0], settings)
    assert (first.status, first.recoveries) == (Status.PENDING, 1)
    assert "signal 9" in first.attempts.get().reason
    assert not (machines[0] / str(execution.pk) / "1" / "work").exists()

    second = carried(first, machines[1], settings)
    assert second.status == Status.COMPLETED, second.error_message
    assert second.final_output == "written by the first task['notes.txt']"

    workspace.forget(execution.pk)
    assert not (settings.MEDIA_ROOT / workspace.FOLDER / str(execution.pk)).exists()
