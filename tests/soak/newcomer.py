"""What a newcomer does, from an empty clone and an empty environment, with the small model:

    python -m tests.soak.newcomer --command 'python3.11 -m venv … && … manage.py up'

runs the README's first command, signs in with what it prints, runs the demo crew, and presses Ctrl-C: no
process may be left. Then `manage.py kickoff` on another empty data folder, which must do all of that alone.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
from websockets.sync.client import connect

from tests.deadlines import DEADLINE, wait_for
from tests.services import free_port
from tests.stack import sign_in

ROOT = Path(__file__).resolve().parent.parent.parent
CREW = "Research and write"
INSTALLATION = DEADLINE * 10  # seconds; packages and the model come over the network


def environment(home: Path) -> dict[str, str]:
    """Empty, but for what the machine needs to reach packages; the packages' own cache is shared."""
    kept = ("PIP_", "SSL_", "REQUESTS_", "UV_", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY")
    env = {name: value for name, value in os.environ.items() if name.startswith(kept) or name == "NO_PROXY"}
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "pip"
    env.setdefault("PIP_CACHE_DIR", str(cache))
    for config in ("~/.config/pip/pip.conf", "~/.pip/pip.conf"):
        if Path(config).expanduser().exists():
            env.setdefault("PIP_CONFIG_FILE", str(Path(config).expanduser()))
    return {
        **env,
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "PIP_QUIET": "1",
        "EMBEDDED_MODEL": "smollm2",
        "PORTAL_MODEL_DIR": os.environ.get("PORTAL_MODEL_DIR") or str(home / "models"),
        "PORTAL_PORT": str(free_port()),
    }


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"{time.monotonic() - began:6.1f} s  {name}", flush=True)


def left_over(folder: Path) -> list[str]:
    """The processes of this machine that have to do with `folder`."""
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            facts = [process.cwd(), *process.cmdline(), *process.environ().values()]
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess, OSError):
            continue
        if any(str(folder) in fact for fact in facts):
            found.append(f"{process.pid} {' '.join(process.cmdline())[:150]}")
    return found


def nothing_is_left(folder: Path) -> None:
    wait_for(lambda: not left_over(folder), "no process is left", on_timeout=lambda: "\n".join(left_over(folder)))


def run_up(command: str, clone: Path, env: dict[str, str], output: Path) -> None:
    """The first command, a run of the demo crew over the API, and Ctrl-C."""
    with output.open("wb") as log:
        portal = subprocess.Popen(
            ["bash", "-c", command], cwd=clone, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip

    def said(pattern: str) -> str:
        """The first group of `pattern` in what the command has printed; empty until it is there."""
        assert portal.poll() is None, f"the command ended with {portal.returncode}:\n{output.read_text()[-4000:]}"
        match = re.search(pattern, output.read_text(errors="replace"), re.MULTILINE)
        return match[1] if match else ""

    def printed() -> str:
        return output.read_text(errors="replace")[-4000:]

    try:
        with step("installed, and the portal runs"):
            url = wait_for(
                lambda: said(r"^\s*Open\s+(http\S+)"), "the portal says where", INSTALLATION, on_timeout=printed
            )
        user, password = said(r"^\s*User\s+(\S+)"), said(r"^\s*Password\s+(\S+)")
        with step("the model is ready"):
            wait_for(lambda: said(r"(model is ready|, ready$)"), "the model is ready", INSTALLATION, on_timeout=printed)
        with step("signed in, and made a key"), httpx.Client(base_url=url, timeout=DEADLINE) as browser:
            sign_in(browser, user, password)
            made = browser.post("/api/api-keys", json={"name": "newcomer", "scopes": ["run"]}).raise_for_status()
        headers = {"Authorization": f"Api-Key {made.json()['key']}"}
        with step("the demo crew has run"), httpx.Client(base_url=url, headers=headers, timeout=DEADLINE) as api:
            run_demo(api, headers)
        with step("Ctrl-C ended it"):
            os.killpg(portal.pid, signal.SIGINT)
            portal.wait(DEADLINE)
            nothing_is_left(clone)
    except BaseException:
        print(printed())
        raise
    finally:
        # In a session of its own, so that Ctrl-C reached it alone; whatever is left of it goes.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(portal.pid, signal.SIGKILL)


def run_demo(api: httpx.Client, headers: dict[str, str]) -> None:
    """Run the demo crew as a program would, and look at its result."""
    crews = api.get("/api/crews", params={"search": CREW}).raise_for_status().json()["results"]
    crew = next(crew["id"] for crew in crews if crew["name"] == CREW)
    started = api.post(f"/api/crews/{crew}/kickoff", json={"inputs": {"topic": "Tea"}}).raise_for_status()
    assert started.status_code == 202, started.text

    address = f"{str(api.base_url).replace('http', 'ws', 1).rstrip('/')}/ws/executions/{started.json()['execution_id']}"
    with connect(address, additional_headers=headers, open_timeout=DEADLINE, max_size=None) as socket:
        types = [json.loads(frame)["type"] for frame in socket]
    assert types[-1] == "execution.completed", types[-1]
    assert "llm.delta" in types, "no text was streamed"
    run = api.get(started.headers["Location"]).raise_for_status().json()
    assert run["status"] == "completed", run
    assert run["final_output"].strip(), run
    assert [task["status"] for task in run["tasks"]] == ["completed"] * 3, run
    assert run["llm_calls"] >= 3, run
    assert run["prompt_tokens"] > 0, run
    assert run["completion_tokens"] > 0, run


def run_kickoff(clone: Path, env: dict[str, str]) -> None:
    """The same without a browser, on an empty data folder."""
    done = subprocess.run(
        [".venv/bin/python", "manage.py", "kickoff", CREW, "--input", "topic=Tea", "--json"],
        cwd=clone, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=INSTALLATION,
    )  # fmt: skip
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    *events, outcome = [json.loads(line) for line in done.stdout.splitlines()]
    seqs = [event["seq"] for event in events if "seq" in event]
    assert seqs == list(range(1, len(seqs) + 1)), seqs
    assert events[-1]["type"] == "execution.completed", events[-1]
    assert outcome["status"] == "completed", outcome
    assert outcome["final_output"].strip(), outcome
    assert outcome["llm_calls"] >= 3, outcome
    assert set(outcome) >= {"execution", "prompt_tokens", "completion_tokens", "cost_usd"}, outcome
    nothing_is_left(clone)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak.newcomer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--command", required=True, help="the README's first command")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    folder = Path(tempfile.mkdtemp(prefix="portal-newcomer-"))
    folder.chmod(0o711)  # engines may run as a user of their own
    try:
        clone, home = folder / "clone", folder / "home"
        home.mkdir()
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        env = environment(home)
        run_up(options.command, clone, env, folder / "up.out")
        with step("manage.py kickoff did the same alone"):
            run_kickoff(clone, {**env, "PORTAL_DATA_DIR": str(folder / "other")})
        print("the demo crew completed, with up and with kickoff; no process is left")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
