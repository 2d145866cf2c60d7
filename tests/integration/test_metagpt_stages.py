"""The stages of a project on the real MetaGPT, in its host and its isolation, with a model that fills in forms."""

import asyncio
import json
from typing import Any

import pytest

from tests.engines import agent, carry, engine_host, run_spec, task
from tests.fakes.forms import FormLLM

pytestmark = [pytest.mark.slow, pytest.mark.metagpt]

STAGES = {
    "requirement": ("Product Manager", ["requirement"]),
    "design": ("Architect", ["design_doc", "architecture"]),
    "planning": ("Project Manager", ["task_plan"]),
    "development": ("Engineer", ["code"]),
    "testing": ("QA Engineer", ["test_plan"]),
}
PLAN = "# Plan\n\n## Task list\n\n1. `store.py`: keeps items\n2. `main.py`: starts it\n"


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    with engine_host(tmp_path_factory.mktemp("host"), "metagpt") as found:
        yield found


def spec(llm: FormLLM, stage: str, materials: Any = (), **changes: Any):
    role, wanted = STAGES.get(stage, ("Writer", ["document"]))
    values: dict[str, Any] = {
        "engine": "metagpt",
        "agents": [agent("role", role=role, llm={"temperature": 0.2, "max_tokens": 900})],
        "tasks": [task(stage, agent="role", description="Do it.")],
        "project": {
            "name": "Lists",
            "type": "desktop",
            "audience": "everybody",
            "requirement": "A to-do list",
            "technical": {"python": "3.11"},
            "folders": [],
        },
        "stage": {
            "name": stage,
            "round": 1,
            "deliverables": [{"type": kind, "title": kind.title()} for kind in wanted],
            "instructions": "",
        },
        "materials": list(materials),
    }
    return run_spec(llm.url, **{**values, **changes})


def material(kind: str, content: str, files: Any = ()):
    return {
        "key": kind, "title": kind, "kind": kind, "role": "Somebody", "version": "1.0", "content": content,
        "files": list(files),
    }  # fmt: skip


def run(host, tmp_path, given, name="run"):
    work = tmp_path / name
    work.mkdir()
    return asyncio.run(carry(host, given, work))


def made(ended):
    assert ended.result, ended.log
    (done,) = ended.events("task.completed")
    return done["data"]["deliverables"]


def test_five_stages_lead_from_a_requirement_to_tested_code(host, tmp_path):
    materials: list[Any] = []
    with FormLLM(code={"tests/test_main.py": "import unittest\nimport main\n\n\nclass T(unittest.TestCase):\n"
                       "    def test_it(self):\n        self.assertEqual(main.main(), 1)\n"}) as llm:  # fmt: skip
        for stage, (_, wanted) in STAGES.items():
            ended = run(host, tmp_path, spec(llm, stage, materials), stage)
            found = made(ended)
            assert [one["type"] for one in found] == wanted
            assert all(one["content"].startswith("# ") and one["prompt"] for one in found)
            assert [event["data"]["type"] for event in ended.events("deliverable.created")] == wanted
            materials += [material(one["type"], one["content"], one["files"]) for one in found]
    code, tests = materials[-2], materials[-1]
    assert [file["path"] for file in code["files"]] == ["store.py", "main.py"]
    assert [file["path"] for file in tests["files"]] == ["tests/test_main.py", "tests/test_store.py"]
    checks = found[0]["metadata"]["checks"]
    assert (checks["tests_run"], checks["tests_failed"], checks["syntax_ok"]) == (3, 1, True)
    assert checks["sandbox"] == "landlock"
    assert "AssertionError: None != 1" in tests["content"]
    for headers, body in llm.requests:
        assert body["model"] == "role:role"
        assert headers["X-Portal-Role"] == "role"
        assert headers["X-Portal-Task"] in STAGES
        assert headers["X-Portal-Ordinal"].isdigit()
        assert (body["max_tokens"], body["stream_options"]) == (900, {"include_usage": True})


@pytest.mark.parametrize("stage", ["requirement", "development", "testing"])
def test_the_same_spec_asks_the_same(host, tmp_path, stage):
    files = [{"path": "store.py", "content": "class Store:\n    pass\n"}]
    given = [material("task_plan", PLAN), material("code", "# Code", files)]
    asked = []
    for number in range(2):
        with FormLLM() as llm:
            run(host, tmp_path, spec(llm, stage, given), f"{stage}{number}")
            asked.append([json.dumps(body) for _, body in llm.requests])
    assert asked[0] == asked[1]


def test_a_plan_tells_of_the_files_of_the_design_and_of_no_server_that_nobody_asked_for(host, tmp_path):
    design = material("design_doc", "# Design\n\n## Files\n\n- `main.py`\n- `shelf.py`\n- `notes.txt`\n")
    with FormLLM() as llm:
        (plan,) = made(run(host, tmp_path, spec(llm, "planning", [design])))
        assert "\n1. `shelf.py`:" in plan["content"]
        assert "\n2. `main.py`:" in plan["content"]
        assert "\n3. " not in plan["content"]
        assert "Full API spec" not in json.dumps([body for _, body in llm.requests])
        free = {"planning": [{"output": plan["content"], "feedback": "Serve it over HTTP."}]}
        llm.requests.clear()
        made(run(host, tmp_path, spec(llm, "planning", [design], reviews=free), "again"))
        asked = json.dumps([body["response_format"] for _, body in llm.requests])
    assert '"shelf.py"' not in asked, "who sends a plan back may want other files"


def test_what_models_forget_is_put_right_without_asking_them(host, tmp_path):
    code = {"main.py": "class Store:\n    def size(self):\n        return 1\n\n\nif __name__ == '__main__':\n"
                       "    print(Store().size(), sys.argv)\n",
            "store.py": "class Store:\n    def size(self):\n        return 1\n"}  # fmt: skip
    with FormLLM(code=code) as llm:
        (found,) = made(run(host, tmp_path, spec(llm, "development", [material("task_plan", PLAN)])))
    written = {file["path"]: file["content"] for file in found["files"]}
    assert written["main.py"].startswith("import sys\nfrom store import Store\n")
    assert found["metadata"]["checks"]["problems"] == []


def test_what_people_wrote_is_what_the_next_role_reads(host, tmp_path):
    edited = PLAN.replace("store.py", "shelf.py") + "\nKeep it under 100 lines.\n"
    with FormLLM() as llm:
        (code,) = made(run(host, tmp_path, spec(llm, "development", [material("task_plan", edited)])))
    assert [file["path"] for file in code["files"]] == ["shelf.py", "main.py"]
    assert all("Keep it under 100 lines." in body["messages"][-1]["content"] for _, body in llm.requests)


def test_work_that_was_sent_back_is_done_again_with_the_comments(host, tmp_path):
    reviews = {"development": [{"output": "# Code\n\n### main.py\n\n```py\nprint('old')\n```", "feedback": "Greet."}]}
    with FormLLM() as llm:
        (code,) = made(run(host, tmp_path, spec(llm, "development", reviews=reviews)))
    prompt = llm.requests[0][1]["messages"][-1]["content"]
    assert "Greet." in prompt
    assert "print('old')" in prompt
    assert [file["path"] for file in code["files"]] == ["main.py"]


def test_korean_projects_have_korean_documents(host, tmp_path):
    with FormLLM() as llm:
        (found,) = made(run(host, tmp_path, spec(llm, "requirement", language="ko")))
    assert "## 제품 목표" in found["content"]
    assert "한국어로" in llm.requests[0][1]["messages"][-1]["content"]


def test_a_provider_that_knows_no_schemas_is_told_the_form_in_words(host, tmp_path):
    with FormLLM(refuses_forms=True) as llm:
        (found,) = made(run(host, tmp_path, spec(llm, "planning")))
    assert found["type"] == "task_plan"
    refused = [body for _, body in llm.requests if "response_format" in body]
    assert len(refused) == 1


def test_a_model_that_never_gives_the_form_fails_with_its_raw_answer_kept(host, tmp_path):
    with FormLLM(gives="I would rather not.") as llm:
        ended = run(host, tmp_path, spec(llm, "requirement"))
    assert ended.failure["reason"] == "bad_output"
    assert len(llm.requests) == 4
    (log,) = [event for event in ended.events("log") if event["data"].get("kind") == "raw_answer"]
    assert log["data"]["text"] == "I would rather not."


def test_a_stage_that_no_role_of_metagpts_knows_gives_a_plain_document(host, tmp_path):
    with FormLLM() as llm:
        (found,) = made(run(host, tmp_path, spec(llm, "deployment")))
    assert (found["type"], found["file_type"]) == ("document", "markdown")
    assert "## Summary" in found["content"]
