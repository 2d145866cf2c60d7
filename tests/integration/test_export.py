"""A project taken out of the portal: what is in the zip, and that its program runs without the portal."""

import io
import json
import os
import re
import subprocess
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from executions.engines.registry import ENGINES
from projects import export
from projects.deliverables import versions
from projects.export import locks
from projects.models import DeliverableAccess, Project, RoleLLMMapping
from tests.deadlines import DEADLINE
from tests.factories.accounts import UserFactory
from tests.factories.crews import LLMModelFactory, LLMProviderFactory
from tests.factories.projects import ProjectFactory, StageFactory, deliverable_of, staged_project
from tests.fakes.llm import FakeLLM
from tests.stack import ROOT

KEY = "sk-very-secret-key-of-a-provider"
# What a person may type; none of it may ever be run.
NASTY = '"); import os; os.system("touch /tmp/owned") # {x} ${y} $name \\" \'\'\' """ ../../up'

pytestmark = pytest.mark.django_db


def unzipped(content: bytes) -> dict[str, bytes]:
    """The files of an export by their path below its folder."""
    with zipfile.ZipFile(io.BytesIO(content)) as opened:
        names = opened.namelist()
        assert len({name.partition("/")[0] for name in names}) == 1, "it unpacks into one folder"
        return {name.partition("/")[2]: opened.read(name) for name in names}


def crewai_project(**fields: Any) -> Project:
    project = ProjectFactory(**{"selected_ai": "crew-ai", "name": "Runners", "requirement": "An app.", **fields})
    research = StageFactory(project=project, stage_name="research", responsible_role="Researcher")
    writing = StageFactory(project=project, stage_name="writing", responsible_role="Writer")
    planning = StageFactory(project=project, stage_name="planning", responsible_role="Planner")
    planning.depends_on.set([research, writing])
    return project


def map_roles(project: Project, **model: Any) -> None:
    provider = LLMProviderFactory(name="A house of ours", api_base="http://10.1.2.3/v1", api_key=KEY, needs_key=True)
    mapped = LLMModelFactory(provider=provider, **model)
    for stage in project.stages.all():
        RoleLLMMapping.objects.create(
            project=project, role_name=stage.responsible_role, llm_model=mapped, llm_config={"max_tokens": 99}
        )


# --- What is in it ----------------------------------------------------------------------------------


def test_the_latest_versions_are_there_as_files_and_folders() -> None:
    project = staged_project(name="To do", requirement="A list.")
    first, code = project.stages.get(stage_name="requirement"), project.stages.get(stage_name="development")
    old = deliverable_of(first, title="Product requirements", type="requirement", content="# Old")
    deliverable_of(first, title="Product requirements", type="requirement", content="# New", lineage_of=old)
    deliverable_of(
        code, title="Code", type="code", content="Two files.",
        files=[{"path": "src/main.py", "content": "print(1)\n"}, {"path": "README.md", "content": "Hello\n"}],
    )  # fmt: skip

    files = unzipped(export.archive(project))

    assert files["deliverables/1-requirement/product-requirements.md"] == b"# New"
    assert files["deliverables/4-development/code/src/main.py"] == b"print(1)\n"
    assert files["deliverables/4-development/code/README.md"] == b"Hello\n"
    index = json.loads(files["deliverables/index.json"])
    assert [(one["stage"], one["version"], one["file"]) for one in index] == [
        ("requirement", "1.1", "deliverables/1-requirement/product-requirements.md"),
        ("development", "1.0", "deliverables/4-development/code/"),
    ]


def test_what_was_approved_is_there_and_not_a_later_draft() -> None:
    project = staged_project()
    stage = project.stages.get(stage_name="requirement")
    approved = deliverable_of(stage, title="Goals", content="# Approved", status="approved")
    versions.edit(approved, project.owner, content="# Not approved")
    files = unzipped(export.archive(project))
    (index,) = json.loads(next(text for name, text in files.items() if name.endswith("index.json")))
    assert (index["version"], index["status"]) == ("1.0", "approved")
    assert any(b"# Approved" in text for text in files.values())
    assert not any(b"# Not approved" in text for text in files.values())


def test_no_key_of_a_provider_is_in_it() -> None:
    project = crewai_project()
    map_roles(project, id="ours", route="openai/ours-large")

    content = export.archive(project)

    files = unzipped(content)
    assert KEY.encode() not in b"".join(files.values())
    models = json.loads(files["models.json"])
    assert models["Researcher"] == {
        "catalog_id": "ours",
        "route": "openai/ours-large",
        "model": "ours-large",
        "base_url": "http://10.1.2.3/v1",
        "key_variable": "A_HOUSE_OF_OURS_API_KEY",
        "needs_key": True,
        "parameters": {"max_tokens": 99},
        "variables": "RESEARCHER",
    }


def test_the_same_project_gives_the_same_bytes() -> None:
    project = staged_project()
    deliverable_of(project.stages.get(stage_name="requirement"))

    assert export.archive(project) == export.archive(project)


def test_what_people_wrote_is_data_and_leads_nowhere() -> None:
    project = crewai_project(name=NASTY[:200], requirement=NASTY, target_audience=NASTY)
    deliverable_of(
        project.stages.get(stage_name="research"), title=NASTY[:200], content=NASTY,
        files=[{"path": "a/b.py", "content": NASTY}],
    )  # fmt: skip

    content = export.archive(project)

    with zipfile.ZipFile(io.BytesIO(content)) as opened:
        assert not [name for name in opened.namelist() if ".." in name.split("/") or name.startswith("/")]
    files = unzipped(content)
    scripts = Path(export.__file__).parent / "scripts"
    assert files["run.py"] == (scripts / "run_crewai.py").read_bytes()
    assert files["stages.py"] == (scripts / "stages.py").read_bytes()
    assert NASTY in files["requirement.md"].decode()


def test_taking_it_is_written_to_the_access_log() -> None:
    project = staged_project()
    deliverable = deliverable_of(project.stages.get(stage_name="requirement"))
    person = UserFactory()

    export.archive(project)
    assert not DeliverableAccess.objects.filter(access_type="download").exists()
    export.archive(project, by=person)

    line = DeliverableAccess.objects.get(access_type="download")
    assert (line.deliverable, line.accessed_by, line.access_details) == (deliverable, person, {"export": True})


def test_it_takes_the_same_number_of_queries_however_much_there_is(django_assert_num_queries: Any) -> None:
    project = staged_project()
    map_roles(project, id="ours")
    for stage in project.stages.all():
        for n in range(3):
            deliverable_of(stage, title=f"Document {n}")

    with django_assert_num_queries(8):
        export.archive(project)


@pytest.mark.parametrize("language", ["en", "ko"])
def test_the_readme_says_how_to_run_it_in_the_projects_language(language: str) -> None:
    project = crewai_project(language=language)
    map_roles(project, id="ours")

    readme = unzipped(export.archive(project))["README.md"].decode()

    assert readme.startswith("# Runners\n")
    assert "| planning | Planner | ours | research, writing |" in readme
    assert ("Run it" in readme) == (language == "en")
    assert "$" not in readme.replace("${", "")


def test_the_lock_holds_all_that_the_engine_needs() -> None:
    pins = set(re.findall(r"^([A-Za-z0-9._-]+)==", locks.requirements("crewai"), re.MULTILINE))
    names = {canonicalize_name(name) for name in pins}
    wanted, left = set[str](), ["crewai"]
    while left:
        name = left.pop()
        if name not in wanted:
            wanted.add(name)
            needs = [Requirement(text) for text in metadata.requires(name) or ()]
            left += [
                canonicalize_name(need.name) for need in needs if not need.marker or need.marker.evaluate({"extra": ""})
            ]
    assert wanted <= names
    assert not names & {"django", "litellm", "channels"}, "and nothing that only the portal needs"
    assert "via" not in locks.requirements("crewai")
    assert "metagpt==0.8.2" in locks.requirements("metagpt")


# --- It runs ----------------------------------------------------------------------------------------


def run(
    content: bytes, engine: str, folder: Path, *arguments: str, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Unpack an export and run its program as somebody without the portal would: nothing of ours is around."""
    with zipfile.ZipFile(io.BytesIO(content)) as opened:
        opened.extractall(folder)
    (home := folder / "home").mkdir(exist_ok=True)
    (inside,) = [path for path in folder.iterdir() if (path / "run.py").exists()]
    return subprocess.run(
        [ENGINES[engine].interpreter, "run.py", "--output", folder / "output", *arguments],
        cwd=inside, env={"PATH": os.environ["PATH"], "HOME": str(home), **environment},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=2 * DEADLINE,
    )  # fmt: skip


def outputs(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder / "output").as_posix(): path.read_text()
        for path in sorted((folder / "output").rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_a_crewai_project_runs_without_the_portal(tmp_path: Path) -> None:
    project = crewai_project(requirement=f"An app for runners. {NASTY}")
    map_roles(project, id="ours", route="openai/ok")
    with FakeLLM() as fake:
        done = run(export.archive(project), "crewai", tmp_path, OPENAI_BASE_URL=fake.url, OPENAI_API_KEY="sk-mine")
        asked = list(fake.ledger)

    assert done.returncode == 0, done.stderr
    made = outputs(tmp_path)
    assert set(made) == {"1-research/report.md", "2-writing/document.md", "3-planning/plan.md"}
    assert all(text.startswith("Answer ") for text in made.values())
    assert [entry.authorization for entry in asked] == ["Bearer sk-mine"] * 3
    plan = json.dumps(asked[-1].body["messages"], ensure_ascii=False)
    assert json.dumps(made["1-research/report.md"].strip(), ensure_ascii=False)[1:-1] in plan
    assert json.dumps(made["2-writing/document.md"].strip(), ensure_ascii=False)[1:-1] in plan
    assert asked[-1].body["max_tokens"] == 99
    assert not Path("/tmp/owned").exists()  # noqa: S108


@pytest.mark.slow
def test_it_goes_on_from_a_stage_with_what_came_along(tmp_path: Path) -> None:
    project = crewai_project()
    for stage, text in (("research", "What runners want."), ("writing", "What it is.")):
        deliverable_of(project.stages.get(stage_name=stage), title=stage.title(), content=text)
    with FakeLLM() as fake:
        done = run(
            export.archive(project), "crewai", tmp_path, "--from", "planning",
            PLANNER_BASE_URL=fake.url, PLANNER_MODEL="ok",
            RESEARCHER_BASE_URL=fake.url, WRITER_BASE_URL=fake.url,
        )  # fmt: skip
        asked = list(fake.ledger)

    assert done.returncode == 0, done.stderr
    assert set(outputs(tmp_path)) == {"3-planning/plan.md"}
    (call,) = asked
    assert "What runners want." in str(call.body["messages"])
    assert "What it is." in str(call.body["messages"])


@pytest.mark.slow
def test_what_is_missing_is_said_before_a_model_is_asked(tmp_path: Path) -> None:
    project = crewai_project()
    map_roles(project, id="ours")

    done = run(export.archive(project), "crewai", tmp_path)

    assert done.returncode == 1
    assert "needs a key: set A_HOUSE_OF_OURS_API_KEY." in done.stderr
    assert outputs(tmp_path) == {}


@pytest.mark.slow
@pytest.mark.metagpt
def test_a_metagpt_project_runs_without_the_portal(tmp_path: Path) -> None:
    project = staged_project(name="To do", requirement=f"A list. {NASTY}")
    map_roles(project, id="ours", route="openai/ok")
    with FakeLLM() as fake:
        fake.texts["code-model"] = (
            "Here it is.\n\n### src/main.py\n\n```python\nprint(1)\n```\n\n"
            "### ../../out.py\n\n```python\nprint(2)\n```\n"
        )
        done = run(
            export.archive(project), "metagpt", tmp_path,
            OPENAI_BASE_URL=fake.url, OPENAI_API_KEY="sk-mine", ENGINEER_MODEL="code-model",
        )  # fmt: skip
        asked = list(fake.ledger)

    assert done.returncode == 0, done.stderr
    made = outputs(tmp_path)
    assert set(made) == {
        "1-requirement/requirement.md", "2-design/design_doc.md", "2-design/architecture.md", "3-planning/task_plan.md",
        "4-development/code.md", "4-development/code/src/main.py", "5-testing/test_plan.md",
    }  # fmt: skip
    assert made["4-development/code/src/main.py"] == "print(1)\n"
    assert not list(tmp_path.parent.rglob("out.py")), "a path that a model made up leads out of no folder"
    assert len(asked) == 6
    assert made["3-planning/task_plan.md"].strip() in str(asked[-1].body["messages"][-1]["content"])
    assert ROOT.as_posix() not in str([entry.body for entry in asked])
