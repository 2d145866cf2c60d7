"""A provider that repeats the key it was sent, in what it answers and in what it refuses: nobody else ever sees it."""

import json
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosedOK

from portal.lib.redaction import HIDDEN, forms_of
from tests.deadlines import DEADLINE
from tests.fakes.llm import FakeLLM
from tests.stack import Stack

pytestmark = pytest.mark.slow

KEY = "sk-planted-5up3r-s3cret-0123456789abcdef"
MAKE = f"""
from portal.accounts.models import User
from tests.factories import crews as make
provider = make.LLMProviderFactory(name="Planted", api_base="URL", api_key="{KEY}", needs_key=True)
for mode in ("planted", "401"):
    model = make.LLMModelFactory(id="says-" + mode, provider=provider, route="openai/" + mode)
    crew = make.CrewFactory(name=mode, owner=User.objects.get(username="ann"))
    make.TaskFactory(crew=crew, agent=make.AgentFactory(owner=crew.owner, llm_model=model), name="Tell")
    print("made", mode, crew.pk)
"""


def where_it_is(folder: Path) -> list[str]:
    """Files with the key in any form: the database and its log, what processes printed, what engines wrote."""
    forms = [form.encode() for form in forms_of(KEY)]
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            found += [str(path) for form in forms if form in content]
    return found


def test_a_key_that_is_repeated_is_found_nowhere(stack: Stack, fake_llm: FakeLLM) -> None:
    fake_llm.texts["planted"] = f"Your key is {KEY}, in base64 c2t, and {KEY[:12]} is its beginning. Bearer {KEY}!"
    made = stack.manage("shell", "-v", "0", "-c", MAKE.replace("URL", fake_llm.url)).stdout
    crews = dict(line.split()[1:] for line in made.splitlines() if line.startswith("made"))
    told: list[str] = []
    for mode, status in (("planted", "completed"), ("401", "failed")):
        run = stack.kickoff(crews[mode])
        with stack.watch(run) as watching:
            try:
                while True:
                    told.append(str(watching.recv(timeout=DEADLINE)))
            except ConnectionClosedOK:
                pass
        execution = stack.wait_for_status(run, status)
        told.append(json.dumps(execution))
        for person in ("ann", "root"):
            for address in ("events", "llm-calls", "approvals", ""):
                told.append(stack.client(person).get(f"/api/executions/{run}/{address}").text)
            told += [stack.client(person).get(f"/runs/{run}{rest}").text for rest in ("", "/result.md", "/state")]
        if mode == "planted":
            assert f"Your key is {HIDDEN}, in base64" in execution["final_output"]
            assert f"{KEY[:12]} is its beginning" in execution["final_output"]
    told.append(stack.client("root").get("/models").text)
    told.append(stack.client("root").get("/api/llm/providers").text)
    # It was said: in the answer, and in the refusal.
    assert any(request.authorization == f"Bearer {KEY}" for request in fake_llm.ledger)
    assert [text for text in told if any(form in text for form in forms_of(KEY))] == []
    assert any(HIDDEN in text for text in told)
    assert where_it_is(stack.folder) == []
