"""The host of engines and its client: what a run is given, and that nothing of it survives its end."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from executions.engines import client, sweep
from executions.engines.protocol import EXIT_NO_OUTPUT, MAX_LINE_BYTES, RunSpec
from tests.deadlines import DEADLINE, wait_for, wait_for_async
from tests.engines import Ended, EngineHost, carry, code_spec, engine_host, lines_of, run_spec

# Starts a helper in the run's group and one that leaves it, then stays.
ESCAPE = """
    import os, subprocess, time
    stays = subprocess.Popen(["sleep", "1000"])
    flees = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    forked = os.fork()
    if forked == 0:
        os.setsid()
        time.sleep(1000)
    output.event("log", data={"pids": [os.getpid(), stays.pid, flees.pid, forked]})
    time.sleep(1000)
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    with engine_host(tmp_path_factory.mktemp("host"), "probe") as found:
        yield found


async def the_pids(run: client.EngineRun, folder: Path) -> list[int]:
    while not lines_of(folder):
        await asyncio.wait_for(run.rang(), DEADLINE)
        assert not run.ended, (folder / "engine.log").read_text()
    pids: list[int] = lines_of(folder)[0]["data"]["pids"]
    assert all(psutil.pid_exists(pid) for pid in pids)
    return pids


def are_gone(pids: list[int]) -> bool:
    return all(sweep.parent_of(pid) is None for pid in pids)


async def test_a_run_gets_its_spec_and_says_what_it_did(host, tmp_path):
    spec = code_spec("output.event('log', data={'execution': spec['execution']}); result = 'done'")
    ended = await carry(host, spec, tmp_path)
    assert ended.exit == client.Exit(code=0)
    assert ended.result == "done"
    assert ended.events()[0]["data"] == {"execution": spec["execution"]}


async def test_a_run_has_its_own_folder_and_nothing_of_the_environment(host, tmp_path):
    code = (
        "import os, tempfile; result = repr([os.getcwd(), os.environ['HOME'], tempfile.gettempdir(), os.listdir('.')])"
    )
    work = str(tmp_path / "work")
    assert (await carry(host, code_spec(code), tmp_path)).result == repr([work, work, work, []])


async def test_a_long_spec_arrives(host, tmp_path):
    spec = code_spec("result = len(spec['name'])", name="x" * 5_000_000)
    assert (await carry(host, spec, tmp_path)).result == "5000000"


async def test_runs_draw_different_random_numbers(host, tmp_path):
    code = code_spec("import random; result = random.random()")
    assert (await carry(host, code, tmp_path / "1")).result != (await carry(host, code, tmp_path / "2")).result


async def test_a_crash_leaves_no_last_line_and_an_exit_code(host, tmp_path):
    ended = await carry(host, code_spec("import os; output.event('log'); os._exit(9)"), tmp_path)
    assert ended.exit == client.Exit(code=9)
    assert [line["kind"] for line in ended.lines] == ["event"]


async def test_an_error_of_the_engine_is_a_failure_with_its_words_and_a_trace_in_the_log(host, tmp_path):
    ended = await carry(host, code_spec("raise LookupError('nothing there')"), tmp_path)
    assert ended.failure == {"kind": "failure", "reason": "error", "message": "LookupError: nothing there"}
    assert "Traceback" in ended.log


async def test_a_host_tells_about_itself(host):
    info = await client.hello(host.socket)
    assert (info.engine, info.pid) == ("probe", host.process.pid)
    assert info.isolation in {"user", "landlock", "none"}


async def test_without_a_host_a_run_is_unavailable(tmp_path):
    with pytest.raises(client.EngineUnavailable):
        await client.start(tmp_path / "no.sock", run_spec(), tmp_path / "run")


async def test_killing_a_run_leaves_nothing_not_even_what_escaped(host, tmp_path):
    run = await client.start(host.socket, code_spec(ESCAPE), tmp_path)
    pids = await the_pids(run, tmp_path)
    began = time.monotonic()
    run.kill()
    end = await asyncio.wait_for(run.wait(), DEADLINE)
    assert time.monotonic() - began < 2  # what a person who stops a run is promised, tests' slowness or not
    assert end == client.Exit(signal=signal.SIGKILL)
    assert run.ended
    wait_for(lambda: are_gone(pids), "the end of all of the run's processes")
    run.close()


async def test_a_run_that_ends_takes_what_it_started_along(host, tmp_path):
    ended = await carry(host, code_spec(ESCAPE.rpartition("time.sleep")[0]), tmp_path)
    assert ended.exit.code == 0
    wait_for(lambda: are_gone(ended.lines[0]["data"]["pids"]), "the end of all of the run's processes")


async def test_a_run_ends_with_its_connection(host, tmp_path):
    run = await client.start(host.socket, code_spec(ESCAPE), tmp_path)
    pids = await the_pids(run, tmp_path)
    run.close()
    assert run.ended
    wait_for(lambda: are_gone(pids), "the end of all of the run's processes")


async def test_runs_end_with_their_host_and_the_client_hears_of_it(tmp_path):
    with engine_host(tmp_path / "host", "probe") as mortal:
        run = await client.start(mortal.socket, code_spec(ESCAPE), tmp_path / "run")
        pids = await the_pids(run, tmp_path / "run")
        mortal.process.kill()
        end = await asyncio.wait_for(run.wait(), DEADLINE)
        assert end == client.Exit()
        wait_for(lambda: are_gone(pids), "the end of all of the run's processes")
        run.close()
        with pytest.raises(client.EngineUnavailable):
            await client.start(mortal.socket, run_spec(), tmp_path / "next")


async def test_one_runs_end_is_not_anothers(host, tmp_path):
    stays = await client.start(host.socket, code_spec(ESCAPE, attempt=1), tmp_path / "1")
    goes = await client.start(host.socket, code_spec(ESCAPE, attempt=2), tmp_path / "2")
    staying, going = await the_pids(stays, tmp_path / "1"), await the_pids(goes, tmp_path / "2")
    goes.kill()
    await asyncio.wait_for(goes.wait(), DEADLINE)
    wait_for(lambda: are_gone(going), "the end of the killed run's processes")
    assert not any(sweep.parent_of(pid) is None for pid in staying)
    assert not stays.ended
    goes.close()
    stays.close()
    wait_for(lambda: are_gone(staying), "the end of the other run's processes")


async def test_a_host_ends_with_the_process_that_started_it(tmp_path):
    code = (
        "import os, subprocess, sys; from pathlib import Path; from executions.engines import launch;"
        "p = subprocess.Popen([sys.executable, '-m', 'tests.fakes.probe_engine', 'probe', '--socket', sys.argv[1],"
        " '--parent', str(os.getpid())], env=launch.environment(Path(sys.argv[2])));"
        "print(p.pid, flush=True); sys.stdin.read()"
    )
    starter = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, str(tmp_path / "host.sock"), str(tmp_path)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert starter.stdout
    pid = int(await starter.stdout.readline())
    await wait_for_async((tmp_path / "host.sock").exists, "a warm host")
    starter.kill()
    await starter.wait()
    wait_for(lambda: sweep.parent_of(pid) is None, "the end of the host")


async def test_many_short_runs_at_once_lose_no_line(host, tmp_path):
    code = "for n in range(200): output.event('log', data={'n': n})\nresult = spec['attempt']"

    async def one(number: int) -> Ended:
        return await carry(host, code_spec(code, attempt=number), tmp_path / str(number))

    for ended in await asyncio.gather(*(one(number) for number in range(30))):
        assert [line["data"]["n"] for line in ended.events()] == list(range(200))
        assert ended.lines[-1]["kind"] == "result"


async def test_the_bell_rings_for_what_is_written(host, tmp_path):
    code = "import time\nfor n in range(3): output.event('log', data={'n': n}); time.sleep(0.3)"
    run = await client.start(host.socket, code_spec(code), tmp_path)
    seen = []
    while not run.ended:
        await asyncio.wait_for(run.rang(), DEADLINE)
        seen.append(len(lines_of(tmp_path)))
    assert seen[0] < 3  # heard before the end
    assert len(lines_of(tmp_path)) == 4
    run.close()


async def test_a_flood_of_events_loses_none_and_a_kill_ends_it(host, tmp_path):
    code = "for n in range(60_000): output.event('log', data={'n': n, 'text': 'x' * 100})\nresult = 'done'"
    ended = await carry(host, code_spec(code), tmp_path / "1")
    assert [line["data"]["n"] for line in ended.events()] == list(range(60_000))
    assert ended.result == "done"
    endless = code_spec("while True: output.event('log', data={'text': 'x' * 100})")
    run = await client.start(host.socket, endless, tmp_path / "2")
    await asyncio.wait_for(run.rang(), DEADLINE)
    run.kill()
    assert await asyncio.wait_for(run.wait(), DEADLINE) == client.Exit(signal=signal.SIGKILL)
    run.close()


@pytest.mark.parametrize(
    "code",
    [
        "result = 'x' * 100_000_000",
        "output.event('task.completed', task='1', data={'output': 'x' * 100_000_000})",
        "raise Exception('x' * 100_000_000)",
    ],
)
async def test_a_hundred_megabytes_of_output_are_a_failure_with_a_sentence(host, tmp_path, code):
    ended = await carry(host, code_spec(code), tmp_path)
    assert ended.exit == client.Exit(code=1)
    assert ended.failure["message"].startswith(("The answer is too long to be kept: 95.4 MB", "Exception: xxx"))
    assert (tmp_path / "events.jsonl").stat().st_size < MAX_LINE_BYTES


@pytest.mark.slow
async def test_more_events_than_a_file_may_have_end_the_process_after_a_whole_line(host, tmp_path):
    code = f"while True: output.event('log', data={{'text': 'x' * {250_000}}})"
    ended_with = await _exit_of(host, code_spec(code), tmp_path)
    assert ended_with == client.Exit(code=EXIT_NO_OUTPUT)
    whole = (tmp_path / "events.jsonl").read_bytes().split(b"\n")[:-1]
    assert all(json.loads(line)["kind"] == "event" for line in whole[-3:])


async def test_a_full_disk_ends_the_process_and_not_in_silence(host, tmp_path, small_disk):
    code = """
        n = 0
        while True:
            output.event('log', data={'n': n, 'text': 'x' * 1000})
            n += 1
    """
    assert await _exit_of(host, code_spec(code), small_disk) == client.Exit(code=EXIT_NO_OUTPUT)
    *whole, _torn = (small_disk / "events.jsonl").read_bytes().split(b"\n")
    assert [json.loads(line)["data"]["n"] for line in whole] == list(range(len(whole)))
    assert len(whole) > 100


async def test_a_log_that_cannot_be_written_is_no_obstacle_to_the_last_word(host, tmp_path, small_disk):
    (small_disk / "filler").write_bytes(b"x" * (small_disk_free(small_disk) - 16_384))
    code = "import sys\nwhile True: print('x' * 1000)"
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "engine.log").symlink_to(small_disk / "engine.log")
    ended = await carry(host, code_spec(code), folder)
    assert "No space left" in ended.failure["message"]


async def _exit_of(host: EngineHost, spec: RunSpec, folder: Path) -> client.Exit:
    run = await client.start(host.socket, spec, folder)
    end = await asyncio.wait_for(run.wait(), DEADLINE)
    run.close()
    return end


def small_disk_free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    order = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=711", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(order, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount a disk here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_a_host_survives_what_it_does_not_understand(host, tmp_path):
    for packet in (b"not json", b"[]", b'{"start": {}}', b'{"other": 1}'):
        with await client._connect(host.socket) as connection:
            connection.send(packet)
            assert b"refused" in await asyncio.get_running_loop().sock_recv(connection, 1000)
    assert (await carry(host, code_spec("result = 1"), tmp_path)).result == "1"
