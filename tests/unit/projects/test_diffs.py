"""What changed between two versions."""

import time

import pytest

from portal.lib.differences import Piece
from projects.deliverables import diffs
from tests.factories.projects import StageFactory, deliverable_of

pytestmark = pytest.mark.django_db


def bundle(**texts):
    return [{"path": path, "content": text} for path, text in texts.items()]


def test_text_and_files(django_assert_num_queries):
    stage = StageFactory()
    old = deliverable_of(stage, content="Green tea is good.", files=bundle(a="1\n2\n", gone="x", same="s"))
    new = deliverable_of(
        stage, content="Green tea is fine.", files=bundle(a="1\n3\n", new="y", same="s"), lineage_of=old
    )
    with django_assert_num_queries(2):
        found = diffs.between(old, new)
    assert not found["is_same"]
    assert found["pieces"][1:3] == [Piece("removed", "good"), Piece("added", "fine")]
    assert [(file.path, file.status) for file in found["files"]] == [
        *(("a", "changed"), ("gone", "removed"), ("new", "added"))
    ]
    assert found["files"][1].pieces == [Piece("removed", "x")]


def test_versions_that_say_the_same():
    stage = StageFactory()
    old = deliverable_of(stage, files=bundle(a="1"))
    new = deliverable_of(stage, title="Another title", files=bundle(a="1"), lineage_of=old)
    assert diffs.between(old, new) == {"is_same": True, "pieces": [], "files": []}


def test_an_empty_file_came():
    stage = StageFactory()
    old = deliverable_of(stage, files=bundle(a=""))
    new = deliverable_of(stage, files=bundle(a="", b=""), lineage_of=old)
    (file,) = diffs.between(old, new)["files"]
    assert (file.path, file.status, file.pieces) == ("b", "added", [])


def test_many_files_that_are_hard_to_compare_take_a_moment():
    stage = StageFactory()
    hard = {f"f{number}": "".join(f"word {n % 20} of {number}\n" for n in range(400)) for number in range(200)}
    old = deliverable_of(stage, files=bundle(**hard))
    changed = {path: text.replace("word", "term") for path, text in hard.items()}
    new = deliverable_of(stage, files=bundle(**changed), lineage_of=old)
    began = time.process_time()
    found = diffs.between(old, new)
    assert time.process_time() - began < 20
    assert len(found["files"]) == 200
    for file in found["files"]:
        assert "".join(piece.text for piece in file.pieces if piece.kind != "removed") == changed[file.path]
