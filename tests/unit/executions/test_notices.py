"""Telling people of questions by mail, over a real SMTP server."""

import email
import email.policy
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import dj_email_url
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP
from django.utils import timezone, translation

from executions import approvals, events, notices
from executions.models import Approval, Execution
from executions.status import Status
from portal.accounts.models import AccessGrant
from tests.factories.accounts import AccessListFactory, UserFactory
from tests.factories.executions import ApprovalFactory, execution_in
from tests.services import free_port

pytestmark = pytest.mark.django_db


class Mailbox:
    """Takes every mail, except for addresses that begin with `refused`."""

    def __init__(self) -> None:
        self.mails: list[tuple[list[str], Any]] = []

    async def handle_RCPT(self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]) -> str:  # noqa: N802
        if address.startswith("refused"):
            return "550 nobody of that name"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:  # noqa: N802
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        self.mails.append((envelope.rcpt_tos, mail))
        return "250 OK"


def use_mail(settings: Any, url: str) -> None:
    settings.EMAIL_URL = url
    for name, value in (dj_email_url.parse(url) if url else {}).items():
        setattr(settings, name, value)
    settings.EMAIL_TIMEOUT = 10


@pytest.fixture
def mailbox(settings) -> Iterator[Mailbox]:
    box = Mailbox()
    server = Controller(box, hostname="127.0.0.1", port=free_port())
    server.start()
    use_mail(settings, f"smtp://127.0.0.1:{server.port}")
    yield box
    server.stop()


def question(**fields: Any) -> Approval:
    execution = execution_in(Status.RUNNING, access=AccessListFactory(), name="Newsletter")
    return ApprovalFactory(execution=execution, attempt=1, name="Write", role="Writer", **fields)


def logged(approval: Approval) -> list[dict[str, Any]]:
    return [event["data"] for event in events.read(approval.execution.stream_id) if event["type"] == "log"]


def test_the_owner_and_editors_are_told_each_with_a_link_of_their_own(mailbox):
    asked = question(output="The draft.", expires_at=timezone.now() + timedelta(days=2))
    access = asked.execution.access
    editor, reader, gone = UserFactory(), UserFactory(), UserFactory(is_active=False)
    for person, level in ((editor, "editor"), (reader, "viewer"), (gone, "editor")):
        AccessGrant.objects.create(access=access, user=person, level=level)
    UserFactory(admin=True)
    assert notices.asked(asked) == 2
    told = {to[0]: mail for to, mail in mailbox.mails}
    assert set(told) == {access.owner.email, editor.email}
    mail = told[editor.email]
    assert mail["Subject"] == "Write (Newsletter) asks you"
    text = mail.get_content()
    assert "The draft." in text
    assert "the run fails" in text
    [address] = [line for line in text.splitlines() if "/approvals/link/" in line]
    assert approvals.from_token(address.rsplit("/", 1)[1]) == (asked, editor)
    assert logged(asked) == []


def test_without_anybody_else_admins_are_told(mailbox):
    asked = question()
    asked.execution.owner.is_active = False
    asked.execution.owner.save()
    admin = UserFactory(admin=True)
    assert notices.asked(asked) == 1
    assert mailbox.mails[0][0] == [admin.email]


def test_a_mail_speaks_the_persons_language(mailbox, monkeypatch):
    asked = question()
    owner = asked.execution.owner
    owner.language = "ko"
    owner.save()
    gettext, spoken = notices._, set()

    def noting(text: str) -> str:
        spoken.add(translation.get_language())
        return gettext(text)

    monkeypatch.setattr(notices, "_", noting)
    notices.asked(asked)
    assert spoken == {"ko"}


def test_a_long_work_is_shortened_and_a_name_of_two_lines_is_one_subject(mailbox):
    asked = question(output="x" * 5000)
    asked.name = "Write\nBcc: everybody@example.com"
    assert notices.asked(asked) == 1
    mail = mailbox.mails[0][1]
    assert mail["Subject"] == "Write Bcc: everybody@example.com (Newsletter) asks you"
    assert mail["Bcc"] is None
    assert "x" * 1501 not in mail.get_content()


def test_an_address_that_is_refused_keeps_no_other_mail_back(mailbox):
    asked = question()
    owner = asked.execution.owner
    owner.email = "refused@example.com"
    owner.save()
    editor = UserFactory()
    AccessGrant.objects.create(access=asked.execution.access, user=editor, level="editor")
    assert notices.asked(asked) == 1
    assert mailbox.mails[0][0] == [editor.email]


def test_a_mail_server_that_is_away_harms_nothing(settings, caplog):
    use_mail(settings, f"smtp://127.0.0.1:{free_port()}")
    assert notices.asked(question()) == 0
    assert "mail cannot be sent" in caplog.text


def test_without_a_mail_server_nothing_is_sent(mailbox, settings):
    settings.EMAIL_URL = ""
    assert notices.asked(question()) == 0
    assert mailbox.mails == []


class TestReminders:
    def remind_after(self, seconds: int | None, **fields: Any) -> Approval:
        asked = question(**fields)
        asked.execution.snapshot = {"limits": {"approval_reminder_seconds": seconds}}
        asked.execution.save()
        return asked

    def test_a_reminder_is_sent_once_when_due_and_the_next_one_is_set(self, mailbox):
        asked = self.remind_after(3600, remind_at=timezone.now() - timedelta(seconds=5))
        assert [notices.remind_due(), notices.remind_due()] == [1, 0]
        assert mailbox.mails[0][1]["Subject"] == "Still waiting for your answer: Write (Newsletter)"
        asked.refresh_from_db()
        assert asked.remind_at is not None
        assert timedelta(minutes=59) < asked.remind_at - timezone.now() < timedelta(minutes=61)
        [entry] = logged(asked)
        assert (entry["kind"], entry["approval_id"], entry["mails"]) == ("reminder", str(asked.pk), 1)

    def test_a_reminder_stands_in_the_log_without_mail_too(self, settings):
        settings.EMAIL_URL = ""
        asked = self.remind_after(3600, remind_at=timezone.now() - timedelta(seconds=5))
        assert notices.remind_due() == 1
        assert [entry["kind"] for entry in logged(asked)] == ["reminder"]

    def test_a_run_that_ended_while_the_mail_was_sent_has_nothing_behind_its_end(self, monkeypatch):
        asked = self.remind_after(3600, remind_at=timezone.now() - timedelta(seconds=5))

        def slow(approval, **_):
            Execution.objects.get(pk=approval.execution_id).stop()
            return 1

        monkeypatch.setattr(notices, "_mail", slow)
        notices.remind_due()
        assert events.read(asked.execution.stream_id)[-1]["type"] == "execution.stopped"

    def test_nobody_is_reminded_early_or_of_what_is_answered(self, mailbox):
        self.remind_after(3600, remind_at=timezone.now() + timedelta(hours=1))
        self.remind_after(None)
        done = self.remind_after(3600, remind_at=timezone.now() - timedelta(seconds=5))
        approvals.answer(done, done.execution.owner, "approve")
        assert notices.remind_due() == 0
        assert mailbox.mails == []
