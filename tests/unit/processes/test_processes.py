"""Nothing survives its parent, and locks say who runs."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from portal.lib.processes import (
    AlreadyRunning,
    RunLock,
    free_port,
    holder,
    is_free,
    is_listening,
    listen,
    spawn,
    tell,
    terminate,
)
from tests.deadlines import wait_for

ROOT = Path(__file__).parents[3]


def start_python(source: str, *arguments: str) -> "subprocess.Popen[str]":
    """A Python that runs `source` and writes lines."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source), *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def read_pids(process: "subprocess.Popen[str]", count: int) -> list[int]:
    assert process.stdout is not None
    return [int(process.stdout.readline()) for _ in range(count)]


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def kill_and_see_all_gone(process: "subprocess.Popen[str]", pids: list[int]) -> None:
    assert not [pid for pid in pids if is_gone(pid)], "they never lived"
    process.kill()
    process.wait()
    wait_for(lambda: all(is_gone(pid) for pid in pids), f"{pids} are gone")


def test_a_spawned_program_dies_when_its_parent_is_killed() -> None:
    process = start_python("""
        import signal
        from portal.lib.processes import spawn
        print(spawn(["sleep", "600"]).pid, flush=True)
        signal.pause()
    """)

    kill_and_see_all_gone(process, read_pids(process, 1))


def test_forks_of_forks_die_when_the_first_parent_is_killed() -> None:
    process = start_python("""
        import multiprocessing, os, signal
        from portal.lib.processes import forks_die_with_parent

        def inner():
            os.write(1, b"%d\\n" % os.getpid())
            signal.pause()

        def outer():
            multiprocessing.get_context("fork").Process(target=inner).start()
            os.write(1, b"%d\\n" % os.getpid())
            signal.pause()

        forks_die_with_parent()
        multiprocessing.get_context("fork").Process(target=outer).start()
        signal.pause()
    """)

    kill_and_see_all_gone(process, read_pids(process, 2))


def test_a_child_whose_parent_died_before_it_asked_ends_at_once() -> None:
    process = start_python("""
        import os
        from portal.lib.processes import die_with_parent
        child = os.fork()
        if child == 0:
            die_with_parent(parent=1 if os.getppid() != 1 else 2)
            os.write(1, b"survived\\n")
            os._exit(0)
        print(os.WTERMSIG(os.waitpid(child, 0)[1]), flush=True)
    """)

    assert process.communicate()[0] == f"{signal.SIGKILL.value}\n"


def test_terminate_kills_what_ignores_the_wish_and_what_is_below_it(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    stubborn = f"trap '' TERM; setsid sleep 600 & echo $! > {pid_file}; while :; do sleep 0.1; done"
    process = spawn(["sh", "-c", stubborn])
    below = int(wait_for(lambda: pid_file.exists() and pid_file.read_text(), "the child of the child"))

    code = terminate(process, grace_seconds=0.3)

    assert code == -signal.SIGKILL
    wait_for(lambda: is_gone(below), "the escaped child is gone")


def test_terminate_lets_a_program_end_by_itself(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    process = spawn(["sh", "-c", f"trap 'exit 7' TERM; touch {ready}; while :; do sleep 0.05; done"])
    wait_for(ready.exists, "the program runs")

    assert terminate(process) == 7


class TestRunLock:
    def test_tells_others_about_the_holder(self, tmp_path: Path) -> None:
        path = tmp_path / "gateway.lock"

        with RunLock(path).acquire(port=8001):
            assert holder(path) == {"pid": os.getpid(), "port": 8001}

    def test_nobody_holds_it_before_and_after(self, tmp_path: Path) -> None:
        path = tmp_path / "gateway.lock"
        before = holder(path)
        RunLock(path).acquire(port=8001).release()

        assert (before, holder(path)) == (None, None)

    def test_refuses_a_second_holder_and_names_the_first(self, tmp_path: Path) -> None:
        path = tmp_path / "web.lock"

        with RunLock(path).acquire(port=8000), pytest.raises(AlreadyRunning, match="web already runs") as refusal:
            RunLock(path).acquire()

        assert refusal.value.facts == {"pid": os.getpid(), "port": 8000}

    def test_facts_can_change_and_shrink(self, tmp_path: Path) -> None:
        path = tmp_path / "model.lock"

        with RunLock(path).acquire(state="fetching a long time") as lock:
            lock.update(state="ready")
            assert holder(path) == {"pid": os.getpid(), "state": "ready"}

    def test_a_killed_holder_holds_no_more(self, tmp_path: Path) -> None:
        path = tmp_path / "worker.lock"
        process = start_python(
            """
            import os, signal, sys
            from pathlib import Path
            from portal.lib.processes import RunLock
            RunLock(Path(sys.argv[1])).acquire()
            print(os.getpid(), flush=True)
            signal.pause()
            """,
            str(path),
        )
        [pid] = read_pids(process, 1)
        held_by = holder(path)
        process.kill()
        process.wait()

        assert held_by == {"pid": pid}
        assert holder(path) is None

    def test_waits_when_asked_to(self, tmp_path: Path) -> None:
        path = tmp_path / "fetch.lock"
        first = RunLock(path).acquire()
        waits: list[Callable[[], None]] = []

        def wait() -> None:
            waits.append(first.release)
            if len(waits) == 3:
                first.release()

        with RunLock(path).acquire(wait):
            assert len(waits) == 3


class TestPorts:
    def test_a_wanted_port_that_is_free_is_taken(self) -> None:
        port = free_port("127.0.0.1", 0)

        assert free_port("127.0.0.1", port) == port

    def test_another_one_when_it_is_taken_or_to_be_avoided(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]

            assert not is_free("127.0.0.1", port)
            assert is_listening("127.0.0.1", port)
            assert free_port("127.0.0.1", port) != port
        assert free_port("127.0.0.1", port, avoid=[port]) != port
        assert not is_listening("127.0.0.1", port)

    def test_an_address_of_another_machine_is_an_error(self) -> None:
        with pytest.raises(OSError, match="assign"):
            is_free("192.0.2.1", 8000)


class TestDatagrams:
    def test_arrive_where_somebody_listens(self, tmp_path: Path) -> None:
        ear = listen(tmp_path / "run" / "ear.sock")

        assert tell(tmp_path / "run" / "ear.sock", b"ring")
        assert ear.recv(64) == b"ring"
        ear.close()

    def test_are_dropped_where_nobody_does(self, tmp_path: Path) -> None:
        listen(tmp_path / "stale.sock").close()

        assert not tell(tmp_path / "missing.sock", b"ring")
        assert not tell(tmp_path / "stale.sock", b"ring")

    def test_never_make_the_sender_wait(self, tmp_path: Path) -> None:
        ear = listen(tmp_path / "ear.sock")

        sent = [tell(tmp_path / "ear.sock", b"ring") for _ in range(5000)]

        assert sent[0]
        assert not sent[-1]
        ear.close()
