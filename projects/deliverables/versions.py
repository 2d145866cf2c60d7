"""Making deliverables and new versions of them: the only place that writes their rows.

A version never changes once it is stored, but for its status and what reviewers say. Who makes one holds the
project's row: of two at once the second one sees the first.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.db import transaction
from django.utils.translation import gettext as _

from executions.events import plain
from executions.models import Execution
from portal.accounts import audit
from portal.accounts.models import User
from portal.lib.problems import Conflict, FieldError, InvalidValues
from projects.deliverables import access, search
from projects.deliverables import files as _files
from projects.deliverables.files import Upload
from projects.models import Deliverable, DeliverableAccess, DeliverableFile, Project, Stage

MAX_TAGS = 20
MAX_TAG = 50  # characters
MAX_TITLE = 200
MAX_DESCRIPTION = 10_000
_LABEL = 100  # characters of a role or model
# What the portal found out about a version; nobody can claim it.
_FOUND_OUT = frozenset({"checks", "upload", "left_out", "auto_approved"})
Status = Deliverable.Status
FileType = Deliverable.FileType
Files = Iterable[Mapping[str, Any]]


class EditConflict(Conflict):
    """The version that was edited is not the latest any more."""

    code = "edit_conflict"

    def __init__(self, latest: Deliverable, *, status: int = 409) -> None:
        super().__init__(
            _("Somebody made version %(version)s meanwhile.") % {"version": latest.version},
            hint=_("Read the latest version, and make your change in it."),
            status=status,
        )
        self.latest = latest


def make(
    *,
    project: Project,
    stage: Stage,
    type: str,  # noqa: A002 - the word of the API
    title: str,
    content: str = "",
    files: Files = (),
    by: User | None = None,
    role: str = "",
    execution: Execution | None = None,
    llm_model: str = "",
    prompt: str = "",
    metadata: Mapping[str, Any] | None = None,
    lineage_of: Deliverable | None = None,
    major: bool = False,
    status: str = Status.DRAFT,
    description: str = "",
    tags: Iterable[str] = (),
    file_type: str = "",
    upload: Upload | None = None,
) -> Deliverable:
    """A new deliverable, or with `lineage_of` the next version in its lineage: after the latest, its `parent`.

    `files`: `{path, content}` each. The next version is a minor one (1.1 after 1.0) unless it is `major`
    (2.0). Raises `InvalidValues` for what cannot be kept; see `take_in` for what an engine made.
    """
    values = _cleaned(title=title, description=description, tags=tags, content=content, type=type, file_type=file_type)
    return _store(
        project=project,
        stage=stage,
        values=values,
        texts=_files.cleaned(files),
        upload=upload,
        kept_upload="",
        lineage=lineage_of.lineage if lineage_of else None,
        is_major=major,
        created_by=by,
        created_by_role=plain(role)[:_LABEL],
        execution=execution,
        llm_model=plain(llm_model)[:_LABEL],
        prompt=plain(prompt),
        metadata=plain(dict(metadata or {})),
        status=status,
    )


def take_in(made: Mapping[str, Any], **facts: Any) -> Deliverable:
    """What an engine made (`{type, title, description, content, file_type, files, metadata, prompt}`), as a version.

    Never refuses it: what breaks a rule is cut or left out, and `metadata["left_out"]` says so. `facts` are
    the other arguments of `make`.
    """
    left_out = []
    content = plain(str(made.get("content") or ""))
    if len(content.encode()) > _files.MAX_BYTES:
        content = content.encode()[: _files.MAX_BYTES].decode(errors="ignore")
        left_out.append(_("The end of the text: it is too long."))
    texts, reasons = _files.fitting(made.get("files") or (), beside=len(content.encode()))
    left_out += reasons
    kind = str(made.get("type") or "")
    file_type = str(made.get("file_type") or "")
    if file_type not in FileType.values or (file_type == FileType.JSON and not _is_json(content)):
        file_type = ""
    metadata = {**(made.get("metadata") or {}), **({"left_out": left_out} if left_out else {})}
    return make(
        type=kind if kind in Deliverable.Type.values else Deliverable.Type.DOCUMENT,
        title=" ".join(plain(str(made.get("title") or "")).split())[:MAX_TITLE] or kind or _("Document"),
        description=plain(str(made.get("description") or ""))[:MAX_DESCRIPTION],
        content=content,
        files=[{"path": path, "content": text} for path, text in texts.items()],
        file_type=file_type,
        metadata=metadata,
        prompt=str(made.get("prompt") or ""),
        **facts,
    )


def add(*, project: Project, stage: Stage, by: User, **values: Any) -> Deliverable:
    """A deliverable that a person made by hand, with a lineage of its own; `values` as for `make`.

    For people, `projects.actions.add_deliverable` also looks at the project and tells watchers. Raises
    `InvalidValues`.
    """
    given = values.pop("metadata", None) or {}
    with transaction.atomic():
        metadata = {name: value for name, value in given.items() if name not in _FOUND_OUT}
        made = make(project=project, stage=stage, by=by, metadata=metadata, **values)
        access.log(made, by, DeliverableAccess.Kind.EDIT, version=made.version)
        audit.record("deliverable.created", by=by, target=made, after=_told(made))
    return made


def edit(
    deliverable: Deliverable,
    by: User,
    *,
    content: str | None = None,
    files: Files | None = None,
    title: str | None = None,
    description: str | None = None,
    tags: Iterable[str] | None = None,
    upload: Upload | None = None,
    if_match: str | None = None,
    status: str | None = None,
) -> Deliverable:
    """The next version of `deliverable`, with what is given; the rest is as it was. It waits for a review again.

    `if_match` is the `etag` (or the sha256) of the version that was edited. Raises `EditConflict`, 412 when
    that is not the latest and 409 when `deliverable` is not; `InvalidValues`. For people,
    `projects.actions.edit_deliverable` also looks at the project and tells watchers.
    """
    with transaction.atomic():
        _lock(deliverable.project_id)
        latest = _latest(deliverable.lineage)
        if if_match is not None and not matches(if_match, latest):
            raise EditConflict(latest, status=412)
        if latest.pk != deliverable.pk:
            raise EditConflict(latest)
        values = _cleaned(
            title=latest.title if title is None else title,
            description=latest.description if description is None else description,
            tags=latest.tags if tags is None else tags,
            content=latest.content if content is None else content,
            type=latest.deliverable_type,
            file_type="" if latest.upload and upload is None else latest.file_type,
        )
        texts = dict(latest.files.values_list("path", "content")) if files is None else _files.cleaned(files)
        keeps_upload = bool(latest.upload) and upload is None
        made = _store(
            project=deliverable.project,
            stage=deliverable.stage,
            values=values,
            texts=texts,
            upload=upload,
            kept_upload=(latest.upload.name or "") if keeps_upload else "",
            lineage=latest.lineage,
            is_major=False,
            created_by=by,
            created_by_role="",
            execution=None,
            llm_model="",
            prompt="",
            # What was checked was the text before.
            metadata={"upload": latest.metadata["upload"]} if keeps_upload and "upload" in latest.metadata else {},
            status=status or (Status.DRAFT if latest.status == Status.DRAFT else Status.REVIEW),
        )
        access.log(made, by, DeliverableAccess.Kind.EDIT, version=made.version, edited=latest.version)
        audit.record("deliverable.edited", by=by, target=made, before=_told(latest), after=_told(made))
    return made


def of(deliverable: Deliverable) -> Any:
    """All versions of its lineage, the newest first: a queryset."""
    return Deliverable.objects.filter(lineage=deliverable.lineage)


def etag(deliverable: Deliverable) -> str:
    """The value of `ETag`: another one for each version, also when the text came back to what it was."""
    return f'"{deliverable.version}-{deliverable.sha256}"'


def matches(if_match: str, deliverable: Deliverable) -> bool:
    """Whether an `If-Match` header (or a bare etag or sha256) names this version."""
    named = {item.strip().strip('"') for item in if_match.split(",")}
    return "*" in named or bool(named & {etag(deliverable).strip('"'), deliverable.sha256})


def digest(content: str, texts: Mapping[str, str], upload_sha256: str = "") -> str:
    """SHA-256 over all that a version holds, in one form: JSON with sorted keys and nothing between."""
    whole = {"content": content, "files": dict(texts), "upload": upload_sha256}
    text = json.dumps(whole, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def is_whole(deliverable: Deliverable) -> bool:
    """Whether a version still holds what its SHA-256 is over. One query, and a look at what was uploaded."""
    uploaded = ""
    if deliverable.upload:
        with deliverable.upload.open("rb") as stored:
            uploaded = hashlib.sha256(stored.read()).hexdigest()
    texts = dict(deliverable.files.values_list("path", "content"))
    return digest(deliverable.content, texts, uploaded) == deliverable.sha256


# --- Inside ------------------------------------------------------------------------------------------


def _store(
    *,
    project: Project,
    stage: Stage,
    values: dict[str, Any],
    texts: dict[str, str],
    upload: Upload | None,
    kept_upload: str,
    lineage: uuid.UUID | None,
    is_major: bool,
    metadata: dict[str, Any],
    **facts: Any,
) -> Deliverable:
    if texts and (upload is not None or kept_upload):
        detail = _("A deliverable is one uploaded file or a bundle of text files, not both.")
        raise InvalidValues([FieldError("files", "not_with_upload", detail)])
    if upload is not None:
        described = {"name": upload.name, "content_type": upload.content_type, "sha256": upload.sha256}
        metadata = {**metadata, "upload": {**described, "size": len(upload.content)}}
    of_upload = metadata.get("upload", {}) if upload or kept_upload else {}
    made = Deliverable(
        project=project,
        stage=stage,
        lineage=lineage or uuid.uuid4(),
        metadata=metadata,
        upload=kept_upload,
        file_size=_files.check_size(values["content"], texts) + of_upload.get("size", 0),
        sha256=digest(values["content"], texts, of_upload.get("sha256", "")),
        **values,
        **facts,
    )
    made.file_type = _file_type(made, texts, upload)
    made.search_text = search.terms(
        made.title, " ".join(made.tags), made.description, *texts, made.content, *texts.values()
    )
    with ExitStack() as undo, transaction.atomic():
        _lock(project.pk)
        if lineage is not None:
            before = _latest(lineage)
            made.parent_deliverable = before
            made.version = next_version(before.version, is_major)
            Deliverable.objects.filter(lineage=lineage, is_latest=True).update(is_latest=False)
        if upload is not None:
            name = default_storage.save(f"deliverables/{made.pk}{upload.extension}", ContentFile(upload.content))
            undo.callback(default_storage.delete, name)
            made.upload = name
        made.save(force_insert=True)
        DeliverableFile.objects.bulk_create(
            DeliverableFile(deliverable=made, path=path, content=text, size=len(text.encode()))
            for path, text in texts.items()
        )
        undo.pop_all()
    return made


def next_version(version: str, is_major: bool) -> str:
    """1.0 → 1.1, or 2.0 for a major one."""
    major, minor = map(int, version.split("."))
    return f"{major + 1}.0" if is_major else f"{major}.{minor + 1}"


def _lock(project: uuid.UUID) -> None:
    Project.objects.select_for_update(no_key=True).only("pk").get(pk=project)


def _latest(lineage: uuid.UUID) -> Deliverable:
    return Deliverable.objects.get(lineage=lineage, is_latest=True)


def _file_type(made: Deliverable, texts: Mapping[str, str], upload: Upload | None) -> str:
    if upload is not None:
        return upload.file_type
    if made.upload:
        return FileType.PDF if str(made.upload).endswith(".pdf") else FileType.IMAGE
    if texts:
        return FileType.CODE
    # Without a file it can be no PDF, and without files no code.
    return FileType.JSON if made.file_type == FileType.JSON else FileType.MARKDOWN


def _cleaned(*, title: str, description: str, tags: Any, content: str, type: str, file_type: str) -> dict[str, Any]:  # noqa: A002
    """The values of a version, as they are stored. Raises `InvalidValues` that names each fault."""
    errors = []
    title = re.sub(r"\s+", " ", plain(title)).strip()
    tags = [tag.strip() for tag in plain(list(tags)) if isinstance(tag, str)]
    tags = list(dict.fromkeys(filter(None, tags)))
    too_long = _("At most %(limit)d characters.")
    if not title:
        errors.append(FieldError("title", "required", _("This may not be empty.")))
    if len(title) > MAX_TITLE:
        errors.append(FieldError("title", "too_long", too_long % {"limit": MAX_TITLE}))
    if len(description) > MAX_DESCRIPTION:
        errors.append(FieldError("description", "too_long", too_long % {"limit": MAX_DESCRIPTION}))
    if len(tags) > MAX_TAGS or any(len(tag) > MAX_TAG for tag in tags):
        detail = _("At most %(n)d tags, of at most %(limit)d characters each.") % {"n": MAX_TAGS, "limit": MAX_TAG}
        errors.append(FieldError("tags", "too_long", detail))
    if type not in Deliverable.Type.values:
        errors.append(FieldError("deliverable_type", "unknown", _("There is no such type.")))
    if file_type and file_type not in FileType.values:
        errors.append(FieldError("file_type", "unknown", _("There is no such type.")))
    if file_type == FileType.JSON and not _is_json(content):
        errors.append(FieldError("content", "invalid_json", _("This is not JSON.")))
    if errors:
        raise InvalidValues(errors)
    return {
        "title": title,
        "description": plain(description),
        "tags": tags,
        "content": plain(content),
        "deliverable_type": type,
        "file_type": file_type or FileType.MARKDOWN,
    }


def _is_json(content: str) -> bool:
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True


def _told(deliverable: Deliverable) -> dict[str, Any]:
    """What the audit log is told of a version: never its text."""
    names = ("title", "deliverable_type", "version", "status", "sha256", "tags")
    return {name: getattr(deliverable, name) for name in names}
