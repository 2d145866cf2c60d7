"""What code inside an engine process can reach: its own folder, the code, the gateway, and nothing else."""

import ast
import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from executions.engines import client
from tests.engines import EngineHost, carry, code_spec, engine_host

SYSTEM_PYTHON = Path("/usr/bin/python3")

# Runs each attempt of a list of (name, code); the result says of each "reached" or the error's name.
TRY = """
import json
def attempt(code):
    try:
        exec(code, {{}})
    except BaseException as exc:
        return type(exc).__name__
    return "reached"
result = json.dumps({{name: attempt(code) for name, code in {attempts!r}.items()}})
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    with engine_host(tmp_path_factory.mktemp("host"), "probe") as found:
        yield found


@pytest.fixture
def listener():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as found:
        yield found


@pytest.fixture
def stranger():
    """A process of somebody else's with a secret in its environment."""
    with subprocess.Popen(["sleep", "1000"], env={"SECRET": "s3cret", "PATH": os.environ["PATH"]}) as process:
        yield process
        process.kill()


@pytest.fixture
def open_folder():
    """A folder that every user can pass through, which pytest's are not."""
    folder = Path(tempfile.mkdtemp(prefix="engine-user-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def system_host(open_folder):
    """A host on the system's interpreter: that of the tests may be readable to root alone."""
    enough = "import sys; assert sys.version_info >= (3, 11)"
    if not SYSTEM_PYTHON.exists() or subprocess.run([SYSTEM_PYTHON, "-c", enough], check=False).returncode:
        pytest.skip("needs an interpreter that every user can read")
    with engine_host(open_folder / "host", "probe", python=str(SYSTEM_PYTHON)) as found:
        yield found


async def try_inside(
    host: EngineHost, folder: Path, attempts: dict[str, str], base_url: str = "http://127.0.0.1:9/v1"
) -> dict[str, str]:
    if (await client.hello(host.socket)).isolation == "none":
        pytest.skip("this machine has neither Landlock nor users to spare")
    ended = await carry(host, code_spec(TRY.format(attempts=attempts), gateway=_gateway(base_url)), folder)
    found: dict[str, str] = json.loads(ended.result)
    return found


def _gateway(base_url: str) -> dict[str, str]:
    return {"base_url": base_url, "token": "t"}


async def test_the_portals_files_are_out_of_reach(host, tmp_path):
    data = tmp_path / "data"
    (data / "runs" / "other" / "work").mkdir(parents=True)
    files = [data / "portal.sqlite3", data / "secret_key", data / "runs" / "other" / "events.jsonl"]
    for file in files:
        file.write_text("secret")
    attempts = {file.name: f"open({str(file)!r}).read()" for file in files}
    attempts |= {f"change {file.name}": f"open({str(file)!r}, 'a')" for file in files}
    attempts["list"] = f"import os; os.listdir({str(data)!r})"
    attempts["remove"] = f"import os; os.unlink({str(files[0])!r})"
    attempts["new"] = f"open({str(data / 'new')!r}, 'w')"
    attempts["checkout"] = f"import os; os.listdir({str(Path(__file__).parents[2])!r})"
    attempts["shadow"] = "open('/etc/shadow').read()"
    attempts["program"] = f"import subprocess; subprocess.run(['cat', {str(files[0])!r}], check=True)"
    found = await try_inside(host, tmp_path / "run", attempts)
    assert found.pop("program") == "CalledProcessError"
    assert set(found.values()) == {"PermissionError"}, found


async def test_its_own_folder_is_its_to_use(host, tmp_path):
    attempts = {
        "write": "open('notes.txt', 'w').write('x'); assert open('notes.txt').read() == 'x'",
        "folder": "import os; os.mkdir('d'); os.rename('notes.txt', 'd/notes.txt'); os.unlink('d/notes.txt')",
        "temporary": "import tempfile; tempfile.NamedTemporaryFile().write(b'x')",
        "null": "open('/dev/null', 'w').write('x')",
        "late import": "import xmlrpc.server",
    }
    found = await try_inside(host, tmp_path, attempts)
    assert set(found.values()) == {"reached"}, found


async def test_other_processes_are_out_of_reach(host, tmp_path, stranger):
    attempts = {
        "environment": f"open('/proc/{stranger.pid}/environ').read()",
        "memory": f"open('/proc/{stranger.pid}/mem', 'rb').read(1)",
        "environment of the host": "import os; open(f'/proc/{os.getppid()}/environ').read()",
        "trace": (
            "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
            f"if libc.ptrace(16, {stranger.pid}, 0, 0) != 0: raise PermissionError(ctypes.get_errno())"
        ),
        "signal": f"import os; os.kill({stranger.pid}, 0)",
    }
    found = await try_inside(host, tmp_path, attempts)
    assert set(found.values()) == {"PermissionError"}, found


async def test_the_gateway_is_the_only_address(host, tmp_path, listener):
    port = listener.getsockname()[1]
    local = tmp_path / "live.sock"
    with (
        contextlib.closing(socket.create_server(("127.0.0.1", 0))) as database,
        contextlib.closing(socket.socket(socket.AF_UNIX)) as live,
    ):
        live.bind(str(local))
        live.listen()
        attempts = {
            "gateway": f"import socket; socket.create_connection(('127.0.0.1', {port})).close()",
            "database": f"import socket; socket.create_connection(('127.0.0.1', {database.getsockname()[1]}))",
            "listen": "import socket; socket.create_server(('127.0.0.1', 0))",
            "datagram": "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
            "live socket": f"import socket; socket.socket(socket.AF_UNIX).connect({str(local)!r})",
            "host's socket": (
                "import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
                f"s.connect({str(host.socket)!r})"
            ),
            "raw": "import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
            "own pair": "import socket; socket.socketpair()",
        }
        found = await try_inside(host, tmp_path / "run", attempts, f"http://127.0.0.1:{port}/v1")
    assert (found.pop("gateway"), found.pop("own pair")) == ("reached", "reached")
    assert set(found.values()) == {"PermissionError"}, found


async def test_privileges_are_gone_for_good(host, tmp_path):
    attempts = {
        "chown": "import os; open('f', 'w'); os.chown('f', 12345, 12345)",
        "become root": "import os; os.setuid(0); open('f2', 'w'); os.chown('f2', 12345, 12345)",
        "mount": (
            "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
            "if libc.mount(b'none', b'.', b'tmpfs', 0, None) != 0: raise PermissionError(ctypes.get_errno())"
        ),
        "namespace": (
            "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
            "if libc.unshare(0x10000000) != 0: raise PermissionError(ctypes.get_errno())"
        ),
    }
    found = await try_inside(host, tmp_path, attempts)
    assert set(found.values()) == {"PermissionError"}, found


async def test_files_and_memory_are_bounded(host, tmp_path):
    attempts = {
        "file": "f = open('big', 'wb'); f.truncate(1 << 30)",
        "memory": "bytearray(16 << 30)",
        "core": "import resource; assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)",
    }
    found = await try_inside(host, tmp_path, attempts)
    assert found == {"file": "OSError", "memory": "MemoryError", "core": "reached"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has users to spare")
async def test_root_gives_each_run_a_user_of_its_own(system_host, open_folder):
    if (await client.hello(system_host.socket)).isolation != "user":
        pytest.skip("another user cannot read the checkout here")
    code = "import os; open('f', 'w'); result = repr((os.getuid(), os.getgid(), os.getgroups()))"
    ended = await carry(system_host, code_spec(code), open_folder / "1")
    uid, gid, groups = ast.literal_eval(ended.result)
    assert (uid, gid, groups) == (60000, 60000, [])
    assert (open_folder / "1" / "work" / "f").stat().st_uid == uid
