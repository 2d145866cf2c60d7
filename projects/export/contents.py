"""What stands in an exported project: the data that its scripts read, and the documents."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from django.utils.text import slugify

from crews.models import LLMModel, LLMProvider
from projects import plans, snapshot
from projects.models import Deliverable, Project, RoleLLMMapping, Stage

Files = dict[str, bytes]  # by path below the project's folder

# Providers that litellm translates for also speak OpenAI's protocol, here.
_OPENAI_PROTOCOL = {
    "anthropic": "https://api.anthropic.com/v1",
    "gemini": "https://generativelanguage.googleapis.com/v1beta/openai",
}
_SUFFIXES = {
    Deliverable.FileType.MARKDOWN: ".md",
    Deliverable.FileType.JSON: ".json",
    Deliverable.FileType.CODE: ".md",
    Deliverable.FileType.PDF: ".pdf",
    Deliverable.FileType.IMAGE: "",
}
_LONGEST_NAME = 60


def data(project: Project, stages: list[Stage], mappings: Iterable[RoleLLMMapping]) -> Files:
    """project.json and models.json, the requirement and what is attached to it. Reads the project's attachments."""
    attachments = {_plain(one.name): one.content for one in project.attachments.order_by("name")}
    roles = _names([stage.responsible_role for stage in stages])
    by_role = {mapping.role_name.casefold(): mapping for mapping in mappings if mapping.is_active}
    mapped = {role: by_role.get(role.casefold()) for role in roles}
    facts = {
        "name": project.name,
        "description": project.description,
        "type": project.project_type,
        "audience": project.target_audience,
        "language": project.language,
        "technical_requirements": project.technical_requirements,
        "requirement": "requirement.md",
        "attachments": sorted(attachments),
        "roles": [_role(project, role, mapping) for role, mapping in mapped.items()],
        "stages": [_stage(project, stage) for stage in stages],
    }
    variables = _variables(roles)
    models = {role: _model(project, mapping, variables[role]) for role, mapping in mapped.items()}
    files = {
        "project.json": as_json(facts),
        "models.json": as_json(models),
        "requirement.md": as_text(_requirement(project)),
    }
    return files | {f"attachments/{name}": as_text(content) for name, content in attachments.items()}


def documents(deliverables: Iterable[Deliverable], stages: Iterable[Stage]) -> tuple[Files, list[dict[str, Any]]]:
    """The deliverables as files, and of each what it is and where; code bundles are folders.

    `deliverables` with their `files` read.
    """
    folders = {stage.pk: stage_folder(stage) for stage in stages}
    files: Files = {}
    index = []
    taken: set[str] = set()
    for one in deliverables:
        name = _free(f"deliverables/{folders[one.stage_id]}/{_file_name(one.title, one.deliverable_type)}", taken)
        bundle = list(one.files.all())
        path = f"{name}/" if bundle else f"{name}{_suffix(one)}"
        index.append(_described(one, path))
        for file in bundle:
            if inside := _inside(file.path):
                files[f"{name}/{inside}"] = file.content.encode()
        if one.upload:
            with one.upload.open("rb") as upload:
                files[path] = upload.read()
        elif not bundle:
            files[path] = one.content.encode()
        elif one.content.strip():  # what is said about the files of a bundle
            files[f"{name}.md"] = one.content.encode()
    return files, index


def rows(index: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The index as rows of a Markdown table."""
    for one in index:
        title = " ".join(str(one["title"]).split())
        yield f"| {title} | {one['stage']} | {one['version']} | {one['status']} | `{one['file']}` |"


def stage_folder(stage: Stage) -> str:
    return f"{stage.stage_order}-{stage.stage_name}"


# --- Parts ------------------------------------------------------------------------------------------


def _requirement(project: Project) -> str:
    """All that is asked for, as a stage is told it."""
    described = project.description if project.requirement.strip() else ""  # else it is what is asked for
    parts = [f"# {project.name}", described, snapshot.requirement(project)]
    if project.target_audience:
        parts.append(f"For whom: {project.target_audience}")
    if project.technical_requirements:
        technical = json.dumps(project.technical_requirements, ensure_ascii=False, indent=2, sort_keys=True)
        parts.append(f"Technical requirements:\n\n```json\n{technical}\n```")
    return "\n\n".join(part.strip() for part in parts if part.strip())


def _role(project: Project, name: str, mapping: RoleLLMMapping | None) -> dict[str, str]:
    if mapping is not None:
        agent = snapshot.agent_of(project, mapping)
        return {"name": name, "goal": agent["goal"], "backstory": agent["backstory"]}
    plan = plans.role_plan(project.selected_ai, name)
    goal, backstory = plan.goal.text(project.language), plan.backstory.text(project.language)
    return {"name": name, "goal": goal, "backstory": backstory}


def _stage(project: Project, stage: Stage) -> dict[str, Any]:
    plan = plans.stage_plan(project.selected_ai, stage.stage_name)
    task = plan.task.text(project.language)
    taken: set[str] = set()
    return {
        "name": stage.stage_name,
        "role": stage.responsible_role,
        "depends_on": [other.stage_name for other in stage.depends_on.all()],
        "task": f"{task}\n\n{stage.instructions.strip()}" if stage.instructions.strip() else task,
        "expected_output": plan.expected.text(project.language),
        "deliverables": [
            {
                "type": str(wanted.type),
                "title": wanted.title.text(project.language),
                "file": f"{_free(f'{stage_folder(stage)}/{wanted.type}', taken)}.md",
            }
            for wanted in plan.wanted
        ],
    }


def _model(project: Project, mapping: RoleLLMMapping | None, variables: str) -> dict[str, Any]:
    """Where a role's model is asked; never with its key. Without a mapping the environment has to say it."""
    model = mapping.llm_model if mapping else None
    chosen = snapshot.agent_of(project, mapping)["llm"] if mapping else {}
    return {
        "catalog_id": model.pk if model else "",
        "route": model.route if model else "",
        "model": model.upstream_name if model else "",
        "base_url": _base_url(model) if model else "",
        "key_variable": _key_variable(model) if model else "OPENAI_API_KEY",
        "needs_key": bool(model and model.provider.needs_key),
        "parameters": {**(model.defaults if model else {}), **chosen},
        "variables": variables,
    }


def _base_url(model: LLMModel) -> str:
    """Where the model's provider speaks OpenAI's protocol; empty for one that only the portal can reach."""
    if model.provider.kind == LLMProvider.Kind.OPENAI_COMPATIBLE:
        return model.provider.api_base
    if model.provider.kind == LLMProvider.Kind.LITELLM and not model.provider.api_base:
        return _OPENAI_PROTOCOL.get(model.route.partition("/")[0], "")
    return ""


def _key_variable(model: LLMModel) -> str:
    """The variable that a provider's own programs read its key from; of a provider with a name of its own, by that."""
    prefix = model.route.partition("/")[0]
    is_openai = urlsplit(model.provider.api_base).hostname == "api.openai.com"
    name = prefix if is_openai or prefix != "openai" else model.provider.name
    return f"{_variable(name) or 'PROVIDER'}_API_KEY"


def _variables(roles: list[str]) -> dict[str, str]:
    """By role the first part of the variables that are for it alone."""
    taken: set[str] = set()
    return {role: _free(_variable(role) or "ROLE", taken, "_") for role in roles}


def _described(one: Deliverable, path: str) -> dict[str, Any]:
    return {
        "title": one.title,
        "type": one.deliverable_type,
        "stage": one.stage.stage_name,
        "file": path,
        "version": one.version,
        "status": one.status,
        "sha256": one.sha256,
        "created_by_role": one.created_by_role,
        "approved_by_role": one.approved_by_role,
        "llm_model": one.llm_model,
        "tags": one.tags,
        "checks": one.metadata.get("checks", {}),
    }


# --- Names ------------------------------------------------------------------------------------------


def _names(names: Iterable[str]) -> list[str]:
    """Each once, in order."""
    return list(dict.fromkeys(names))


def _variable(name: str) -> str:
    found = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").upper()
    return f"ROLE_{found}" if found[:1].isdigit() else found


def _file_name(title: str, other: str) -> str:
    return slugify(title, allow_unicode=True)[:_LONGEST_NAME].strip("-") or other


def _free(name: str, taken: set[str], between: str = "-") -> str:
    """`name`, with a number where it is taken already; file systems may not tell cases of letters apart."""
    found, number = name, 1
    while found.casefold() in taken:
        number += 1
        found = f"{name}{between}{number}"
    taken.add(found.casefold())
    return found


def _suffix(one: Deliverable) -> str:
    if one.upload:
        return PurePosixPath(one.upload.name or "").suffix
    return _SUFFIXES[Deliverable.FileType(one.file_type)] or ".md"


def _plain(name: str) -> str:
    """A name of a file without folders."""
    return PurePosixPath(name.replace("\\", "/")).name or "attachment"


def _inside(path: str) -> str:
    """`path` without anything that leads out of its folder."""
    parts = path.replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in {"", ".", ".."})


def as_json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()


def as_text(text: str) -> bytes:
    return (text.rstrip() + "\n").encode()
