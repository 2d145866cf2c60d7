"""The API of deliverables: versions, reviews, diffs, downloads, sharing, comments and the access log."""

import io
import json
import zipfile

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from rest_framework.test import APIClient

from portal.accounts.models import AccessGrant
from projects.models import Deliverable, Stage
from projects.status import ProjectStatus, StageStatus
from tests.factories.accounts import UserFactory
from tests.factories.projects import deliverable_of, staged_project

pytestmark = pytest.mark.django_db
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20


def client_of(user):
    client = APIClient()
    client.force_authenticate(user)
    return client


@pytest.fixture
def user():
    return UserFactory()


@pytest.fixture
def api(user):
    return client_of(user)


@pytest.fixture
def project(user):
    return staged_project(access__owner=user, auto_advance=False, status=ProjectStatus.REVIEW)


@pytest.fixture
def stage(project):
    stage = project.stages.get(stage_name="requirement")
    Stage.objects.filter(pk=stage.pk).update(stage_status=StageStatus.REVIEW)
    return project.stages.get(pk=stage.pk)


@pytest.fixture
def document(stage):
    return deliverable_of(stage, type="requirement", title="Requirements", content="One.\n\nTwo.\n", status="review")


@pytest.fixture
def bundle(project):
    stage = project.stages.get(stage_name="development")
    files = [{"path": "main.py", "content": "print(1)\n"}, {"path": "lib/words.py", "content": "A = 1\n"}]
    return deliverable_of(stage, type="code", title="Program", content="Run main.py.", files=files)


@pytest.fixture
def member(project):
    user = UserFactory()
    AccessGrant.objects.create(access=project.access, user=user, level="viewer")
    return user


def send(client, method, path, body=None, **headers):
    return getattr(client, method)(f"/api/{path}", body, format="json", **headers)


def log_of(client, deliverable, query=""):
    rows = send(client, "get", f"deliverables/{deliverable.pk}/access-log{query}").json()["results"]
    return [(row["access_type"], row["accessed_by_role"], row["accessed_by"]) for row in rows]


class TestReading:
    def test_a_read_is_logged_with_its_label(self, api, user, document):
        path = f"deliverables/{document.pk}"
        answer = send(api, "get", f"{path}?accessed_by_role=Engineer")
        assert answer.status_code == 200
        body = answer.json()
        assert (body["content"], body["version"], body["status"]) == ("One.\n\nTwo.\n", "1.0", "review")
        assert (body["stage_name"], body["created_by_role"]) == ("requirement", "Product Manager")
        assert answer.headers["ETag"] == f'"1.0-{document.sha256}"'
        assert log_of(api, document) == [("read", "Engineer", user.username)]

    def test_a_label_grants_nothing(self, document):
        stranger = client_of(UserFactory())
        assert send(stranger, "get", f"deliverables/{document.pk}?accessed_by_role=Product Manager").status_code == 404
        assert not document.accesses.exists()

    def test_lists_filters_and_search(self, api, project, document, bundle):
        path = f"projects/{project.pk}/deliverables"

        def titles(query=""):
            return {row["title"] for row in send(api, "get", f"{path}{query}").json()["results"]}

        assert titles() == {"Requirements", "Program"}
        assert titles("?type=requirement") == titles("?type=requirement&is_latest=true") == {"Requirements"}
        assert titles("?type=requirement&type=code") == {"Requirements", "Program"}
        assert titles("?created_by_role=engineer") == {"Program"}
        assert titles("/search?q=words") == titles("/search?q=two main") | {"Program"}
        assert titles("/search?q=two&type=code") == set()
        assert send(api, "get", f"{path}?type=novel").status_code == 400
        of_stage = send(api, "get", f"projects/{project.pk}/stages/development/deliverables").json()["results"]
        assert [row["title"] for row in of_stage] == ["Program"]
        assert "content" not in of_stage[0]

    def test_what_a_role_may_build_on(self, api, project, document, bundle):
        path = f"projects/{project.pk}/accessible-deliverables"
        design = send(api, "get", f"{path}?role=architect").json()["results"]
        assert [row["title"] for row in design] == ["Requirements"]
        testing = send(api, "get", f"{path}?role=QA Engineer").json()["results"]
        assert {row["title"] for row in testing} == {"Requirements", "Program"}
        for query in ("?role=Cook", ""):
            answer = send(api, "get", f"{path}{query}")
            assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "role")


class TestVersions:
    def test_an_edit_makes_the_next_version(self, api, user, document):
        path = f"deliverables/{document.pk}"
        etag = send(api, "get", path).headers["ETag"]
        answer = send(api, "patch", path, {"content": "One.\n\nThree.\n", "tags": ["mvp"]}, HTTP_IF_MATCH=etag)
        assert answer.status_code == 200, answer.content
        edited = answer.json()
        assert (edited["version"], edited["parent_deliverable_id"]) == ("1.1", str(document.pk))
        assert (edited["created_by_id"], edited["tags"]) == (str(user.pk), ["mvp"])
        assert send(api, "get", path).json()["content"] == "One.\n\nTwo.\n"

        rows = send(api, "get", f"deliverables/{edited['id']}/versions").json()["results"]
        assert [(row["version"], row["is_latest"]) for row in rows] == [("1.1", True), ("1.0", False)]
        lost = send(api, "patch", f"deliverables/{edited['id']}", {"content": "Lost."}, HTTP_IF_MATCH=etag)
        assert (lost.status_code, lost.json()["code"]) == (412, "edit_conflict")
        old = send(api, "patch", path, {"content": "Old."})
        assert (old.status_code, old.json()["code"]) == (409, "edit_conflict")

        diff = send(api, "get", f"deliverables/{edited['id']}/diff").json()
        assert (diff["from_id"], diff["to_id"], diff["is_same"]) == (str(document.pk), edited["id"], False)
        changed = {piece["kind"]: piece["text"] for piece in diff["pieces"] if piece["kind"] != "same"}
        assert (changed["removed"].strip(), changed["added"].strip()) == ("Two", "Three")
        other = send(api, "get", f"{path}/diff?against={edited['id']}").json()
        assert (other["from_id"], other["to_id"]) == (edited["id"], str(document.pk))
        assert send(api, "get", f"{path}/diff").status_code == 404  # there is none before it
        assert send(api, "get", f"{path}/diff?against=x").status_code == 400

    def test_its_stage_is_named_once(self, api, project, stage):
        body = {"title": "By hand", "deliverable_type": "document", "content": "# Mine"}
        answer = send(api, "post", f"projects/{project.pk}/deliverables", {**body, "stage_id": str(stage.pk)})
        assert (answer.status_code, answer.json()["stage_id"]) == (201, str(stage.pk))
        assert send(api, "post", f"projects/{project.pk}/deliverables", body).status_code == 400

    def test_one_is_made_by_hand(self, api, project):
        body = {
            "stage": "design", "deliverable_type": "api_spec", "title": "Interface", "content": "{}",
            "file_type": "json", "tags": ["api"], "metadata": {"by": "hand"},
        }  # fmt: skip
        answer = send(api, "post", f"projects/{project.pk}/deliverables", body)
        assert answer.status_code == 201, answer.content
        made = answer.json()
        assert (made["status"], made["version"], made["file_type"]) == ("draft", "1.0", "json")
        assert answer.headers["Location"] == f"/api/deliverables/{made['id']}"
        wrong = send(api, "post", f"projects/{project.pk}/deliverables", {**body, "stage": "cooking"})
        assert wrong.status_code == 400
        files = [{"path": "../x.py", "content": ""}]
        bad = send(api, "post", f"projects/{project.pk}/deliverables", {**body, "files": files})
        assert [error["field"] for error in bad.json()["errors"]] == ["files.0.path"]

    def test_an_image_is_uploaded_and_comes_back(self, api, project):
        path = f"/api/projects/{project.pk}/deliverables"
        form = {"stage": "design", "deliverable_type": "ui_wireframe", "title": "Sketch"}
        answer = api.post(path, {**form, "file": SimpleUploadedFile("a.png", PNG)}, format="multipart")
        assert answer.status_code == 201, answer.content
        made = answer.json()
        assert (made["file_type"], made["file_size"]) == ("image", len(PNG))
        assert made["file_path"].startswith("deliverables/")
        got = api.get(f"/api/deliverables/{made['id']}/download", HTTP_ACCEPT="image/*")
        assert (got.headers["Content-Type"], b"".join(got.streaming_content)) == ("image/png", PNG)
        text = api.post(path, {**form, "file": SimpleUploadedFile("a.png", b"text")}, format="multipart")
        assert text.status_code == 400


class TestReviews:
    def test_approving_binds_to_what_was_seen(self, api, document):
        path = f"deliverables/{document.pk}/review"
        other = send(api, "put", path, {"status": "approved", "sha256": "0" * 64})
        assert other.status_code == 409
        body = {"status": "approved", "reviewed_by_role": "Lead", "review_comments": "Good.", "sha256": document.sha256}
        answer = send(api, "put", path, body)
        assert answer.status_code == 200, answer.content
        approved = answer.json()
        assert (approved["status"], approved["approved_by_role"], approved["review_comments"]) == (
            "approved",
            "Lead",
            "Good.",
        )
        assert approved["reviews"][0]["sha256"] == document.sha256
        assert send(api, "put", path, {"status": "approved"}).status_code == 409
        stage = send(api, "get", f"projects/{document.project_id}/stages/requirement").json()
        assert stage["stage_status"] == "completed"

    def test_approving_an_edited_text_makes_a_version(self, api, document):
        body = {"status": "approved", "content": "Better."}
        approved = send(api, "put", f"deliverables/{document.pk}/review", body).json()
        assert (approved["version"], approved["status"], approved["content"]) == ("1.1", "approved", "Better.")
        assert approved["parent_deliverable_id"] == str(document.pk)
        assert Deliverable.objects.get(pk=document.pk).status != "approved"

    def test_a_stage_is_decided_about_as_it_was_seen(self, api, project, document):
        path = f"projects/{project.pk}/stages/{document.stage.stage_name}/review"
        answer = send(api, "put", path, {"status": "approved", "sha256": ["0" * 64]})
        assert (answer.status_code, answer.json()["code"]) == (409, "content_changed")
        answer = send(api, "put", path, {"status": "approved", "sha256": [document.sha256]})
        assert answer.status_code == 200, answer.content

    def test_sending_back_needs_comments(self, api, document):
        answer = send(api, "put", f"deliverables/{document.pk}/review", {"status": "rejected"})
        assert answer.status_code == 400
        assert answer.json()["errors"][0]["field"] in {"review_comments", "comments"}

    @pytest.mark.parametrize("body", [{}, {"status": "fine"}, {"status": "approved", "content": ""}])
    def test_what_is_no_decision_is_refused(self, api, document, body):
        assert send(api, "put", f"deliverables/{document.pk}/review", body).status_code == 400

    def test_who_may_only_look_decides_nothing(self, member, document):
        path = f"deliverables/{document.pk}"
        assert send(client_of(member), "put", f"{path}/review", {"status": "approved"}).status_code == 403
        assert send(client_of(member), "patch", path, {"content": "x"}).status_code == 403
        assert send(client_of(member), "post", f"{path}/share", {"email": "a@b.example"}).status_code == 403


class TestTakingAway:
    def test_a_document_a_bundle_and_one_file_of_it(self, api, user, document, bundle):
        text = send(api, "get", f"deliverables/{document.pk}/download")
        assert b"".join(text.streaming_content).decode() == document.content
        assert "attachment" in text.headers["Content-Disposition"]
        whole = api.get(f"/api/deliverables/{bundle.pk}/download", HTTP_ACCEPT="application/zip")
        assert whole.headers["Content-Type"] == "application/zip"
        with zipfile.ZipFile(io.BytesIO(b"".join(whole.streaming_content))) as archive:
            assert any(name.endswith("/lib/words.py") for name in archive.namelist())
        path = f"deliverables/{bundle.pk}/download?path=lib/words.py&accessed_by_role=QA Engineer"
        one = send(api, "get", path)
        assert b"".join(one.streaming_content) == b"A = 1\n"
        assert send(api, "get", f"deliverables/{bundle.pk}/download?path=etc/passwd").status_code == 404
        assert log_of(api, bundle) == [("download", "QA Engineer", user.username), ("download", "", user.username)]

    def test_a_file_of_the_bundle_is_listed_with_its_size(self, api, bundle):
        files = send(api, "get", f"deliverables/{bundle.pk}").json()["files"]
        assert files == [{"path": "lib/words.py", "size": 6}, {"path": "main.py", "size": 9}]

    def test_the_export_is_a_zip_and_stands_in_the_log(self, api, project, document):
        answer = api.get(f"/api/projects/{project.pk}/export", HTTP_ACCEPT="application/zip")
        assert answer.headers["Content-Type"] == "application/zip"
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert any(name.endswith("README.md") for name in archive.namelist())
        assert [kind for kind, _role, _who in log_of(api, document)] == ["download"]


class TestSharingAndTalking:
    def test_sharing_invites_whom_may_not_see_it_yet(self, api, document, member):
        path = f"deliverables/{document.pk}/share"
        there = send(api, "post", path, {"user_id": str(member.pk)}).json()
        assert there["invitation"] is None
        assert there["link"].endswith(f"/deliverables/{document.pk}")
        other = UserFactory()
        invited = send(api, "post", path, {"user_id": str(other.pk)})
        assert invited.status_code == 200, invited.content
        assert invited.json()["invitation"]["level"] == "viewer"
        assert send(client_of(other), "get", f"deliverables/{document.pk}").status_code == 404
        assert [kind for kind, _role, _who in log_of(api, document)] == ["share", "share"]
        assert send(api, "post", path, {}).status_code == 400
        assert log_of(api, document, "?access_type=read") == []

    def test_whoever_sees_it_may_say_something(self, member, document):
        path = f"deliverables/{document.pk}/comments"
        answer = send(client_of(member), "post", path, {"text": "Why two?"})
        assert answer.status_code == 201, answer.content
        rows = send(client_of(member), "get", path).json()["results"]
        assert [(row["text"], row["author"]) for row in rows] == [("Why two?", member.username)]
        assert send(client_of(member), "post", path, {"text": " "}).status_code == 400
        viewer = UserFactory(viewer=True)
        AccessGrant.objects.create(access=document.project.access, user=viewer, level="viewer")
        assert send(client_of(viewer), "post", path, {"text": "Me too."}).status_code == 403
        assert send(client_of(UserFactory()), "post", path, {"text": "And I."}).status_code == 404


def test_problem_documents_are_json_also_of_downloads(api):
    answer = api.get("/api/deliverables/5b4b0ae2-9f76-4a57-8f0e-000000000000/download", HTTP_ACCEPT="application/zip")
    assert answer.status_code == 404
    assert json.loads(answer.content)["code"] == "not_found"
