"""Parts are kept running, and ended when asked."""

import asyncio
import os
import signal
from pathlib import Path

from portal.lib.supervisor import Part, Supervisor, describe_exit
from tests.deadlines import wait_for_async


def shell(name: str, script: str, **options: float) -> Part:
    return Part(name, ["sh", "-c", script], dict(os.environ), **options)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_part_that_dies_is_started_again() -> None:
    ends: list[tuple[str, int, float]] = []
    supervisor = Supervisor(on_end=lambda *end: ends.append(end))
    await supervisor.start(shell("one", "sleep 600"))
    first = supervisor.pid("one")
    assert first is not None

    os.kill(first, signal.SIGKILL)
    await wait_for_async(lambda: supervisor.starts("one") == 2, "a second start")

    second = supervisor.pid("one")
    assert ends == [("one", -9, 1.0)]
    assert second is not None
    assert second != first
    await supervisor.stop()
    assert not is_alive(second)


async def test_pauses_grow_with_every_death_up_to_the_longest() -> None:
    pauses: list[float] = []
    supervisor = Supervisor(on_end=lambda name, code, pause: pauses.append(pause))
    await supervisor.start(shell("one", "exit 1", longest_pause=1.5))

    await wait_for_async(lambda: len(pauses) >= 3, "three deaths")
    await supervisor.stop()

    assert pauses[:3] == [1.0, 1.5, 1.5]


async def test_stopping_during_a_pause_starts_nothing_again() -> None:
    died = asyncio.Event()
    supervisor = Supervisor(on_end=lambda *_: died.set())
    await supervisor.start(shell("one", "exit 1"))
    await died.wait()

    await supervisor.stop()

    assert supervisor.starts("one") == 1


async def test_lines_arrive_with_their_name_and_whole() -> None:
    lines: list[tuple[str, str]] = []
    supervisor = Supervisor(on_line=lambda name, line: lines.append((name, line)))
    await supervisor.start(shell("one", "printf 'a\\nb'; sleep 0.2; echo c >&2; printf end; sleep 600"))

    await wait_for_async(lambda: ("one", "bc") in lines, "the lines")
    await supervisor.stop()

    assert lines == [("one", "a"), ("one", "bc"), ("one", "end")]


async def test_logs_go_to_a_file_a_part_when_asked(tmp_path: Path) -> None:
    supervisor = Supervisor(log_folder=tmp_path / "logs")
    await supervisor.start(shell("one", "echo hello; sleep 600"))
    log = tmp_path / "logs" / "one.log"

    await wait_for_async(lambda: log.read_text() == "hello\n", "the line in the file")
    await supervisor.stop()

    assert log.stat().st_mode & 0o777 == 0o600


async def test_what_ignores_sigterm_is_killed_with_its_group() -> None:
    lines: list[str] = []
    supervisor = Supervisor(on_line=lambda name, line: lines.append(line))
    await supervisor.start(
        shell("one", "trap '' TERM; sleep 600 & echo $!; while :; do sleep 0.1; done", grace_seconds=0.3)
    )
    await wait_for_async(lambda: lines, "the child's pid")

    await supervisor.stop()

    await wait_for_async(lambda: not is_alive(int(lines[0])), "the child is gone")


async def test_kill_all_ends_a_stop_that_takes_long() -> None:
    lines: list[str] = []
    supervisor = Supervisor(on_line=lambda name, line: lines.append(line))
    await supervisor.start(shell("one", "trap '' TERM; echo up; while :; do sleep 0.1; done", grace_seconds=3600))
    await wait_for_async(lambda: lines, "the part is up")
    stopping = asyncio.create_task(supervisor.stop())
    await asyncio.sleep(0)

    supervisor.kill_all()
    await stopping

    assert supervisor.starts("one") == 1


def test_exit_codes_read_well() -> None:
    assert (describe_exit(3), describe_exit(-9)) == ("exit code 3", "signal SIGKILL")
