"""Pages: what people may spend in a period."""

from decimal import Decimal

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from executions.models import Budget
from executions.status import Status
from tests.factories.accounts import UserFactory
from tests.factories.executions import execution_in

pytestmark = pytest.mark.django_db


@pytest.fixture
def mina(client):
    user = UserFactory(username="mina")
    client.force_login(user)
    return user


@pytest.fixture
def root(client):
    user = UserFactory(admin=True, username="root")
    client.force_login(user)
    return user


def test_one_is_added_changed_and_deleted(client, root):
    joon = UserFactory(username="joon")
    url = "/settings/budgets"
    assert "No budgets yet" in client.get(url).text
    client.post(f"{url}/new", {"user": joon.pk, "period": "month", "limit_usd": "5"})
    budget = Budget.objects.get()
    assert (budget.subject_id, budget.period, budget.limit_usd) == (joon.pk, "month", 5)
    Budget.objects.filter(pk=budget.pk).update(spent_usd=Decimal("4.5"))
    text = client.get(url).text
    assert "joon" in text
    assert "$4.50" in text
    assert "90 % spent" in text
    client.post(f"{url}/{budget.pk}", {"period": "month", "limit_usd": "9"})
    budget.refresh_from_db()
    assert (budget.limit_usd, budget.spent_usd) == (9, Decimal("4.5"))
    client.post(f"{url}/{budget.pk}/delete")
    assert not Budget.objects.exists()


def test_a_larger_one_lets_runs_go_on(client, root, mina):
    budget = Budget.objects.create(subject_id=mina.pk, limit_tokens=10)
    run = execution_in("running", access__owner=mina)
    run.wait_for_budget(sentence="Too little.", tokens=500)
    client.force_login(root)
    client.post(f"/settings/budgets/{budget.pk}", {"period": "total", "limit_tokens": "1000"})
    run.refresh_from_db()
    assert run.status == Status.PENDING


@pytest.mark.parametrize("given", [{}, {"limit_usd": "-1"}, {"limit_tokens": "x"}, {"limit_usd": "1", "period": "day"}])
def test_what_makes_no_sense_is_refused(client, root, given):
    Budget.objects.create(subject_id=root.pk, period="day", limit_usd=1)
    answer = client.post("/settings/budgets/new", {"user": root.pk, "period": "total", **given})
    assert answer.status_code == 422
    assert Budget.objects.count() == 1


def test_everybody_sees_their_own_on_the_profile(client, mina):
    assert "Your budget" not in client.get("/profile").text
    Budget.objects.create(subject_id=mina.pk, limit_tokens=1000, spent_tokens=250)
    Budget.objects.create(subject_id=UserFactory().pk, limit_tokens=777)
    text = client.get("/profile").text
    assert "25 % spent" in text
    assert "777" not in text


@pytest.mark.parametrize("path", ["", "/new"])
def test_only_admins(client, mina, path):
    assert client.get(f"/settings/budgets{path}").status_code == 403


def test_the_number_of_queries_does_not_grow(client, root):
    def queries():
        with CaptureQueriesContext(connection) as caught:
            client.get("/settings/budgets")
        return len(caught)

    def more():
        for _ in range(3):
            Budget.objects.create(subject_id=UserFactory().pk, limit_usd=1)

    more()
    queries()
    before = queries()
    more()
    assert queries() == before
