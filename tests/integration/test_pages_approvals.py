"""Pages: questions to people, and their answers, signed in or by a link."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from executions.approvals import make_link
from executions.models import Approval, Execution, TaskRun
from executions.status import Status
from portal.accounts.models import AccessGrant
from tests.factories.accounts import UserFactory
from tests.factories.executions import ApprovalFactory, TaskRunFactory, execution_in

pytestmark = pytest.mark.django_db
EVIL = "# Title\n\n<script>alert(1)</script> **bold** [x](javascript:alert(1))"


@pytest.fixture
def mina(client):
    user = UserFactory(username="mina")
    client.force_login(user)
    return user


@pytest.fixture
def question(mina):
    """An open question of a run of mina's, which waits for it."""
    return ask(mina)


def ask(owner, **fields):
    run = execution_in("running", access__owner=owner, name="Tea tasters")
    task = TaskRunFactory(execution=run, name="Write", role="Writer")
    made = ApprovalFactory(
        execution=run, task=task.task, name="Write", role="Writer", attempt=1, **{"output": "A draft.", **fields}
    )
    run.wait_for_people()
    return made


def url(question):
    return reverse("executions:approval-detail", args=[question.pk])


def link(question, user):
    return reverse("executions:approval-link", args=[make_link(question, user).rsplit("/", 1)[1]])


class TestTheList:
    def test_it_shows_what_the_person_may_answer(self, client, mina, question):
        theirs = ask(UserFactory())
        text = client.get("/approvals").text
        assert url(question) in text
        assert url(theirs) not in text

    def test_answered_ones_stand_apart(self, client, question):
        client.post(url(question), {"decision": "approve"})
        assert url(question) not in client.get("/approvals").text
        assert url(question) in client.get("/approvals?show=answered").text

    def test_nothing_to_do_is_said(self, client, mina):
        assert "Nothing waits for you" in client.get("/approvals").text
        assert "Nothing has been answered yet" in client.get("/approvals?show=answered").text

    def test_the_navigation_counts_them_with_one_query(self, client, mina, question):
        def counted():
            with CaptureQueriesContext(connection) as caught:
                text = client.get("/models").text
            return text, [q["sql"] for q in caught if "executions_approval" in q["sql"]]

        text, asked = counted()
        assert text.count("Waiting for you:") == 2  # beside the page and, on a phone, below it
        assert len(asked) == 1
        client.post(url(question), {"decision": "approve"})
        assert "Waiting for you:" not in counted()[0]

    def test_the_number_of_queries_does_not_grow(self, client, mina):
        def queries():
            with CaptureQueriesContext(connection) as caught:
                client.get("/approvals")
            return len(caught)

        ask(mina)
        queries()
        before = queries()
        for _ in range(4):
            ask(mina)
        assert queries() == before


class TestAnswering:
    def test_the_work_is_read_as_it_was_meant(self, client, mina):
        question = ask(mina, output=EVIL)
        for address in (url(question), reverse("executions:run-detail", args=[question.execution_id])):
            text = client.get(address).text
            assert "<strong>bold</strong>" in text
            assert "<script>alert" not in text
            assert 'href="javascript:' not in text

    def test_it_is_approved(self, client, question, mina):
        answer = client.post(url(question), {"decision": "approve"})
        assert answer["Location"] == url(question)
        assert "mina approved it" in client.get(url(question)).text
        question.refresh_from_db()
        assert (question.status, question.answered_by, question.answered_via) == ("approved", mina, "portal")
        task = TaskRun.objects.get(task=question.task)
        assert (task.status, task.output) == ("completed", "A draft.")
        assert Execution.objects.get(pk=question.execution_id).status == Status.PENDING

    def test_it_is_approved_with_edits(self, client, question):
        client.post(url(question), {"decision": "edit", "text": "Another draft.\r\nTwo lines."})
        assert TaskRun.objects.get(task=question.task).output == "Another draft.\nTwo lines."
        text = client.get(url(question)).text
        assert "approved it with edits" in text
        assert "<ins>" in text

    def test_it_is_sent_back(self, client, question):
        client.post(url(question), {"decision": "reject", "feedback": "Shorter, please."})
        question.refresh_from_db()
        assert (question.status, question.feedback) == ("rejected", "Shorter, please.")
        text = client.get(url(question)).text
        assert "mina sent it back" in text
        assert "Shorter, please." in text
        assert "Shorter, please." in client.get(reverse("executions:run-detail", args=[question.execution_id])).text

    @pytest.mark.parametrize(
        ("sent", "field"),
        [({}, "decision"), ({"decision": "edit", "text": " "}, "text"), ({"decision": "reject"}, "feedback")],
    )
    def test_what_is_missing_is_said_beside_its_field(self, client, question, sent, field):
        answer = client.post(url(question), sent)
        assert answer.status_code == 422
        assert field in answer.context["form"].errors
        question.refresh_from_db()
        assert question.status == "open"

    def test_from_the_runs_page_one_goes_back_there(self, client, question):
        run_page = reverse("executions:run-detail", args=[question.execution_id])
        assert "“Write” asks for your answer" in client.get(run_page).text
        answer = client.post(url(question), {"decision": "approve", "then": "run"})
        assert answer["Location"] == run_page

    def test_a_second_answer_is_told_that_it_came_late(self, client, question):
        root = UserFactory(admin=True, username="root")
        client.post(url(question), {"decision": "approve"})
        other = Client()
        other.force_login(root)
        answer = other.post(url(question), {"decision": "reject", "feedback": "No."}, follow=True)
        assert answer.status_code == 200
        assert "mina has answered already: Approved." in answer.text
        question.refresh_from_db()
        assert question.status == "approved"

    def test_a_double_click_is_one_answer(self, client, question):
        for _ in range(2):
            answer = client.post(url(question), {"decision": "approve"}, follow=True)
            assert "Your answer was taken." in answer.text
        assert TaskRun.objects.get(task=question.task).status == "completed"

    def test_the_time_to_answer_is_over(self, client, mina):
        question = ask(mina, expires_at=timezone.now() - timedelta(minutes=1))
        text = client.get(url(question)).text
        assert "The time to answer is over" in text
        assert "Your decision" not in text
        assert "time to answer is over" in client.post(url(question), {"decision": "approve"}, follow=True).text

    def test_a_run_that_was_stopped_asks_no_more(self, client, question):
        client.post(reverse("executions:run-stop", args=[question.execution_id]))
        assert "The question was withdrawn" in client.get(url(question)).text

    def test_earlier_rounds_show_what_was_asked_and_what_changed(self, client, mina):
        first = ask(mina, output="Green tea is good.")
        client.post(url(first), {"decision": "reject", "feedback": "Say how good."})
        second = ApprovalFactory(
            execution=first.execution, task=first.task, name="Write", round=2, output="Green tea is excellent."
        )
        text = client.get(url(second)).text
        assert "Say how good." in text
        assert "Green tea is <del>good</del><ins>excellent</ins>." in text
        assert "Round 2" not in client.get(url(first)).text

    def test_who_may(self, client, mina):
        question = ask(UserFactory(username="joon"))
        assert client.get(url(question)).status_code == 404
        assert client.post(url(question), {"decision": "approve"}).status_code == 404
        AccessGrant.objects.create(access=question.execution.access, user=mina, level="viewer")
        text = client.get(url(question)).text
        assert "joon or an admin can answer." in text
        assert "Your decision" not in text
        assert client.post(url(question), {"decision": "approve"}).status_code == 403
        AccessGrant.objects.update(level="editor")
        assert client.post(url(question), {"decision": "approve"}).status_code == 302


class TestTheSignedLink:
    @pytest.fixture
    def stranger(self):
        """A browser in which nobody is signed in."""
        return Client()

    def test_reading_decides_nothing(self, stranger, question, mina):
        answer = stranger.get(link(question, mina))
        assert "A draft." in answer.text
        assert "You answer as mina" in answer.text
        assert answer["Referrer-Policy"] == "no-referrer"
        assert answer["Cache-Control"].startswith("max-age=0, no-cache, no-store")
        assert Approval.objects.get().status == "open"

    def test_sending_decides_as_the_person_of_the_link(self, stranger, question, mina):
        address = link(question, mina)
        answer = stranger.post(address, {"decision": "reject", "feedback": "Again."}, follow=True)
        assert "mina sent it back" in answer.text
        question.refresh_from_db()
        assert (question.answered_by, question.answered_via) == (mina, "link")
        assert "_auth_user_id" not in stranger.session

    def test_it_takes_a_token_against_forged_requests(self, question, mina):
        strict = Client(enforce_csrf_checks=True)
        assert strict.post(link(question, mina), {"decision": "approve"}).status_code == 403

    def test_once_answered_it_says_only_that(self, stranger, client, question, mina):
        address = link(question, mina)
        client.post(url(question), {"decision": "approve"})
        answer = stranger.get(address)
        assert answer.status_code == 410
        assert "mina has answered already: Approved." in answer.text
        assert "A draft." not in answer.text
        for sent in ({"decision": "reject", "feedback": "No."}, {"decision": "approve"}, {"decision": "edit"}):
            late = stranger.post(address, sent, follow=True)
            assert "has answered already" in late.text
            assert "A draft." not in late.text
        question.refresh_from_db()
        assert question.status == "approved"

    def test_whoever_answered_sees_it_once(self, stranger, question, mina):
        address = link(question, mina)
        shown = stranger.post(address, {"decision": "approve"}, follow=True)
        assert "mina approved it" in shown.text
        assert "A draft." in shown.text
        assert stranger.get(address).status_code == 410
        assert Client().get(address).status_code == 410

    def test_a_question_whose_time_is_over_is_not_shown(self, stranger, question, mina):
        Approval.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
        answer = stranger.get(link(question, mina))
        assert (answer.status_code, "time to answer is over" in answer.text) == (410, True)
        assert "A draft." not in answer.text

    def test_what_is_missing_is_said(self, stranger, question, mina):
        answer = stranger.post(link(question, mina), {"decision": "reject"})
        assert answer.status_code == 422
        assert "Say what should be done differently." in answer.text

    @pytest.mark.parametrize("token", ["nonsense", "a:b:c"])
    def test_a_wrong_link_says_so_plainly(self, stranger, token):
        answer = stranger.get(f"/approvals/link/{token}")
        assert answer.status_code == 410
        assert "This link does not work" in answer.text

    def test_who_may_not_answer_any_more(self, stranger, question):
        grant = AccessGrant.objects.create(access=question.execution.access, user=UserFactory(), level="editor")
        address = link(question, grant.user)
        assert stranger.get(address).status_code == 200
        grant.delete()
        assert stranger.post(address, {"decision": "approve"}).status_code == 410
        assert Approval.objects.get().status == "open"

    def test_an_old_link_is_dead(self, stranger, question, mina, settings):
        address = link(question, mina)
        settings.APPROVAL_LINK_DAYS = -1
        answer = stranger.get(address)
        assert answer.status_code == 410
        assert "too old" in answer.text
