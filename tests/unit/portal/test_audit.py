"""The audit log: what is written, how it is sealed, and what a check of it finds."""

import json
import logging
import random
import uuid
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from portal.accounts import audit
from portal.accounts.audit import appender, heads, keeper, masks, refusals, sealing, verify
from portal.accounts.audit.refusals import MAX_KINDS
from portal.accounts.models import AuditEntry, AuditHead
from tests.factories.accounts import UserFactory
from tests.soak import audit as soak

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def folder(settings, tmp_path):
    """Where the head is kept."""
    settings.PORTAL_DATA_DIR = tmp_path
    return tmp_path / "audit"


def recorded(n=1, **facts):
    for _ in range(n):
        audit.record("crew.changed", by=None, **facts)
    return AuditEntry.objects.latest("id")


def kinds(*exported):
    return set(verify.verify(*exported).kinds)


class TestMasks:
    def test_secrets_are_only_set_or_not(self):
        told = masks.cleaned(
            {
                "api_key": "sk-1", "password": "", "accessToken": "x", "client_secret": None, "needs_key": True,
                "llm_config": {"max_tokens": 5, "headers": [{"Authorization": "Bearer x"}], "apiKey": "y"},
            }
        )  # fmt: skip
        assert told == {
            "api_key": "set",
            "password": "not set",
            "accessToken": "set",
            "client_secret": "not set",
            "needs_key": True,
            "llm_config": {"max_tokens": 5, "headers": [{"Authorization": "set"}], "apiKey": "set"},
        }

    def test_long_texts_are_cut_and_say_how_long_they_were(self):
        told = masks.cleaned(
            {"goal": "ü" * 1000, "list": list(range(500)), "deep": {"a": {"b": {"c": {"d": {"e": {}}}}}}}
        )
        assert told["goal"].endswith("… (1000 characters)")
        assert len(told["goal"]) < 330
        assert len(told["list"]) == 51
        assert json.loads(json.dumps(told)) == told

    def test_what_databases_cannot_hold_is_replaced(self):
        told = masks.cleaned(
            {"a": "x\x00y\ud800", "b": 0.1, "c": Decimal("1.50"), "d": float("nan"), "e": {1, 2}, 5: b"x"}
        )
        assert told["a"] == "x\ufffdy\ufffd"
        assert (told["b"], told["c"], told["d"]) == ("0.1", "1.50", "nan")
        entry = recorded(after=told)
        entry.refresh_from_db()
        assert sealing.mac_of(entry) == entry.mac

    @pytest.mark.parametrize("address", ["::ffff:192.0.2.1", "2001:DB8:0:0::1", "fe80::1%eth0", "nonsense", "", None])
    def test_an_address_comes_back_as_it_was_sealed(self, address):
        audit.set_origin(address=address, user_agent="x" * 999, credential="y" * 999)
        try:
            entry = recorded()
        finally:
            audit.set_origin(address=None, user_agent="", credential="")
        entry.refresh_from_db()
        assert sealing.mac_of(entry) == entry.mac

    def test_only_what_differs_is_told(self):
        assert masks.changes({"a": 1, "b": 2}, {"a": 1, "b": 3}) == ({"b": 2}, {"b": 3})


class TestSealing:
    def test_numbers_have_no_gaps_whatever_the_ids(self):
        recorded(3)
        with transaction.atomic():
            recorded()
            transaction.set_rollback(True)
        recorded(4)
        assert appender.seal(batch=2) == 7
        assert list(AuditEntry.objects.order_by("id").values_list("number", flat=True)) == [*range(1, 8)]
        assert verify.verify().is_whole

    def test_an_entry_that_was_committed_late_comes_later(self):
        first, second = recorded(), recorded()
        AuditEntry.objects.filter(pk=first.pk).update(alike="x", at=timezone.now())  # held back, as a sum is
        appender.seal()
        AuditEntry.objects.filter(pk=first.pk).update(alike=None)
        appender.seal()
        first.refresh_from_db(), second.refresh_from_db()
        assert (second.number, first.number) == (1, 2)

    def test_nothing_to_seal_takes_no_lock(self, django_assert_num_queries):
        recorded()
        appender.seal()
        with django_assert_num_queries(2):  # whether something waits, and where the head is
            appender.seal()

    def test_a_row_slipped_in_or_changed_before_it_is_sealed_is_found_afterwards(self, caplog):
        recorded(2)
        entry = AuditEntry.objects.earliest("id")
        AuditEntry.objects.filter(pk=entry.pk).update(actor_name="somebody else")
        with caplog.at_level(logging.ERROR):
            appender.seal()
        assert "changed before it was sealed" in caplog.text
        assert [fault.number for fault in verify.verify().faults] == [1]

    def test_another_key_is_told_from_a_forged_log(self, settings):
        recorded()
        appender.seal()
        settings.AUDIT_KEY = "another"
        report = verify.verify()
        assert "another AUDIT_KEY" in report.faults[0].detail

    @pytest.mark.postgres
    def test_the_database_refuses_changes_of_sealed_rows(self):
        if connection.vendor != "postgresql":
            pytest.skip("SQLite has no rule that whoever writes to its file could not take away")
        recorded(2)
        appender.seal()
        for change in (
            lambda rows: rows.update(actor_name="x"),
            lambda rows: rows.update(number=None, digest=""),
            lambda rows: rows.delete(),
        ):
            with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
                change(AuditEntry.objects.filter(number=1))


class TestTheHeadOutside:
    def test_a_log_whose_tail_was_cut_off_is_found_out_also_elsewhere(self, settings, tmp_path):
        recorded(5)
        appender.seal()
        exported = heads.Head.from_text(heads.stored().as_text())
        recorded(2)
        appender.seal()
        assert kinds(exported) == set()
        soak_table().run("DELETE FROM accounts_auditentry WHERE number > 3")
        soak_table().head_to(3)
        assert kinds() == {"cut_off"}
        settings.PORTAL_DATA_DIR = tmp_path / "another machine"
        assert kinds() == set()
        assert kinds(exported) == {"cut_off"}

    def test_what_was_kept_and_is_not_there_any_more_stays_to_be_seen(self, caplog):
        recorded(5)
        appender.seal()
        soak_table().run("DELETE FROM accounts_auditentry WHERE number > 3")
        soak_table().head_to(3)
        recorded(9)
        appender.seal()
        assert "does not hold entry 5" in caplog.text
        recorded(9)
        appender.seal()
        report = verify.verify()
        assert {fault.number for fault in report.faults} == {5}
        heads.accept("the backup of Monday")
        report = verify.verify()
        assert report.is_whole
        assert "the backup of Monday" in report.notes[0]

    def test_a_forged_head_is_no_head(self):
        recorded()
        appender.seal()
        text = heads.stored().as_text()
        with pytest.raises(heads.BadHead):
            heads.Head.from_text(text.replace('"number": 1', '"number": 2'))
        for nonsense in ("", "{}", "[]", "null", '{"signature": 1}'):
            with pytest.raises(heads.BadHead):
                heads.Head.from_text(nonsense)

    def test_a_head_that_lies_about_its_rows_is_put_right_and_noted(self):
        recorded(3)
        appender.seal()
        AuditHead.objects.update(number=1, digest="0" * 64)
        assert "head" in kinds()
        recorded()
        appender.seal()
        assert AuditHead.objects.get().number == 4
        assert kinds() == {"cut_off"}

    def test_it_is_noted_from_time_to_time(self, folder, monkeypatch):
        monkeypatch.setattr(heads, "NOTED_AFTER", 4)
        for _ in range(6):
            recorded(2)
            appender.seal()
        assert [head.number for head in heads.noted()] == [2, 6, 10]
        assert (folder / "head.json").stat().st_mode & 0o777 == 0o600


def soak_table():
    from tests.soak.tampering import Table

    return Table()


class TestTheCommand:
    def run(self, *args):
        out = StringIO()
        call_command("verify_audit", *args, stdout=out)
        return out.getvalue()

    def test_it_says_what_it_found(self, tmp_path):
        recorded(3)
        appender.seal()
        head = tmp_path / "head.json"
        assert "3 entries are sealed" in self.run("--export-head", str(head))
        assert json.loads(self.run("--json", "--head", str(head)))["ok"]
        soak_table().set(2, "actor_name", "nobody")
        with pytest.raises(CommandError) as refused:
            self.run()
        assert refused.value.returncode == 1
        report = verify.verify()
        assert (report.faults[0].kind, report.faults[0].number) == ("altered", 2)

    def test_a_file_that_is_no_head_is_refused(self, tmp_path):
        bad = tmp_path / "bad"
        bad.write_text("x")
        with pytest.raises(CommandError, match="not the head"):
            self.run("--head", str(bad))

    def test_a_backup_is_accepted_by_name(self):
        recorded(3)
        appender.seal()
        soak_table().run("DELETE FROM accounts_auditentry WHERE number > 2")
        soak_table().head_to(2)
        assert "Monday" in self.run("--accept", "Monday")
        assert AuditEntry.objects.filter(action="audit.head_accepted", number=3).exists()


class TestRefusals:
    def test_alike_ones_stand_in_one_row(self, django_assert_max_num_queries):
        user = UserFactory()
        for _ in range(5000):
            audit.refused("request.refused", by=user, address="192.0.2.9", after={"status": 403})
        audit.refused("request.refused", by=user, address="192.0.2.10", after={"status": 403})
        with django_assert_max_num_queries(12):
            assert refusals.flush() == 2
        assert refusals.flush() == 0
        assert sorted(AuditEntry.objects.values_list("count", flat=True)) == [1, 5000]

    def test_later_ones_of_the_minute_are_added(self, time_machine):
        time_machine.move_to("2026-03-01 10:00:05Z")
        for _ in range(3):
            audit.refused("request.refused", by=None, after={"status": 401})
            refusals.flush()
        entry = AuditEntry.objects.get()
        assert entry.count == 3
        assert sealing.mac_of(entry) == entry.mac
        assert appender.seal() == 0  # more may come
        time_machine.move_to("2026-03-01 10:01:30Z")
        audit.refused("request.refused", by=None, after={"status": 401})
        refusals.flush()
        assert appender.seal() == 1
        assert list(AuditEntry.objects.order_by("id").values_list("number", "count")) == [(1, 3), (None, 1)]
        assert verify.verify().is_whole

    def test_one_that_comes_after_its_row_was_sealed_gets_another(self, time_machine):
        time_machine.move_to("2026-03-01 10:00:05Z")
        audit.refused("request.refused", by=None, after={"status": 401})
        refusals.flush()
        audit.refused("request.refused", by=None, after={"status": 401})
        time_machine.move_to("2026-03-01 10:03:00Z")
        appender.seal()
        refusals.flush()
        assert list(AuditEntry.objects.order_by("id").values_list("number", "count")) == [(1, 1), (None, 1)]
        appender.seal()
        assert verify.verify().is_whole

    def test_what_differs_too_much_is_summed_up(self):
        for n in range(MAX_KINDS * 3):
            audit.refused("user.sign_in_refused", by=None, address=f"10.0.{n // 250}.{n % 250}")
        refusals.flush()
        assert AuditEntry.objects.count() <= MAX_KINDS + 1
        assert AuditEntry.objects.get(action="request.refused").count == MAX_KINDS * 2

    def test_what_could_not_be_written_is_written_later(self, monkeypatch):
        audit.refused("request.refused", by=None)

        def away(_entry):
            raise DatabaseError("away")

        with monkeypatch.context() as patch:
            patch.setattr(refusals, "_add", away)
            with pytest.raises(DatabaseError):
                refusals.flush()
        audit.refused("request.refused", by=None)
        refusals.flush()
        assert AuditEntry.objects.get().count == 2


def test_a_look_of_the_thread_fails_quietly_and_is_repeated(monkeypatch, caplog):
    monkeypatch.setattr(keeper, "close_old_connections", lambda: None)
    recorded()
    assert keeper.look()
    assert AuditEntry.objects.get().number == 1

    def away():
        raise DatabaseError("away")

    monkeypatch.setattr(appender, "seal", away)
    assert not keeper.look()
    assert "not sealed" in caplog.text


def test_no_tampering_goes_unseen(folder):
    """A sample; the whole: python -m tests.soak.audit --trials 1000"""
    logging.disable(logging.ERROR)
    try:
        found = soak.run(60, seed=random.SystemRandom().randrange(10**6))
    finally:
        logging.disable(logging.NOTSET)
    assert found["ok"], found


@pytest.mark.django_db(transaction=True)
def test_many_appenders_leave_no_gap_and_no_doubt(folder: Path):
    """Eight write and seal at once, each with its own connection."""

    def work(n):
        try:
            for step in range(25):
                with transaction.atomic():
                    audit.record("crew.changed", by=None, after={"by": n, "step": step, "x": str(uuid.uuid4())})
                audit.refused("request.refused", by=None, after={"status": 403})
                if step % 5 == n % 5:
                    refusals.flush()
                    appender.seal(batch=10)
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    appender.seal()
    refusals.flush()
    sealed = AuditEntry.objects.exclude(number=None).order_by("number")
    assert [*sealed.values_list("number", flat=True)] == [*range(1, 201)]
    assert sum(AuditEntry.objects.filter(action="request.refused").values_list("count", flat=True)) == 200
    report = verify.verify()
    assert report.is_whole, report
    assert heads.kept().number == 200
