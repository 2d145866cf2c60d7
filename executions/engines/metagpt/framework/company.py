"""One role of MetaGPT's software company at work: the workspace it finds, and its rounds until all is done."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metagpt.actions import UserRequirement, WritePRD, WriteTasks, prepare_documents
from metagpt.actions.action import Action
from metagpt.actions.design_api import WriteDesign
from metagpt.actions.project_management_an import TASK_LIST
from metagpt.actions.summarize_code import SummarizeCode
from metagpt.config2 import config
from metagpt.context import Context
from metagpt.environment import Environment
from metagpt.roles import Architect, Engineer, ProductManager, ProjectManager, QaEngineer, Role
from metagpt.schema import Message
from metagpt.utils.file_repository import FileRepository
from metagpt.utils.git_repository import ChangeType, GitRepository
from metagpt.utils.project_repo import ProjectRepo

from executions.engines.metagpt.framework import desk as desks
from executions.engines.metagpt.framework.desk import Desk
from executions.engines.output import Failed
from executions.engines.protocol import AgentSpec

NAME = "program"  # of the workspace and of the folder with the source in it
DOCUMENT = "work.json"  # what MetaGPT names by the time of day
ROUNDS = 12  # of one role; QA needs the most: write, run, debug, run
TEST_ROUNDS = 3


class PlainRepository(GitRepository):
    """MetaGPT's workspace without git: all files count as changed, which is how its roles find their work."""

    def open(self, local_path: Path, auto_init: bool = False) -> None:
        self._folder = Path(local_path)
        self._folder.mkdir(parents=True, exist_ok=True)

    @property
    def is_valid(self) -> bool:
        return True

    @property
    def workdir(self) -> Path:
        return self._folder

    @property
    def changed_files(self) -> dict[str, ChangeType]:
        found = sorted(path.relative_to(self._folder).as_posix() for path in self._folder.rglob("*") if path.is_file())
        return dict.fromkeys(found, ChangeType.UNTRACTED)

    def filter_gitignore(self, filenames: list[str], root_relative_path: Any = None) -> list[str]:
        return sorted(filenames)

    def rename_root(self, new_dir_name: str) -> None:
        """The folder keeps its name."""


class Hall(Environment):
    """Where the role works; it hears nothing of messages to others."""


def install() -> None:
    """Have MetaGPT's own actions use a plain workspace with names that do not change."""
    prepare_documents.GitRepository = PlainRepository
    FileRepository.new_filename = staticmethod(lambda: Path(DOCUMENT).stem)


async def work(desk: Desk, agent: AgentSpec, kind: type[Role], **options: Any) -> None:
    """Have a role of this kind do its part, from its desk. Raises what its actions raise, and Failed."""
    desks.put(desk)
    context = _context()
    system = f"You are the {agent['role']}. {agent['goal']} {agent['backstory']}".strip()
    role = kind(context=context, desc=system, goal=agent["goal"], **options)
    hall = Hall(context=context)
    hall.add_role(role)
    hall.publish_message(await _occasion(desk, context, kind))
    for _ in range(ROUNDS):
        if hall.is_idle:
            return
        await hall.run()
    raise Failed(f"The {agent['role']} came to no end of the work.", reason="bad_output")


def _context() -> Context:
    """A context of its own with an empty workspace."""
    made = config.model_copy(deep=True)
    made.update_via_cli("", NAME, False, "", 0)
    made.workspace.path = Path.cwd() / "workspace"
    made.code_review_k_times = 1
    shutil.rmtree(made.workspace.path, ignore_errors=True)
    return Context(config=made)


_LATER = (Architect, ProjectManager, Engineer, QaEngineer)  # roles that wait for others' work


async def _occasion(desk: Desk, context: Context, kind: type[Role]) -> Message:
    """Put the work of those before the role into its workspace; the message at which it begins.

    The documents hold what people approved, as text: nothing of MetaGPT's own form is kept between roles.
    """
    told = desk.interview.brief.text()
    if kind not in _LATER:  # it begins, and makes its workspace itself
        return Message(content=told, cause_by=UserRequirement)
    context.git_repo = PlainRepository(local_path=Path(context.config.workspace.path) / NAME)
    context.repo = ProjectRepo(context.git_repo)
    context.src_workspace = context.git_repo.workdir / NAME
    docs = context.repo.docs
    if kind is Architect:
        await docs.prd.save(DOCUMENT, told)
        return _from("Product Manager", WritePRD)
    if kind is ProjectManager:
        await docs.system_design.save(DOCUMENT, told)
        return _from("Architect", WriteDesign)
    if kind is Engineer:
        await docs.system_design.save(DOCUMENT, told)
        await docs.task.save(DOCUMENT, json.dumps({TASK_LIST.key: desk.plan}))
        return _from("Project Manager", WriteTasks)
    await _place(context, desk.files)
    return _from("Engineer", SummarizeCode)


async def _place(context: Context, files: Mapping[str, str]) -> None:
    sources = context.repo.with_src_path(context.src_workspace).srcs
    for path, content in files.items():
        await sources.save(path, content)


def _from(role: str, action: type[Action]) -> Message:
    return Message(content="approved", role=role, cause_by=action)


ROLES: dict[str, tuple[type[Role], dict[str, Any]]] = {
    "requirement": (ProductManager, {}),
    "design": (Architect, {}),
    "planning": (ProjectManager, {}),
    "development": (Engineer, {"use_code_review": True}),
    "testing": (QaEngineer, {"test_round_allowed": TEST_ROUNDS}),
}
