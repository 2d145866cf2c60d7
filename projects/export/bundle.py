"""A project as a zip: the documents it has produced, and a program that works its stages without the portal."""

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from string import Template
from typing import Any

from django.utils.text import slugify

from portal.accounts.models import User
from projects import materials
from projects.export import contents, locks
from projects.models import Deliverable, DeliverableAccess, Project, RoleLLMMapping, Stage

_SCRIPTS = Path(__file__).parent / "scripts"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same project gives the same bytes
_INSTALL = {
    "crewai": "pip install -r requirements.txt",
    "metagpt": "pip install --no-deps -r requirements.txt",
}
_FRAMEWORK = {"crewai": "CrewAI", "metagpt": "MetaGPT"}


def file_name(project: Project) -> str:
    """The name of the zip: `health-tracking-mobile-app.zip`."""
    return f"{_folder(project)}.zip"


def archive(project: Project, *, by: User | None = None) -> bytes:
    """The zip. The same state of a project gives the same bytes. No key of a provider is in it.

    Deliverables are there in the versions that were approved last, and those without one in their latest; the access
    log gets a line for each when a person takes it (`by`). Eight queries.
    """
    stages = list(project.stages.order_by("stage_order").prefetch_related("depends_on"))
    delivered = materials.delivered(project)
    mappings = list(project.mappings.select_related("llm_model__provider"))
    documents, index = contents.documents(delivered, stages)
    files = contents.data(project, stages, mappings)
    files |= documents
    files["deliverables/index.json"] = contents.as_json(index)
    files["requirements.txt"] = locks.requirements(project.engine).encode()
    files["run.py"] = (_SCRIPTS / f"run_{project.engine}.py").read_bytes()
    files["stages.py"] = (_SCRIPTS / "stages.py").read_bytes()
    files["README.md"] = contents.as_text(_readme(project, stages, mappings, index))
    if by is not None:
        _log(delivered, by)
    return _zipped(_folder(project), files)


def _readme(
    project: Project, stages: Iterable[Stage], mappings: Iterable[RoleLLMMapping], index: Iterable[dict[str, Any]]
) -> str:
    """How to run it, in the project's language. What people wrote is put into it as text, and is nothing else."""
    words = Template((_SCRIPTS / f"README.{project.language}.md").read_text())
    mapped = {mapping.role_name.casefold(): mapping.llm_model_id for mapping in mappings}
    return words.substitute(
        name=_line(project.name),
        framework=_FRAMEWORK[project.engine],
        install=_INSTALL[project.engine],
        stages="\n".join(_stage_row(stage, mapped.get(stage.responsible_role.casefold(), "")) for stage in stages),
        documents="\n".join(contents.rows(index)),
    )


def _stage_row(stage: Stage, model: str) -> str:
    after = ", ".join(other.stage_name for other in stage.depends_on.all()) or "–"
    return f"| {stage.stage_name} | {_line(stage.responsible_role)} | {model or '–'} | {after} |"


def _line(text: str) -> str:
    return " ".join(text.split())


def _folder(project: Project) -> str:
    return slugify(project.name, allow_unicode=True)[:60].strip("-") or "project"


def _log(deliverables: Iterable[Deliverable], by: User) -> None:
    DeliverableAccess.objects.bulk_create(
        DeliverableAccess(
            deliverable=one,
            project_id=one.project_id,
            accessed_by=by,
            access_type=DeliverableAccess.Kind.DOWNLOAD,
            access_details={"export": True},
        )
        for one in deliverables
    )


def _zipped(folder: str, files: contents.Files) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(f"{folder}/{name}", _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            zipped.writestr(entry, content)
    return out.getvalue()
