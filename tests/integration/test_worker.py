"""`manage.py worker`: a queue cluster that hangs is noticed and started again."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from portal.lib.processes import spawn, terminate
from portal.lib.supervisor import manage
from tests.deadlines import SLOWNESS, wait_for
from tests.stack import ROOT, Stack

pytestmark = pytest.mark.slow
HANG_AFTER = 15 * SLOWNESS


class Watched:
    """A worker of a test, whose watch is quick."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.log = stack.folder / "worker.out"
        with self.log.open("wb") as log:
            self.process = spawn(
                manage("worker", "--heartbeat-every", "1", "--hang-after", str(HANG_AFTER)),
                env=stack.environment, cwd=ROOT, stdout=log, stderr=log,
            )  # fmt: skip

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def queue(self) -> psutil.Process | None:
        for child in psutil.Process(self.process.pid).children():
            if "queue" in child.cmdline():
                return child
        return None

    def forks(self) -> list[psutil.Process]:
        """The cluster's workers, monitor and pusher, once all are there."""
        queue = self.queue()
        sentinel = queue.children() if queue else []
        forks = sentinel[0].children() if sentinel else []
        return sorted(forks, key=lambda fork: fork.pid) if len(forks) == 4 else []


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    stack = Stack(tmp_path_factory.mktemp("w"), llm_url="http://127.0.0.1:9/v1", processes=())
    stack.manage("migrate", "-v", "0")
    watched = Watched(stack)
    yield watched
    terminate(watched.process, grace_seconds=30)


def kill_idle_workers(worker: Watched) -> None:
    for fork in worker.forks()[:2]:
        fork.kill()


def freeze_everything(worker: Watched) -> None:
    queue = worker.queue()
    assert queue is not None
    os.killpg(queue.pid, signal.SIGSTOP)


@pytest.mark.parametrize("harm", [kill_idle_workers, freeze_everything])
def test_a_cluster_that_hangs_is_started_again(worker: Watched, harm: Callable[[Watched], None]) -> None:
    wait_for(worker.forks, "the cluster is complete", on_timeout=worker.said)
    before = worker.queue()
    assert before is not None

    harm(worker)

    wait_for(lambda: not before.is_running(), "the hanging cluster is killed", on_timeout=worker.said)
    wait_for(worker.forks, "a new cluster is complete", on_timeout=worker.said)
    assert "the queue cluster has been silent" in worker.said()


def test_only_one_worker_a_data_folder(worker: Watched) -> None:
    wait_for(worker.forks, "the worker runs", on_timeout=worker.said)

    done = worker.stack.manage("worker", check=False)

    assert done.returncode == 1
    assert f"worker already runs for this data folder (process {worker.process.pid})" in done.stderr


def test_sigterm_ends_all_of_it(tmp_path: Path) -> None:
    stack = Stack(tmp_path, llm_url="http://127.0.0.1:9/v1", processes=())
    stack.manage("migrate", "-v", "0")
    watched = Watched(stack)
    wait_for(watched.forks, "the cluster is complete", on_timeout=watched.said)

    watched.process.terminate()

    assert watched.process.wait() == 0
    wait_for(lambda: not stack.processes(), "no process is left", on_timeout=lambda: str(stack.processes()))
