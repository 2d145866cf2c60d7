"""The pages of deliverables: reading, files, versions, editing, deciding, comments, who looked."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from portal.accounts.models import AccessGrant, Invitation
from projects import actions
from projects.deliverables import versions
from projects.models import Comment, Deliverable, DeliverableAccess, Stage
from projects.status import StageStatus
from tests.factories.accounts import UserFactory
from tests.factories.projects import deliverable_of, staged_project

pytestmark = pytest.mark.django_db

XSS = "<script>alert(1)</script>"
CODE = [
    {"path": "main.py", "content": f'print("{XSS}")\n'},
    {"path": "shop/cart.py", "content": "class Cart:\n    items = []\n"},
]


@pytest.fixture
def mina(client):
    user = UserFactory(username="mina")
    client.force_login(user)
    return user


@pytest.fixture
def stage(mina):
    return staged_project(access__owner=mina).stages.get(stage_name="requirement")


@pytest.fixture
def document(stage):
    return deliverable_of(
        stage,
        title="Requirements",
        content=f"# Goals\n\nSell tea.\n\n```mermaid\ngraph TD\n```\n\n{XSS}",
        prompt="Write.",
    )


@pytest.fixture
def bundle(stage):
    checks = {"syntax_ok": True, "ran": True, "exit_code": 1, "tests_run": 4, "tests_failed": 1, "problems": [XSS]}
    return deliverable_of(stage, type="code", title="Code", content="", files=CODE, metadata={"checks": checks})


def url(name, deliverable):
    return reverse(f"projects:deliverable-{name}", args=[deliverable.pk])


def stranger_to(deliverable, client, level=""):
    user = UserFactory()
    if level:
        AccessGrant.objects.create(access=deliverable.project.access, user=user, level=level)
    client.force_login(user)
    return user


class TestReading:
    def test_markdown_is_rendered_and_diagrams_stay_code(self, client, document):
        text = client.get(document.get_absolute_url()).text
        assert "<h1>Goals</h1>" in text
        assert "graph TD" in text
        assert XSS not in text
        assert document.sha256 in text

    def test_each_reading_stands_in_the_log(self, client, document, mina):
        client.get(document.get_absolute_url())
        assert DeliverableAccess.objects.get(access_type="read").accessed_by == mina
        assert "mina" in client.get(url("accesses", document)).text

    def test_it_is_shown_to_somebody_who_may_look_and_no_more(self, client, document, mina):
        reader = UserFactory(username="reader")
        assert url("share", document) in client.get(document.get_absolute_url()).text
        assert client.post(url("share", document), {"who": "nobody-here"}).status_code == 422
        client.post(url("share", document), {"who": "reader"})
        assert Invitation.objects.get(user=reader).level == "viewer"
        outside = client.post(url("share", document), {"who": "ann@example.com"})
        assert (outside.status_code, "invitation-link" in outside.text) == (201, True)
        AccessGrant.objects.create(access=document.project.access, user=reader, level="viewer")
        assert "can see it already" in client.post(url("share", document), {"who": "reader"}, follow=True).text
        assert document.accesses.filter(access_type="share", accessed_by=mina).count() == 3
        client.force_login(reader)
        assert url("share", document) not in client.get(document.get_absolute_url()).text
        assert client.post(url("share", document), {"who": "mina"}).status_code == 403

    def test_a_bundle_shows_its_files_in_colour(self, client, bundle):
        answer = client.get(f"{bundle.get_absolute_url()}?file=shop/cart.py")
        assert answer.context["shown"].path == "shop/cart.py"
        assert 'class="hl-' in answer.text
        assert XSS not in client.get(f"{bundle.get_absolute_url()}?file=main.py").text
        assert client.get(f"{bundle.get_absolute_url()}?file=none.py").status_code == 404

    def test_what_ran_is_said_plainly(self, client, bundle):
        text = client.get(bundle.get_absolute_url()).text
        assert "4 tests were run in a sandbox: 1 failed." in text
        Deliverable.objects.update(metadata={"checks": {"syntax_ok": True, "ran": False}})
        assert "It was not run" in client.get(bundle.get_absolute_url()).text

    def test_a_stranger_finds_nothing(self, client, document):
        stranger_to(document, client)
        for name in ("detail", "changes", "edit", "accesses", "download"):
            assert client.get(url(name, document)).status_code == 404

    def test_more_versions_and_comments_cost_no_more_queries(self, client, document, mina):
        def queries(thing):
            with CaptureQueriesContext(connection) as caught:
                assert client.get(thing.get_absolute_url()).status_code == 200
            return len(caught)

        newest = versions.edit(document, mina, content="2")
        Comment.objects.create(deliverable=newest, author=mina, text="One.")
        client.get(newest.get_absolute_url())
        few = queries(newest)
        for number in range(4):
            newest = versions.edit(newest, mina, content=f"3.{number}")
        for number in range(5):
            Comment.objects.create(deliverable=newest, author=mina, text=str(number))
        assert queries(newest) == few

    def test_it_is_downloaded_as_what_it_is(self, client, document, bundle):
        assert b"".join(client.get(url("download", document)).streaming_content).startswith(b"# Goals")
        assert "zip" in client.get(url("download", bundle))["Content-Type"]
        one = client.get(f"{url('download', bundle)}?file=shop/cart.py")
        assert one["Content-Disposition"].startswith("attachment")
        assert DeliverableAccess.objects.filter(access_type="download").count() == 3

    def test_search_looks_into_the_texts(self, client, document, bundle):
        address = reverse("projects:deliverable-list", args=[document.project_id])
        assert [row.title for row in client.get(f"{address}?q=sell").context["page"].rows] == ["Requirements"]
        assert [row.title for row in client.get(f"{address}?type=code").context["page"].rows] == ["Code"]
        assert client.get(f"{address}?q=nothing-like-it").context["page"].rows == []


class TestVersions:
    def test_opening_the_text_to_edit_it_is_reading_it(self, client, document, mina):
        client.get(url("edit", document))
        assert document.accesses.get().accessed_by == mina

    def test_editing_makes_a_version(self, client, document):
        form = client.get(url("edit", document)).context["form"]
        values = {**form.initial, "content": "# Other goals", "tags": "tea, shop"}
        client.post(url("edit", document), values)
        made = Deliverable.objects.get(lineage=document.lineage, is_latest=True)
        assert (made.version, made.content, made.tags) == ("1.1", "# Other goals", ["tea", "shop"])
        assert "An older version" in client.get(document.get_absolute_url()).text

    def test_files_of_a_bundle_are_edited_too(self, client, bundle):
        form = client.get(url("edit", bundle)).context["form"]
        values = {**form.initial, "file_0": "print(1)\r\n", "file_1": CODE[1]["content"]}
        client.post(url("edit", bundle), values)
        made = Deliverable.objects.get(lineage=bundle.lineage, is_latest=True)
        assert made.files.get(path="main.py").content == "print(1)\n"

    def test_who_was_overtaken_is_told_and_loses_nothing(self, client, document, mina):
        form = client.get(url("edit", document)).context["form"]
        versions.edit(document, UserFactory(), content="# Theirs")
        answer = client.post(url("edit", document), {**form.initial, "content": "# Mine"})
        assert answer.status_code == 422
        assert "Version 1.1 was made meanwhile" in answer.text
        assert "# Mine" in answer.text
        assert Deliverable.objects.filter(lineage=document.lineage).count() == 2

    def test_changes_are_shown_in_text_and_files(self, client, document, bundle, mina):
        newer = versions.edit(document, mina, content=document.content.replace("tea", "coffee"))
        text = client.get(url("changes", newer)).text
        assert "<del>tea</del>" in text
        assert "<ins>coffee</ins>" in text
        files = [CODE[1], {"path": "new.py", "content": "x = 1\n"}]
        other = versions.edit(bundle, mina, files=files)
        text = client.get(f"{url('changes', other)}?against={bundle.pk}").text
        assert "new.py" in text
        assert "main.py" in text
        assert client.get(f"{url('changes', other)}?against={document.pk}").status_code == 404
        assert client.get(f"{url('changes', other)}?against=x").status_code == 404

    def test_who_may_look_does_not_edit(self, client, document):
        stranger_to(document, client, "viewer")
        assert client.get(url("edit", document)).status_code == 403
        assert client.post(url("review", document), {"decision": "approve"}).status_code == 403


class TestDecidingAndComments:
    def test_it_is_decided_on_its_own_page(self, client, stage):
        Stage.objects.filter(pk=stage.pk).update(stage_status=StageStatus.REVIEW)
        waiting = deliverable_of(stage, status="review")
        values = {"decision": "approve", "seen": waiting.sha256, "comments": "Good."}
        assert client.post(url("review", waiting), values).status_code == 302
        waiting.refresh_from_db()
        assert waiting.status == Deliverable.Status.APPROVED
        assert "Good." in client.get(waiting.get_absolute_url()).text

    def test_sending_back_without_words_comes_back(self, client, stage):
        Stage.objects.filter(pk=stage.pk).update(stage_status=StageStatus.REVIEW)
        waiting = deliverable_of(stage, status="review")
        answer = client.post(url("review", waiting), {"decision": "reject", "seen": waiting.sha256})
        assert answer.status_code == 422
        assert "comments" in answer.context["form"].errors

    def test_who_comes_too_late_keeps_what_they_wrote(self, client, stage, mina):
        Stage.objects.filter(pk=stage.pk).update(stage_status=StageStatus.REVIEW)
        waiting = deliverable_of(stage, status="review")
        newer = actions.edit_deliverable(waiting, mina, content="# Meanwhile")
        values = {"decision": "edit", "seen": waiting.sha256, "content": "# Hours of work", "comments": "Mine."}
        answer = client.post(url("review", waiting), values)
        assert answer.status_code == 422
        assert "# Hours of work" in answer.text
        assert "Mine." in answer.text
        newer.refresh_from_db()
        assert newer.status == Deliverable.Status.REVIEW

    def test_people_say_something(self, client, document):
        stranger_to(document, client, "viewer")
        assert client.post(url("comment", document), {"text": XSS}).status_code == 302
        text = client.get(document.get_absolute_url()).text
        assert "&lt;script&gt;" in text
        assert XSS not in text
        assert client.post(url("comment", document), {"text": " "}).status_code == 422
