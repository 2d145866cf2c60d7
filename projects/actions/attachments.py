"""Text files that belong to the requirement."""

from collections.abc import Iterable
from pathlib import PurePosixPath

from django.db import transaction
from django.utils.translation import gettext as _

from crews.inputs import InputFile
from portal.accounts import audit
from portal.accounts.models import User
from portal.lib.problems import FieldError, InvalidValues
from projects.actions.ground import hold
from projects.models import Attachment, Project

MAX_BYTES = 1 << 20  # of one file
MAX_FILES = 20
MAX_ALL_BYTES = 4 << 20  # of all: every stage is given them


def attach(project: Project, by: User, files: Iterable[InputFile]) -> list[Attachment]:
    """Add text files to the requirement; one of the same name takes the other's place. Returns those added.

    Raises `InvalidValues` for what is no UTF-8 text, is larger than `MAX_BYTES`, or is one too many, and `Conflict`
    for an archived project. Runs that have started do not see them.
    """
    with transaction.atomic():
        hold(project)
        return add(project, by, files)


def add(project: Project, by: User, files: Iterable[InputFile]) -> list[Attachment]:
    """As `attach`, to a project that is locked."""
    texts = _texts(files)
    sizes = {row.name: row.size for row in project.attachments.defer("content")}
    sizes |= {name: len(text.encode()) for name, text in texts.items()}
    if len(sizes) > MAX_FILES:
        raise _refused("too_many", _("At most %(limit)d files.") % {"limit": MAX_FILES})
    if sum(sizes.values()) > MAX_ALL_BYTES:
        detail = _("All files together have at most %(limit)d MB.") % {"limit": MAX_ALL_BYTES >> 20}
        raise _refused("too_large", detail)
    added = []
    for name, text in texts.items():
        values = {"content": text, "size": sizes[name]}
        added.append(Attachment.objects.update_or_create(project=project, name=name, defaults=values)[0])
    if added:
        audit.record("project.files_added", by=by, target=project, after={"files": [one.name for one in added]})
    return added


def detach(attachment: Attachment, by: User) -> None:
    """Take a file away from the requirement. Raises `Conflict` for an archived project."""
    with transaction.atomic():
        hold(attachment.project)
        attachment.delete()
        audit.record("project.file_removed", by=by, target=attachment.project, before={"file": attachment.name})


def _texts(files: Iterable[InputFile]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for file in files:
        name = PurePosixPath(file.name.replace("\\", "/")).name.strip()
        if not name or len(name) > 200 or not name.isprintable():
            raise _refused("bad_name", _("“%(name)s” is no name of a file.") % {"name": file.name[:50]})
        if len(file.content) > MAX_BYTES:
            detail = _("“%(name)s” is larger than %(limit)d MB.") % {"name": name, "limit": MAX_BYTES >> 20}
            raise _refused("too_large", detail)
        try:
            text = file.content.decode()
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            raise _refused("not_text", _("“%(name)s” is no text file in UTF-8.") % {"name": name})
        texts[name] = text
    return texts


def _refused(code: str, detail: str) -> InvalidValues:
    return InvalidValues([FieldError("files", code, detail)])
