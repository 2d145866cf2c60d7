"""Internal names of the pinned MetaGPT that the adapter replaces or reads; asked in its own interpreter."""

import json
import subprocess

import pytest

from executions.engines import launch
from executions.engines.registry import ENGINES

ENGINE = ENGINES["metagpt"]
pytestmark = pytest.mark.skipif(not ENGINE.is_installed(), reason="the engine is not installed")

ASKED = """
import inspect, json, threading
from executions.engines.metagpt import adapter, fields
adapter.prepare()
from importlib.metadata import version
from metagpt.actions import DebugError, RunCode, WriteCode, WriteCodeReview, WriteTest, prepare_documents
from metagpt.actions.action_node import ActionNode
from metagpt.actions.design_api_an import DESIGN_API_NODE
from metagpt.actions.project_management_an import PM_NODE
from metagpt.actions.write_prd_an import WRITE_PRD_NODE
from metagpt.config2 import config
from metagpt.context import Context
from metagpt.provider.llm_provider_registry import LLM_REGISTRY
from metagpt.utils.file_repository import FileRepository

def takes(function):
    return list(inspect.signature(function).parameters)

print(json.dumps({
    "version": version("metagpt"),
    "forms": {node.key: list(node.children) for node in (WRITE_PRD_NODE, DESIGN_API_NODE, PM_NODE)},
    "fill": takes(ActionNode.fill),
    "replaced": [
        ActionNode.simple_fill.__module__, WriteCode.write_code.__module__, WriteTest.write_code.__module__,
        WriteCodeReview.write_code_review_and_rewrite.__module__, RunCode.run.__module__, DebugError.run.__module__,
        RunCode.run_script.__module__, RunCode._install_dependencies.__module__,
        prepare_documents.GitRepository.__module__, FileRepository.new_filename.__module__,
        type(Context(config=config).llm()).__module__,
    ],
    "runs_write": "await self.write_code(prompt)" in inspect.getsource(WriteCode.run),
    "runs_test": "await self.write_code(prompt)" in inspect.getsource(WriteTest.run),
    "runs_review": "self.write_code_review_and_rewrite(" in inspect.getsource(WriteCodeReview.run),
    "mermaid": config.mermaid.engine,
    "threads": threading.active_count(),
}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    command = [ENGINE.interpreter, "-c", ASKED]
    told = subprocess.run(
        command, env=launch.environment(home), cwd=home, capture_output=True, text=True, check=False, timeout=120
    )
    assert told.returncode == 0, told.stderr
    assert not [path for path in home.rglob("*") if path.is_file()]
    return json.loads(told.stdout.splitlines()[-1])


def test_the_version_is_the_pinned_one(found):
    assert found["version"] == ENGINE.version() == "0.8.2"


def test_its_methods_are_ours_and_still_called(found):
    assert all(module.startswith("executions.engines.metagpt.framework.") for module in found["replaced"])
    assert found["runs_write"]
    assert found["runs_test"]
    assert found["runs_review"]
    assert found["fill"][:4] == ["self", "context", "llm", "schema"]


def test_every_part_of_its_forms_is_known_here(found):
    from executions.engines.metagpt import fields

    made_or_known = {
        *("Language", "Original Requirements", "Project Name"),
        *("Task list", "Required Other language third-party packages"),
    }
    for name, parts in found["forms"].items():
        assert set(parts) - made_or_known <= set(fields.FORMS[name]("en")), name


def test_it_draws_nothing_and_leaves_the_host_with_one_thread(found):
    assert found["mermaid"] == "none"
    assert found["threads"] == 1
