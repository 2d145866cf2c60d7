"""What the portal does all day, in its real processes: to be run by the gate.

    python -m tests.egress.scene [--outside]

Pages, API, WebSocket, a run with tools, a run through litellm, calls with an API key, a provider that is
tried, a project by MetaGPT where that is installed. The model is the fake one, on loopback. With `--outside` one
more provider is at a public address, which the gateway is right to dial: so the gate can be seen to notice.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import httpx

from executions.engines.registry import ENGINES
from tests.deadlines import DEADLINE
from tests.egress import OUTSIDE
from tests.fakes.llm import FakeLLM
from tests.roles import ROLES
from tests.stack import Stack

IMPATIENT = {"LLM_CONNECT_TIMEOUT": "1", "LLM_MAX_TRIES": "1"}


def play(stack: Stack, fake: FakeLLM) -> None:
    crew = stack.make_crews({"Egress": {"tasks": 2, "mode": "tools-1", "tools": ["calculator"]}})["Egress"]
    run = stack.kickoff(crew)
    with stack.watch(run) as socket:
        assert list(socket), "the run says nothing"
    assert stack.execution(run)["status"] == "completed", stack.logs()
    for page in ("/", "/crews", f"/crews/{crew}", f"/executions/{run}", "/api/docs/", "/accounts/login/"):
        assert stack.client().get(page, follow_redirects=True).status_code < 500, page
    provider = _provider(stack, "Translated", fake.url, kind="litellm", allow_private=True)
    assert stack.client("root").post(f"/api/llm/providers/{provider}/test").status_code == 200
    stack.wait_for_status(stack.kickoff(crew, model=_model(stack, provider, "translated")), "completed")
    key = stack.manage("api_key", "create", "ann", "--scope", "run").stdout.split()[-1]
    answer = _call(stack, key, "translated")
    assert answer.status_code == 200, answer.text
    play_metagpt(stack)


def play_metagpt(stack: Stack) -> None:
    """A project through its five stages, generated code and its tests with it."""
    if not ENGINES["metagpt"].is_installed():
        print("not played: MetaGPT is not installed", file=sys.stderr)
        return
    stack.make_crews({"Plain": {"mode": "ok"}})
    mapped = [word for role in ROLES["meta-gpt"] for word in ("--map", f"{role}=fake-ok")]
    told = ["--name", "Egress", "--engine", "meta-gpt", "--requirement", "A list.", "--user", "ann", *mapped]
    done = stack.manage("project", "new", *told, "--run", "--approve-all", "--json", check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr + stack.logs()


def play_outside(stack: Stack) -> None:
    provider = _provider(stack, "Outside", f"http://{OUTSIDE}/v1")
    model = _model(stack, provider, "outside")
    assert stack.client("root").post(f"/api/llm/providers/{provider}/test").json()["ok"] is False
    key = stack.manage("api_key", "create", "ann", "--scope", "run").stdout.split()[-1]
    assert _call(stack, key, model).status_code == 502


def _call(stack: Stack, key: str, model: str) -> httpx.Response:
    url = f"http://127.0.0.1:{stack.gateway_port}/v1/chat/completions"
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    return httpx.post(url, json=body, headers={"Authorization": f"Bearer {key}"}, timeout=DEADLINE)


def _provider(stack: Stack, name: str, api_base: str, kind: str = "openai_compatible", **fields: object) -> str:
    body = {"name": name, "kind": kind, "api_base": api_base, "api_key": "sk-x", **fields}
    answer = stack.client("root").post("/api/llm/providers", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def _model(stack: Stack, provider: str, name: str) -> str:
    body = {"id": name, "name": name, "provider_id": provider, "route": "openai/ok"}
    answer = stack.client("root").post("/api/llm/models", json=body)
    assert answer.status_code == 201, answer.text
    return name


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--outside", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="portal-egress-") as name, FakeLLM() as fake:
        folder = Path(name)
        folder.chmod(0o711)  # engines may run as a user of their own
        with Stack(folder / "data", llm_url=fake.url, environment=IMPATIENT) as stack:
            play_outside(stack) if options.outside else play(stack, fake)
    return 0


if __name__ == "__main__":
    sys.exit(main())
