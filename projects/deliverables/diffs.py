"""What changed between two versions of a deliverable."""

from dataclasses import dataclass
from typing import Literal, TypedDict

from portal.lib.differences import Effort, Piece, differences
from projects.models import Deliverable


@dataclass(frozen=True)
class FileDifference:
    """A file that only one of two versions has, or that differs."""

    path: str
    status: Literal["added", "removed", "changed"]
    pieces: list[Piece]


class Difference(TypedDict):
    """The way from one version to another. `pieces`: of the text; empty when it is the same."""

    is_same: bool
    pieces: list[Piece]
    files: list[FileDifference]


def between(old: Deliverable, new: Deliverable) -> Difference:
    """What leads from `old` to `new`; files that are the same are not among it. Two queries.

    It takes a few seconds at most: what is beyond that is shown as a whole.
    """
    effort = Effort()
    pieces = [] if old.content == new.content else differences(old.content, new.content, effort)
    before, after = (dict(version.files.values_list("path", "content")) for version in (old, new))
    files = [
        _file(path, before.get(path), after.get(path), effort)
        for path in sorted({*before, *after})
        if before.get(path) != after.get(path)
    ]
    return {"is_same": not pieces and not files and old.sha256 == new.sha256, "pieces": pieces, "files": files}


def _file(path: str, old: str | None, new: str | None, effort: Effort) -> FileDifference:
    if old is None:
        return FileDifference(path, "added", differences("", new or "", effort))
    if new is None:
        return FileDifference(path, "removed", differences(old, "", effort))
    return FileDifference(path, "changed", differences(old, new, effort))
