"""What a deliverable holds, to look through and to take away.

What models and people wrote is never answered as a page of ours: downloads are attachments, text is plain text.
"""

import io
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import IO, Any

from django.http import FileResponse, Http404
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import slugify
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename
from pygments.lexers.special import TextLexer
from pygments.util import ClassNotFound

from portal.accounts.models import User
from projects.deliverables import access
from projects.models import Deliverable, DeliverableAccess, DeliverableFile

PREFIX = "hl-"  # of the classes that static/css/components/code.css colours
MOST_COLOURED = 100_000  # characters; more stands there without colours, and so do files with endless lines
LONGEST_LINE = 4_000
TEXT = "text/plain; charset=utf-8"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same bundle gives the same bytes
_ENDS = {Deliverable.FileType.JSON.value: ".json"}


@dataclass(frozen=True)
class Node:
    """A file of a bundle, or a folder with what is in it."""

    name: str
    path: str
    size: int | None = None  # bytes; None: a folder
    children: list["Node"] = field(default_factory=list)

    @property
    def is_folder(self) -> bool:
        return self.size is None


def tree(deliverable: Deliverable) -> list[Node]:
    """The files in their folders, folders first. One query, without their texts."""
    return _level("", [(path.split("/"), size) for path, size in deliverable.files.values_list("path", "size")])


def _level(folder: str, entries: Iterable[tuple[list[str], int]]) -> list[Node]:
    folders: dict[str, list[tuple[list[str], int]]] = {}
    files = []
    for parts, size in entries:
        if len(parts) == 1:
            files.append(Node(parts[0], f"{folder}{parts[0]}", size))
        else:
            folders.setdefault(parts[0], []).append((parts[1:], size))
    inner = [
        Node(name, f"{folder}{name}", children=_level(f"{folder}{name}/", below)) for name, below in folders.items()
    ]
    return [*sorted(inner, key=lambda node: node.name), *sorted(files, key=lambda node: node.name)]


def highlighted(file: DeliverableFile) -> SafeString:
    """The text of a file as HTML: a `<span class="line">` a line, coloured by classes as its name says.

    All of the text is escaped.
    """
    lines = _coloured(file.path, file.content).removesuffix("\n").split("\n")
    body = "\n".join(f'<span class="line">{line}</span>' for line in lines)
    return mark_safe(f'<pre class="code"><code>{body}</code></pre>')  # noqa: S308 - pygments and we have escaped it


def _coloured(path: str, text: str) -> str:
    text = re.sub(r"\r\n?|[\v\f\x1c-\x1e\x85\u2028\u2029]", "\n", text)
    if len(text) > MOST_COLOURED or any(len(line) > LONGEST_LINE for line in text.split("\n")):
        return str(escape(text))
    options = {"stripnl": False, "ensurenl": False}
    try:
        lexer: Any = get_lexer_for_filename(path.rpartition("/")[2], **options)
    except ClassNotFound:
        lexer = TextLexer(**options)
    return str(highlight(text, lexer, HtmlFormatter(nowrap=True, classprefix=PREFIX)))


def zip_of(deliverable: Deliverable) -> IO[bytes]:
    """The files of a bundle as a zip, in one folder, beside what is said about them. One query.

    The same version gives the same bytes; it is at most a few megabytes (`files.MAX_BYTES`).
    """
    folder = _name(deliverable)
    texts = {f"{folder}/{path}": text for path, text in deliverable.files.values_list("path", "content")}
    if deliverable.content.strip():
        texts[f"{folder}.md"] = deliverable.content
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as zipped:
        for path, text in sorted(texts.items()):
            entry = zipfile.ZipInfo(path, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            zipped.writestr(entry, text)
    out.seek(0)
    return out


def download(deliverable: Deliverable, by: User | None, *, path: str = "", role: str = "") -> FileResponse:
    """What is taken away of a version: the document, the upload, the bundle as a zip, or the file at `path` of it.

    Stands in the access log. Raises `Http404` for a path that the bundle does not have.
    """
    stream, name, kind = _file_at(deliverable, path) if path else _whole(deliverable)
    access.log(deliverable, by, DeliverableAccess.Kind.DOWNLOAD, role, **({"path": path} if path else {}))
    response = FileResponse(stream, as_attachment=True, filename=name, content_type=kind)
    response["X-Content-Type-Options"] = "nosniff"
    response["Content-Security-Policy"] = "sandbox; default-src 'none'"
    return response


def _file_at(deliverable: Deliverable, path: str) -> tuple[IO[bytes], str, str]:
    text = deliverable.files.filter(path=path.replace("\0", "")).values_list("content", flat=True).first()
    if text is None:
        raise Http404
    return io.BytesIO(text.encode()), path.rpartition("/")[2], TEXT


def _whole(deliverable: Deliverable) -> tuple[IO[bytes], str, str]:
    if deliverable.upload:
        told = deliverable.metadata.get("upload", {})
        kind = str(told.get("content_type", "application/octet-stream"))
        return deliverable.upload.open("rb"), str(told.get("name", "")) or _name(deliverable), kind
    if deliverable.files.exists():
        return zip_of(deliverable), f"{_name(deliverable)}.zip", "application/zip"
    end = _ENDS.get(deliverable.file_type, ".md")
    return io.BytesIO(deliverable.content.encode()), f"{_name(deliverable)}{end}", TEXT


def _name(deliverable: Deliverable) -> str:
    """`shopping-cart-1.1`"""
    slug = slugify(deliverable.title, allow_unicode=True)[:80].strip("-_")
    return f"{slug or deliverable.deliverable_type}-{deliverable.version}"
