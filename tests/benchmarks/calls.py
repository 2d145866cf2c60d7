"""What the gateway adds to a call, in milliseconds: real processes, in turns with calls straight to the model.

python -m tests.benchmarks.calls [--pairs N]
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from executions.engines.protocol import HEADER_ORDINAL, HEADER_TASK
from tests.deadlines import DEADLINE, wait_for
from tests.services import die_with_parent, free_port

ROOT = Path(__file__).resolve().parents[2]
ORDINALS = itertools.count()  # equal requests, as an engine numbers them: each has an entry in the journal
PROMPT = [{"role": "user", "content": "Write one paragraph about rivers. " * 20}]


@dataclass(frozen=True)
class Arena:
    """Both ways to the same fake model: `direct_url`, and `gateway_url` with the token of a run."""

    direct_url: str
    gateway_url: str
    token: str


def added_milliseconds(pairs: int = 200, *, stream: bool = True, warm_up: int = 20) -> tuple[list[float], list[float]]:
    """Milliseconds of `pairs` calls straight to the model and as many through the gateway, taken in turns.

    On the database that `DATABASE_URL` names, else on SQLite in a folder of its own.
    """
    with (
        arena() as found,
        _client(found.direct_url, "none") as direct,
        _client(found.gateway_url, found.token) as through,
    ):
        for _ in range(warm_up):
            _call(direct, stream)
            _call(through, stream)
        samples = [(_call(direct, stream), _call(through, stream)) for _ in range(pairs)]
    return [bare for bare, _ in samples], [portal for _, portal in samples]


@contextlib.contextmanager
def arena() -> Iterator[Arena]:
    """A fake model, a database with a run under way, and a gateway, each a process of its own."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="portal-calls-"))
        fake_port, gateway_port = free_port(), free_port()
        environ = {**os.environ, "PORTAL_DATA_DIR": folder, "DJANGO_SETTINGS_MODULE": "portal.settings"}
        environ["PORTAL_GATEWAY_PORT"] = str(gateway_port)
        fake = f"http://127.0.0.1:{fake_port}/v1"
        _run("manage.py", "migrate", "--verbosity", "0", environ=environ)
        token = _run("-m", "tests.benchmarks.calls", "--prepare", fake, environ=environ).strip()
        stack.enter_context(_process("-m", "tests.fakes.llm", "--port", str(fake_port), environ=environ))
        stack.enter_context(_process("manage.py", "gateway", environ=environ))
        gateway = f"http://127.0.0.1:{gateway_port}"
        wait_for(lambda: _answers(f"{gateway}/health") and _answers(f"{fake}/models"), "gateway and fake answer")
        yield Arena(fake, f"{gateway}/v1", token)


def _run(*arguments: str, environ: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environ, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


@contextlib.contextmanager
def _process(*arguments: str, environ: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.DEVNULL,
        preexec_fn=die_with_parent(),
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url).status_code == 200
    return False


def _client(base_url: str, token: str) -> httpx.Client:
    return httpx.Client(
        base_url=base_url, headers={"Authorization": f"Bearer {token}", HEADER_TASK: "task"}, timeout=DEADLINE
    )


def _call(client: httpx.Client, stream: bool) -> float:
    began = time.perf_counter()
    response = client.post(
        "/chat/completions",
        json={"model": "instant", "stream": stream, "messages": PROMPT},
        headers={HEADER_ORDINAL: str(next(ORDINALS))},
    )
    took = (time.perf_counter() - began) * 1000
    response.raise_for_status()
    return took


def _prepare(fake: str) -> str:
    """Store a run under way whose model is the fake, and return its token."""
    import django

    django.setup()
    from executions.gateway import tokens
    from tests.factories.crews import LLMModelFactory
    from tests.factories.executions import LEASE, ExecutionFactory

    LLMModelFactory(id="instant", route="openai/instant", api_base=fake)
    execution = ExecutionFactory(max_llm_calls=10**6)
    execution.start(worker="benchmark", lease=LEASE)
    return tokens.issue(execution)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--prepare", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        print(_prepare(options.prepare))
        return
    for stream in (True, False):
        direct, through = added_milliseconds(options.pairs, stream=stream)
        added = [portal - bare for bare, portal in zip(direct, through, strict=True)]
        told: dict[str, Any] = {
            "stream": stream,
            "direct_ms": round(statistics.median(direct), 2),
            "through_ms": round(statistics.median(through), 2),
            "added_ms": round(statistics.median(added), 2),
            "added_p95_ms": round(statistics.quantiles(added, n=20)[-1], 2),
        }
        print(json.dumps(told))


if __name__ == "__main__":
    main()
