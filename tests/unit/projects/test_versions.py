"""Versions of deliverables: their numbers, what they hold, and edits that lose to others."""

from functools import partial

import pytest
from django.core.files.storage import default_storage
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import IntegrityError, transaction

from executions.engines.protocol import File
from portal.accounts.models import AuditEntry
from portal.lib.bodies import TooLarge
from portal.lib.problems import InvalidValues
from projects.deliverables import files, versions
from projects.deliverables.versions import EditConflict
from projects.models import Deliverable, DeliverableAccess
from tests.factories.projects import StageFactory, deliverable_of
from tests.integration.test_people_races import at_once

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 50


@pytest.fixture
def stage():
    return StageFactory()


@pytest.fixture
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path
    return tmp_path


def owner_of(stage):
    return stage.project.access.owner


def faults(caught):
    return {(error.field, error.code) for error in caught.value.errors}


@pytest.mark.django_db
class TestMaking:
    def test_the_first_version_starts_a_lineage(self, stage):
        made = deliverable_of(stage, content="녹차 Tea", files=[{"path": "src/a.py", "content": "print()"}])
        made.refresh_from_db()
        assert (made.version, made.is_latest, made.parent_deliverable) == ("1.0", True, None)
        assert made.file_type == "code"
        assert made.file_size == len("녹차 Tea".encode()) + 7
        assert versions.is_whole(made)
        assert list(made.files.values_list("path", "size")) == [("src/a.py", 7)]

    def test_the_next_version_is_a_minor_one_and_names_the_last(self, stage):
        first = deliverable_of(stage)
        second = deliverable_of(stage, lineage_of=first)
        # Whichever version is named, the lineage goes on after its latest.
        third = deliverable_of(stage, lineage_of=first)
        assert [second.version, third.version] == ["1.1", "1.2"]
        assert (second.parent_deliverable, third.parent_deliverable) == (first, second)
        assert list(versions.of(first).filter(is_latest=True)) == [third]

    def test_a_rerun_makes_a_major_version(self, stage):
        first = deliverable_of(stage)
        minor = deliverable_of(stage, lineage_of=first)
        assert deliverable_of(stage, lineage_of=minor, major=True).version == "2.0"
        assert deliverable_of(stage, lineage_of=minor).version == "2.1"

    @pytest.mark.parametrize(("count", "version"), [(9, "1.9"), (10, "1.10")])
    def test_versions_count_beyond_nine(self, count, version, stage):
        made = deliverable_of(stage)
        for _ in range(count):
            made = deliverable_of(stage, lineage_of=made)
        assert made.version == version

    def test_one_lineage_has_one_latest_version(self, stage):
        first = deliverable_of(stage)
        deliverable_of(stage, lineage_of=first)
        with pytest.raises(IntegrityError), transaction.atomic():
            Deliverable.objects.filter(pk=first.pk).update(is_latest=True)

    def test_what_no_database_can_hold_is_left_out(self, stage):
        made = deliverable_of(stage, title="A\0 title", content="x\0y\ud800", metadata={"a\0": ["\0b"]})
        made.refresh_from_db()
        assert (made.title, made.content, made.metadata) == ("A title", "xy?", {"a": ["b"]})

    def test_every_fault_is_named(self, stage):
        with pytest.raises(InvalidValues) as caught:
            deliverable_of(stage, type="novel", title=" ", tags=["x" * 51], description="d" * 10_001)
        assert faults(caught) == {
            *(("deliverable_type", "unknown"), ("title", "required"), ("tags", "too_long"), ("description", "too_long"))
        }

    def test_json_is_json(self, stage):
        assert deliverable_of(stage, content='{"a": 1}', file_type="json").file_type == "json"
        with pytest.raises(InvalidValues):
            deliverable_of(stage, content="[" * 100_000, file_type="json")

    def test_too_much_is_refused(self, stage):
        with pytest.raises(InvalidValues) as caught:
            deliverable_of(stage, content="x" * 4_000_000, files=[{"path": "a", "content": "x" * 1_000_001}])
        assert faults(caught) == {("files", "too_large")}
        assert not Deliverable.objects.exists()

    def test_the_digest_is_over_content_and_files(self, stage):
        plain = deliverable_of(stage, content="a")
        other = [
            deliverable_of(stage, content="b"),
            deliverable_of(stage, content="a", files=[{"path": "p", "content": ""}]),
            deliverable_of(stage, content="a", files=[{"path": "p", "content": "q"}]),
        ]
        assert len({plain.sha256, *(made.sha256 for made in other)}) == 4
        assert deliverable_of(stage, content="a", title="Another").sha256 == plain.sha256
        assert versions.digest("", {"a": "1", "b": "2"}) == versions.digest("", {"b": "2", "a": "1"})

    def test_a_change_behind_our_back_shows(self, stage):
        made = deliverable_of(stage, files=[{"path": "a.py", "content": "1"}])
        made.files.update(content="2")
        assert not versions.is_whole(made)


@pytest.mark.django_db
class TestTakingIn:
    """What an engine made is never refused."""

    def take(self, stage, **made):
        return versions.take_in(made, project=stage.project, stage=stage, role="Engineer", status="review")

    def test_what_fits_is_taken_as_it_is(self, stage):
        file: File = {"path": "main.py", "content": "print(1)"}
        made = self.take(stage, type="code", title="Program", content="# How", files=[file], metadata={"checks": {}})
        assert (made.deliverable_type, made.title, made.created_by_role) == ("code", "Program", "Engineer")
        assert made.metadata == {"checks": {}}

    def test_nothing_but_a_type_is_enough(self, stage):
        assert self.take(stage, type="plan").title == "plan"
        assert self.take(stage).deliverable_type == "document"
        assert self.take(stage, type=None, title=None, content=None, files=None, metadata=None).content == ""

    def test_what_breaks_a_rule_is_left_out_and_named(self, stage):
        bundle = [{"path": "../x", "content": "1"}, {"path": "ok.py", "content": "2"}, {"path": "big", "content": "3"}]
        bundle[2]["content"] = "x" * files.MAX_BYTES
        made = self.take(stage, type="code", title="T" * 300, content="c", files=bundle, file_type="exe")
        assert [file.path for file in made.files.all()] == ["ok.py"]
        assert len(made.title) == 200
        above, too_large = made.metadata["left_out"]
        assert "../x" in above
        assert "big" in too_large

    def test_an_endless_text_is_cut(self, stage):
        made = self.take(stage, type="report", content="한" * 2_000_000, file_type="json")
        assert made.file_size <= files.MAX_BYTES
        assert len(made.metadata["left_out"]) == 1
        assert made.file_type == "markdown"


@pytest.mark.django_db
class TestEditing:
    def test_an_edit_is_a_new_version_by_a_person(self, stage):
        by = owner_of(stage)
        first = deliverable_of(
            stage, content="One", tags=["a"], status="approved", metadata={"checks": {"ran": True}}, llm_model="m"
        )
        made = versions.edit(first, by, content="Two", if_match=versions.etag(first))
        first.refresh_from_db()
        assert (first.content, first.status, first.is_latest) == ("One", "approved", False)
        assert (made.content, made.version, made.status) == ("Two", "1.1", "review")
        assert (made.created_by, made.created_by_role, made.llm_model, made.tags) == (by, "", "", ["a"])
        assert made.metadata == {}  # what was checked was the text before
        assert DeliverableAccess.objects.get().access_details == {"version": "1.1", "edited": "1.0"}
        assert AuditEntry.objects.get(action="deliverable.edited").before["version"] == "1.0"

    def test_files_stay_unless_they_are_given(self, stage):
        first = deliverable_of(stage, files=[{"path": "a", "content": "1"}])
        second = versions.edit(first, owner_of(stage), title="Renamed")
        assert second.sha256 == first.sha256
        assert [file.content for file in second.files.all()] == ["1"]
        third = versions.edit(second, owner_of(stage), files=[])
        assert (third.files.count(), third.file_type) == (0, "markdown")

    def test_a_draft_stays_one(self, stage):
        assert versions.edit(deliverable_of(stage), owner_of(stage), content="b").status == "draft"

    @pytest.mark.parametrize("named", ["etag", "sha256", "weak list", "*"])
    def test_the_version_that_was_read_may_be_named_in_ways(self, named, stage):
        first = deliverable_of(stage)
        etag = versions.etag(first)
        value = {"etag": etag, "sha256": first.sha256, "weak list": f'"other", {etag}', "*": "*"}[named]
        assert versions.edit(first, owner_of(stage), content="b", if_match=value).version == "1.1"

    def test_who_read_an_earlier_version_is_told(self, stage):
        first = deliverable_of(stage)
        second = versions.edit(first, owner_of(stage), content="b")
        for version, etag, status in [
            (first, versions.etag(first), 412),
            (second, first.sha256, 412),
            (first, None, 409),
            (first, versions.etag(second), 409),
            (second, "", 412),
        ]:
            with pytest.raises(EditConflict) as caught:
                versions.edit(version, owner_of(stage), content="c", if_match=etag)
            assert (caught.value.status, caught.value.code) == (status, "edit_conflict")
            assert caught.value.latest == second
        assert versions.of(first).count() == 2

    def test_an_etag_is_of_one_version_also_when_the_text_came_back(self, stage):
        first = deliverable_of(stage, content="a")
        second = versions.edit(first, owner_of(stage), content="b")
        third = versions.edit(second, owner_of(stage), content="a")
        assert third.sha256 == first.sha256
        with pytest.raises(EditConflict):
            versions.edit(third, owner_of(stage), content="c", if_match=versions.etag(first))

    def test_what_is_made_by_hand_claims_no_checks(self, stage):
        told = {"checks": {"ran": True}, "auto_approved": True, "source": "mine"}
        made = versions.add(
            project=stage.project, stage=stage, by=owner_of(stage), type="code", title="T", metadata=told
        )
        assert made.metadata == {"source": "mine"}
        assert made.created_by == owner_of(stage)
        assert DeliverableAccess.objects.get().access_type == "edit"


@pytest.mark.django_db(transaction=True)
def test_of_edits_at_once_one_wins():
    for _round in range(4):
        stage = StageFactory()
        first, by = deliverable_of(stage), owner_of(stage)
        edit = partial(versions.edit, first, by, if_match=versions.etag(first))
        outcomes = at_once(partial(edit, content="b"), partial(edit, content="c"), partial(edit, content="d"))
        lost = [outcome for outcome in outcomes if isinstance(outcome, EditConflict)]
        assert len(lost) == 2
        assert sorted(versions.of(first).values_list("version", flat=True)) == ["1.0", "1.1"]


@pytest.mark.django_db(transaction=True)
def test_versions_made_at_once_come_one_after_the_other():
    stage = StageFactory()
    first = deliverable_of(stage)
    make = partial(deliverable_of, stage, lineage_of=first)
    at_once(make, make, make)
    assert sorted(versions.of(first).values_list("version", flat=True)) == ["1.0", "1.1", "1.2", "1.3"]


@pytest.mark.django_db
@pytest.mark.usefixtures("media")
class TestUploads:
    @pytest.mark.parametrize(
        ("head", "file_type", "extension"),
        [
            (b"%PDF-1.7 ", "pdf", ".pdf"),
            (PNG, "image", ".png"),
            (b"\xff\xd8\xff\xe0", "image", ".jpg"),
            (b"RIFF1234WEBPVP8 ", "image", ".webp"),
        ],
    )
    def test_its_first_bytes_say_what_it_is(self, head, file_type, extension, stage):
        upload = files.uploaded(SimpleUploadedFile("../e\x00vil.html", head + b"rest", "text/html"))
        made = deliverable_of(stage, upload=upload)
        assert (made.file_type, made.upload.name) == (file_type, f"deliverables/{made.pk}{extension}")
        assert made.metadata["upload"]["name"] == "evil.html"
        assert made.file_size == len(made.content.encode()) + len(head) + 4
        assert versions.is_whole(made)

    @pytest.mark.parametrize("content", [b"", b"<svg onload=x>", b"GIF89a", b"<html>", b"RIFF1234AVI "])
    def test_anything_else_is_refused(self, content):
        with pytest.raises(InvalidValues):
            files.uploaded(SimpleUploadedFile("a.png", content, "image/png"))

    def test_one_that_is_too_large_is_refused(self, settings):
        settings.MAX_BODY_BYTES = 10
        with pytest.raises(TooLarge):
            files.uploaded(SimpleUploadedFile("a.png", PNG))

    def test_it_stays_through_edits_of_what_is_said_about_it(self, stage):
        upload = files.uploaded(SimpleUploadedFile("a.png", PNG))
        first = deliverable_of(stage, upload=upload, content="")
        second = versions.edit(first, owner_of(stage), content="A picture.")
        assert (second.upload.name, second.file_type) == (first.upload.name, "image")
        assert second.sha256 != first.sha256
        assert versions.is_whole(second)
        third = versions.edit(second, owner_of(stage), upload=files.uploaded(SimpleUploadedFile("b.pdf", b"%PDF-1")))
        assert third.file_type == "pdf"
        assert third.metadata["upload"]["name"] == "b.pdf"

    def test_it_does_not_stand_beside_a_bundle(self, stage):
        upload = files.uploaded(SimpleUploadedFile("a.png", PNG))
        with pytest.raises(InvalidValues):
            deliverable_of(stage, upload=upload, files=[{"path": "a", "content": ""}])

    def test_nothing_stays_of_a_version_that_could_not_be_stored(self, stage, monkeypatch):
        upload = files.uploaded(SimpleUploadedFile("a.png", PNG))
        monkeypatch.setattr(Deliverable, "save", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            deliverable_of(stage, upload=upload)
        assert default_storage.listdir("deliverables")[1] == []
