"""The audit log by the API: who reads it, filters, exports; and what is refused on the way in."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta

import pytest
from asgiref.sync import async_to_sync
from django.test import AsyncClient, Client
from django.urls import reverse

from portal.accounts import audit, keys
from portal.accounts.audit import appender, export, heads, refusals
from portal.accounts.models import AuditEntry, Scope
from tests.factories.accounts import UserFactory
from tests.factories.crews import CrewFactory

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def folder(settings, tmp_path):
    settings.PORTAL_DATA_DIR = tmp_path


@pytest.fixture
def boss():
    return UserFactory(admin=True, username="boss")


@pytest.fixture
def site(client, boss):
    client.force_login(boss)
    return client


def told(client, **query):
    answer = client.get("/api/admin/audit", query)
    assert answer.status_code == 200, answer.content
    return answer.json()["results"]


class TestReading:
    def test_only_admins_with_the_scope_for_it(self, client, boss):
        def status(user=None, scopes=()):
            fresh = Client()
            headers = {}
            if scopes:
                headers["Authorization"] = f"Api-Key {keys.create(user, name='k', scopes=scopes, by=user)[1]}"
            elif user:
                fresh.force_login(user)
            return {
                fresh.get(f"/api/admin/audit{path}", headers=headers).status_code for path in ("", "/export", "/head")
            }

        recorded = audit.record("crew.changed", by=boss)
        appender.seal()
        assert status() == {401}
        assert status(UserFactory()) == status(UserFactory(viewer=True)) == {403}
        assert status(boss) == {200}
        assert status(boss, [Scope.ADMIN]) == {200}
        assert status(boss, [Scope.READ, Scope.WRITE, Scope.RUN]) == {403}
        assert client.post(f"/api/admin/audit/{recorded.pk}").status_code in {401, 405}

    def test_filters(self, site, boss):
        crew = CrewFactory()
        other = UserFactory(username="other")
        audit.set_origin(address="192.0.2.1", credential="session:x")
        audit.record("crew.shared", by=boss, target=crew)
        audit.set_origin(address="2001:db8::1", credential="api_key:ap_12345678")
        late = audit.record("crew.deleted", by=other, target=crew, outcome=audit.FAILED)
        audit.set_origin(address=None, credential="")
        appender.seal()
        late.refresh_from_db()

        def names(**query):
            return [entry["action"] for entry in told(site, **query) if entry["target_id"] == str(crew.pk)][:2]

        assert names(target_id=crew.pk, target_kind="crew") == ["crew.deleted", "crew.shared", "crew.created"][:2]
        assert names(action="crew.shared") == ["crew.shared"]
        assert names(action="crew", actor_id=other.pk) == ["crew.deleted"]
        assert names(outcome="failed") == ["crew.deleted"]
        assert names(address="192.0.2.1") == ["crew.shared"]
        assert names(address="2001:0db8::0001") == ["crew.deleted"]
        assert names(search="ap_1234") == ["crew.deleted"]
        assert names(search=str(late.number), action="crew.deleted") == ["crew.deleted"]
        soon = datetime.now(UTC) + timedelta(minutes=1)
        assert names(after=soon.isoformat()) == []
        assert names(before=soon.isoformat(), action="crew.shared") == ["crew.shared"]
        assert audit.search({"address": "nonsense"}).count() == 0
        assert site.get("/api/admin/audit", {"address": "nonsense"}).status_code == 400

    def test_pages_by_cursor(self, site, boss):
        for n in range(5):
            audit.record("crew.changed", by=boss, after={"n": n})
        page = site.get("/api/admin/audit", {"page_size": 2, "action": "crew.changed"}).json()
        following = site.get(page["next"]).json()
        assert [entry["after"]["n"] for entry in page["results"] + following["results"]] == [4, 3, 2, 1]


def exported(user, kind, **query):
    """The file, as the server streams it."""
    client = AsyncClient()

    async def ask():
        await client.aforce_login(user)
        answer = await client.get("/api/admin/audit/export", {"format": kind, **query})
        assert answer.status_code == 200
        return answer, b"".join([part async for part in answer.streaming_content])

    return async_to_sync(ask)()


class TestExport:
    @pytest.mark.django_db(transaction=True)
    def test_as_csv_no_cell_is_a_formula(self, boss):
        for name in ("=1+1", "+1", "-1", "@x", "\t=1", " =1", "fine", 'quo"te,\nline'):
            audit.record("crew.changed", by=boss, name=name, target_kind="crew")
        answer, body = exported(boss, "csv", action="crew.changed")
        assert answer.headers["Content-Disposition"].startswith("attachment")
        rows = list(csv.DictReader(io.StringIO(body.decode(), newline="")))
        assert [row["target_name"] for row in rows] == [
            *("'=1+1", "'+1", "'-1", "'@x", "'\t=1", "' =1", "fine", 'quo"te,\nline'),
        ]

    @pytest.mark.django_db(transaction=True)
    def test_as_lines_of_json_in_chunks_and_itself_recorded(self, boss, monkeypatch):
        monkeypatch.setattr(export, "CHUNK", 3)
        for n in range(10):
            audit.record("crew.changed", by=boss, after={"n": n})
        _answer, body = exported(boss, "jsonl", action="crew.changed")
        assert [json.loads(line)["after"]["n"] for line in body.splitlines()] == [*range(10)]
        entry = AuditEntry.objects.get(action="audit.exported")
        assert (entry.actor_id, entry.after) == (boss.pk, {"format": "jsonl", "filters": {"action": "crew.changed"}})

    def test_the_head_can_be_kept_elsewhere(self, site, boss):
        assert site.get("/api/admin/audit/head").status_code == 404
        audit.record("crew.changed", by=boss)
        appender.seal()
        answer = site.get("/api/admin/audit/head")
        assert heads.agrees(heads.Head.from_text(answer.content.decode()))
        assert AuditEntry.objects.filter(action="audit.head_exported", actor_id=boss.pk).exists()


class TestRefusals:
    """What was refused on the way in, as rows."""

    def rows(self):
        refusals.flush()
        found = AuditEntry.objects.filter(action="request.refused").order_by("id")
        return [(entry.after.get("status"), entry.actor_name, entry.target_kind, entry.count) for entry in found]

    def test_by_the_api(self, client):
        crew, stranger = CrewFactory(), UserFactory(username="stranger")
        for _ in range(3):
            client.get("/api/crews")
        client.get("/api/crews", headers={"Authorization": "Bearer ap_12345678_nonsense"})
        client.force_login(stranger)
        client.get(f"/api/crews/{crew.pk}")  # there is one, and they may not see it
        client.get("/api/crews/00000000-0000-0000-0000-000000000000")  # there is none
        client.post("/api/llm/providers", {})
        client.get("/api/crews", headers={"Authorization": "Bearer ap_12345678_nonsense"})
        rows = self.rows()
        assert sum(count for status, *_rest, count in rows if status == 401) == 5
        assert [row for row in rows if row[0] != 401] == [(404, "stranger", "crew", 1), (403, "stranger", "", 1)]
        # Where a credential was refused, the cookie beside it is not blamed.
        assert not AuditEntry.objects.filter(after__status=401).exclude(actor_name="").exists()

    def test_on_pages(self, client):
        client.force_login(UserFactory(username="stranger"))
        client.get(reverse("accounts:audit-list"))
        assert self.rows() == [(403, "stranger", "", 1)]

    def test_a_forged_form(self):
        client = Client(enforce_csrf_checks=True)
        client.force_login(UserFactory(username="victim"))
        assert client.post(reverse("accounts:sign-out")).status_code == 403
        assert self.rows() == [(403, "victim", "", 1)]

    def test_a_failed_sign_in_is_told_once_and_by_no_name_that_nobody_has(self, client):
        UserFactory(username="anna")
        for _ in range(3):
            client.post(reverse("accounts:sign-in"), {"username": "anna", "password": "wrong"})
        client.post(reverse("accounts:sign-in"), {"username": "hunter2", "password": "x"})
        refusals.flush()
        found = AuditEntry.objects.filter(action="user.sign_in_refused").order_by("id")
        assert [(entry.target_name, entry.count) for entry in found] == [("anna", 3), ("", 1)]
        assert not AuditEntry.objects.filter(action="request.refused").exists()
        assert "hunter2" not in str(list(AuditEntry.objects.values()))
