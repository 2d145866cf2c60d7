"""The page of the audit log."""

import re

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from portal.accounts import audit
from portal.accounts.audit import appender, heads
from portal.accounts.models import AuditEntry
from tests.factories.accounts import UserFactory
from tests.factories.crews import CrewFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def root(client):
    user = UserFactory(username="root", admin=True)
    client.force_login(user)
    AuditEntry.objects.all().delete()
    return user


def actions(answer):
    return re.findall(r"<code>([\w.]+)</code>", answer.text)


def test_it_is_for_admins(client):
    entry = audit.record("crew.created", by=None)
    client.force_login(UserFactory())
    assert client.get("/settings/audit").status_code == client.get(f"/settings/audit/{entry.pk}").status_code == 403


def test_an_empty_log_says_so(client, root):
    assert "Nothing has been recorded yet" in client.get("/settings/audit").text


def test_it_is_narrowed_by_every_filter(client, root):
    mina = UserFactory(username="mina")
    crew = CrewFactory(name="Herb growers")
    with connection.cursor() as cursor:
        # What is sealed cannot be deleted on PostgreSQL, only all of it at once.
        cursor.execute(f"{'TRUNCATE' if connection.vendor == 'postgresql' else 'DELETE FROM'} accounts_auditentry")
    audit.set_origin(address="192.0.2.7")
    audit.record("crew.shared", by=mina, target=crew)
    audit.set_origin(address="198.51.100.9")
    audit.record("user.sign_in_refused", by=None, outcome="refused", name="mina")
    audit.record("key.created", by=root)
    for asked, found in {
        "": ["key.created", "user.sign_in_refused", "crew.shared"],
        "action=crew": ["crew.shared"],
        "outcome=refused": ["user.sign_in_refused"],
        f"actor_id={mina.pk}": ["crew.shared"],
        f"target_kind=crew&target_id={crew.pk}": ["crew.shared"],
        "address=192.0.2.7": ["crew.shared"],
        "search=herb": ["crew.shared"],
        "after=2999-01-01T00:00": [],
        "before=2999-01-01T00:00&outcome=done": ["key.created", "crew.shared"],
    }.items():
        answer = client.get(f"/settings/audit?{asked}")
        assert actions(answer) == found, asked
        assert f"format=csv{'&amp;' if asked else ''}" in answer.text
    assert "Nothing matches" in client.get("/settings/audit?search=zzz").text
    assert "Only what mina did" in client.get(f"/settings/audit?actor_id={mina.pk}").text


def test_a_senseless_filter_is_said_and_finds_nothing(client, root):
    audit.record("crew.created", by=root)
    answer = client.get("/settings/audit?address=nonsense&actor_id=1")
    assert answer.status_code == 200
    assert actions(answer) == []
    assert 'role="alert"' in answer.text


def test_the_state_of_the_chain_is_said(client, root, settings, tmp_path):
    settings.PORTAL_DATA_DIR = tmp_path
    for _ in range(3):
        audit.record("crew.created", by=root)
    assert "3 entries wait for their seal" in client.get("/settings/audit").text
    appender.seal()
    heads.keep()
    text = client.get("/settings/audit").text
    assert "Sealed up to number 3" in text
    assert "verify_audit" in text
    (tmp_path / "audit" / "head.json").write_text("{}")
    assert "cannot be used" in client.get("/settings/audit").text


def test_an_entry_shows_what_changed(client, root):
    before = {"limit": "5.00", "period": "month"}
    entry = audit.record("budget.changed", by=root, before=before, after={**before, "limit": "9.50", "note": "x"})
    text = client.get(f"/settings/audit/{entry.pk}").text
    assert "<del>5.00</del>" in text
    assert "<ins>9.50</ins>" in text
    assert "<ins>x</ins>" in text
    assert "month" not in text
    assert client.get("/settings/audit/999999").status_code == 404


def test_what_stands_in_an_entry_is_text(client, root):
    entry = audit.record("crew.changed", by=root, name="<b>x</b>", after={"<i>": "<script>alert(1)</script>"})
    for page in ("/settings/audit", f"/settings/audit/{entry.pk}"):
        text = client.get(page).text
        assert "<b>x" not in text
        assert "<script>alert" not in text
        assert not re.search(r"<[^>]+\s(style|on\w+)=", text)


def test_it_pages_and_costs_the_same_however_long(client, root):
    def queries():
        with CaptureQueriesContext(connection) as caught:
            assert client.get("/settings/audit").status_code == 200
        return len(caught)

    audit.record("crew.created", by=root)
    before = queries()
    for _ in range(60):
        audit.record("crew.created", by=root)
    assert queries() == before
    first = client.get("/settings/audit?action=crew")
    further = re.search(r'rel="next" href="([^"]+)"', first.text)[1].replace("&amp;", "&")
    second = client.get(f"/settings/audit{further}")
    assert len(actions(first)) == 50
    assert len(actions(second)) == 11


def test_htmx_gets_the_rows_alone(client, root):
    audit.record("crew.created", by=root)
    answer = client.get("/settings/audit?action=crew", headers={"HX-Request": "true", "HX-Target": "audit-rows"})
    assert "<html" not in answer.text
    assert actions(answer) == ["crew.created"]


def test_the_export_of_the_page_is_the_export_of_its_filters(client, root):
    link = re.search(r'href="([^"]+format=jsonl[^"]*)"', client.get("/settings/audit?action=key").text)[1]
    assert "action=key" in link
    answer = client.get(link.replace("&amp;", "&"))
    assert answer.status_code == 200
    assert answer["Content-Disposition"].endswith('.jsonl"')
