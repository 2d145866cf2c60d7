"""Budgets and estimates for programs and in Django admin: who may, what is checked, what is shown."""

import uuid
from datetime import timedelta
from decimal import Decimal

import pytest
from django.urls import reverse
from django.utils import timezone
from rest_framework.test import APIClient

from executions import budgets, estimates
from executions.models import Budget, Execution
from executions.status import Status
from portal.accounts import keys
from portal.accounts.models import ApiKey, Role, Scope
from tests.factories.accounts import UserFactory
from tests.factories.crews import LLMModelFactory, runnable_crew
from tests.factories.executions import LEASE, ExecutionFactory

pytestmark = pytest.mark.django_db


def as_(user):
    client = APIClient()
    client.force_authenticate(user)
    return client


@pytest.fixture
def boss():
    return UserFactory(admin=True)


@pytest.fixture
def user():
    return UserFactory(username="maria")


def waiting(user, **fields):
    execution = ExecutionFactory(created_by=user, **fields)
    execution.start(worker="machine", lease=LEASE)
    execution.wait_for_budget(sentence="Too little is left.", usd=Decimal("0.5"), tokens=10)
    return execution


class TestApi:
    def test_an_admin_makes_reads_changes_and_deletes_budgets(self, boss, user):
        api = as_(boss)
        made = api.post("/api/budgets", {"user_id": str(user.pk), "limit_usd": "1.5", "period": "day"}, format="json")
        assert made.status_code == 201
        address = f"/api/budgets/{made.json()['id']}"
        Budget.objects.update(spent_usd=Decimal("0.25"), reserved_tokens=7)
        shown = api.get(address).json()
        assert (shown["user_id"], shown["period"], shown["limit_usd"]) == (str(user.pk), "day", "1.500000")
        assert (shown["spent_usd"], shown["reserved_tokens"], shown["limit_tokens"]) == ("0.25000000", 7, None)
        assert [row["id"] for row in api.get(f"/api/budgets?user_id={user.pk}").json()["results"]] == [shown["id"]]
        assert api.get(f"/api/budgets?user_id={boss.pk}").json()["results"] == []

        changed = api.patch(address, {"limit_tokens": 50, "user_id": str(boss.pk), "spent_usd": "0"}, format="json")
        assert changed.status_code == 200
        row = Budget.objects.get()
        assert (row.limit_usd, row.limit_tokens, row.subject_id, row.spent_usd) == (
            Decimal("1.5"), 50, user.pk, Decimal("0.25"),
        )  # fmt: skip
        assert api.put(address, {"user_id": str(user.pk), "limit_tokens": 9}, format="json").json()["limit_usd"] is None
        assert api.delete(address).status_code == 204
        assert api.get(address).status_code == 404

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"limit_usd": None}, "limit_usd"),
            ({"limit_usd": "-1"}, "limit_usd"),
            ({"limit_tokens": -5}, "limit_tokens"),
            ({"user_id": str(uuid.uuid4())}, "user_id"),
            ({"period": "month"}, "period"),
            ({"period": "century"}, "period"),
        ],
    )
    def test_what_makes_no_sense_is_refused_by_its_name(self, boss, user, changes, field):
        Budget.objects.create(subject_id=user.pk, limit_usd=1, period="month")
        body = {"user_id": str(user.pk), "limit_usd": "1", "period": "day", **changes}
        answer = as_(boss).post("/api/budgets", body, format="json")
        assert answer.status_code == 400
        assert field in [error["field"] for error in answer.json()["errors"]]
        assert Budget.objects.count() == 1

    def test_what_a_project_may_spend_stands_on_the_project(self, boss, user, client):
        run = ExecutionFactory(created_by=user)
        budgets.set_for_access(run.access_id, limit_usd=Decimal(1), by=user)
        budget = Budget.objects.get()
        api = as_(boss)
        assert api.get("/api/budgets").json()["results"] == []
        assert api.get(f"/api/budgets?user_id={run.access_id}").json()["results"] == []
        for ask in (api.get, api.delete):
            assert ask(f"/api/budgets/{budget.pk}").status_code == 404
        assert as_(user).get("/api/budgets/mine").json() == []
        client.force_login(boss)
        assert client.get(reverse("admin:executions_budget_changelist")).context["cl"].result_count == 0
        assert client.get(reverse("executions:budget-list")).context["page"].rows == []
        assert client.post(reverse("executions:budget-delete", args=[budget.pk])).status_code == 404
        assert Budget.objects.get() == budget

    @pytest.mark.parametrize("role", [Role.USER, Role.VIEWER])
    def test_others_see_only_their_own(self, user, role):
        me = UserFactory(role=role)
        other = Budget.objects.create(subject_id=user.pk, limit_usd=1)
        mine = Budget.objects.create(subject_id=me.pk, limit_tokens=100, spent_tokens=40, period="day")
        api = as_(me)
        assert api.get("/api/budgets").status_code == 403
        assert api.get(f"/api/budgets/{other.pk}").status_code == 403
        assert api.post("/api/budgets", {"user_id": str(me.pk), "limit_usd": 9}).status_code == 403
        (shown,) = api.get("/api/budgets/mine").json()
        assert (shown["id"], shown["spent_tokens"]) == (str(mine.pk), 40)
        Budget.objects.update(window_start=timezone.now() - timedelta(days=2))
        assert api.get("/api/budgets/mine").json()[0]["spent_tokens"] == 0

    @pytest.mark.parametrize("how", ["patch", "delete"])
    def test_runs_that_waited_for_it_go_on(self, boss, user, how):
        budget = Budget.objects.create(subject_id=user.pk, limit_usd=1, spent_usd=Decimal("0.9"))
        run = waiting(user)
        as_(boss).patch(f"/api/budgets/{budget.pk}", {"limit_usd": "1.2"}, format="json")
        assert Execution.objects.get().status == Status.WAITING
        getattr(as_(boss), how)(f"/api/budgets/{budget.pk}", {"limit_usd": "2"}, format="json")
        run.refresh_from_db()
        assert run.status == Status.PENDING

    def test_a_run_under_a_budget_of_money_needs_a_price(self, boss, user):
        crew = runnable_crew(owner=user)
        address = f"/api/crews/{crew.pk}/kickoff"
        answer = as_(user).post(address, {"inputs": {}, "budget_usd": "1"}, format="json")
        assert (answer.status_code, answer.json()["code"]) == (400, "model_unpriced")
        assert not Execution.objects.exists()
        assert as_(user).post(address, {"inputs": {}}, format="json").status_code == 202
        Budget.objects.create(subject_id=user.pk, limit_usd=1)
        assert as_(user).post(address, {"inputs": {}}, format="json").status_code == 400
        priced = LLMModelFactory(price_in=1, price_out=1)
        assert as_(user).post(address, {"inputs": {}, "model": priced.pk}, format="json").status_code == 202


class TestKeys:
    """Budgets of API keys."""

    @pytest.fixture
    def key(self, user):
        return keys.create(user, name="script", scopes=[Scope.RUN], by=None)[0]

    def test_they_are_made_read_and_deleted_as_those_of_people(self, boss, user, key):
        api = as_(boss)
        made = api.post(
            "/api/budgets", {"api_key_id": str(key.pk), "limit_usd": "2", "limit_tokens": 50}, format="json"
        )
        assert made.status_code == 201, made.content
        address = f"/api/budgets/{made.json()['id']}"
        Budget.objects.update(spent_usd=Decimal("0.25"), reserved_usd=Decimal("0.5"), spent_tokens=60)
        shown = api.get(address).json()
        assert (shown["user_id"], shown["api_key_id"]) == (None, str(key.pk))
        assert (shown["left_usd"], shown["left_tokens"]) == ("1.25000000", 0)
        Budget.objects.create(subject_id=user.pk, limit_usd=1)
        for query, count in ((f"api_key_id={key.pk}", 1), (f"user_id={user.pk}", 1), (f"user_id={key.pk}", 0), ("", 2)):
            assert len(api.get(f"/api/budgets?{query}").json()["results"]) == count
        assert {row["api_key_id"] for row in as_(user).get("/api/budgets/mine").json()} == {None, str(key.pk)}
        assert as_(UserFactory()).get("/api/budgets/mine").json() == []
        assert api.patch(address, {"limit_tokens": None, "api_key_id": str(boss.pk)}, format="json").status_code == 200
        assert Budget.objects.get(pk=made.json()["id"]).subject_id == key.pk
        assert api.delete(address).status_code == 204

    def test_of_whom_it_is_has_to_be_clear(self, boss, user, key):
        api = as_(boss)
        for named, field in (
            ({}, "user_id"),
            ({"user_id": str(user.pk), "api_key_id": str(key.pk)}, "user_id"),
            ({"api_key_id": str(user.pk)}, "api_key_id"),
            ({"user_id": str(key.pk)}, "user_id"),
        ):
            answer = api.post("/api/budgets", {**named, "limit_usd": "1"}, format="json")
            assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, field)
        keys.revoke(key, by=None)
        revoked = api.post("/api/budgets", {"api_key_id": str(key.pk), "limit_usd": "1"}, format="json")
        assert "revoked" in revoked.json()["errors"][0]["detail"]
        assert not Budget.objects.exists()

    @pytest.mark.parametrize("how", ["patch", "delete"])
    def test_runs_that_waited_for_it_go_on(self, boss, user, key, how):
        budget = Budget.objects.create(subject_kind="api_key", subject_id=key.pk, limit_usd=1, spent_usd=Decimal("0.9"))
        run = waiting(user, api_key=key)
        other = waiting(user)
        as_(boss).patch(f"/api/budgets/{budget.pk}", {"limit_usd": "1.2"}, format="json")
        assert set(Execution.objects.values_list("pk", "status")) == {
            (run.pk, Status.WAITING), (other.pk, Status.PENDING),
        }  # fmt: skip
        getattr(as_(boss), how)(f"/api/budgets/{budget.pk}", {"limit_usd": "2"}, format="json")
        run.refresh_from_db()
        assert run.status == Status.PENDING

    def test_a_run_that_it_starts_under_a_budget_of_money_needs_a_price(self, user, key):
        _, text = keys.create(user, name="other", scopes=[Scope.RUN], by=None)
        row = ApiKey.objects.get(name="other")
        Budget.objects.create(subject_kind="api_key", subject_id=row.pk, limit_usd=1)
        address = f"/api/crews/{runnable_crew(owner=user).pk}/kickoff"
        scripted = APIClient(HTTP_AUTHORIZATION=f"Api-Key {text}").post(address, {"inputs": {}}, format="json")
        assert (scripted.status_code, scripted.json()["code"]) == (400, "model_unpriced")
        assert as_(user).post(address, {"inputs": {}}, format="json").status_code == 202

    def test_an_admin_gives_one_in_django_admin(self, client, boss, user, key):
        client.force_login(boss)
        add = reverse("admin:executions_budget_add")
        neither = client.post(add, {"period": "month", "limit_usd": "3"})
        assert "Name a user or an API key" in neither.content.decode()
        assert client.post(add, {"api_key": str(key.pk), "period": "month", "limit_usd": "3"}).status_code == 302
        row = Budget.objects.get()
        assert (row.subject_kind, row.subject_id) == ("api_key", key.pk)
        for address in (
            reverse("admin:executions_budget_changelist"),
            reverse("admin:executions_budget_change", args=[row.pk]),
        ):
            assert f"maria: script (ap_{key.prefix}…)" in client.get(address).content.decode()


class TestAdmin:
    @pytest.fixture
    def site(self, client, boss):
        client.force_login(boss)
        return client

    def test_a_budget_is_given_to_a_person_who_is_found_by_name(self, site, user):
        page = site.get(reverse("admin:executions_budget_add")).content.decode()
        assert "admin-autocomplete" in page
        query = {"app_label": "executions", "model_name": "execution", "field_name": "created_by", "term": "mari"}
        found = site.get(reverse("admin:autocomplete"), query).json()["results"]
        assert [row["id"] for row in found] == [str(user.pk)]
        sent = {"subject_id": str(user.pk), "period": "month", "limit_usd": "3"}
        assert site.post(reverse("admin:executions_budget_add"), sent).status_code == 302
        row = Budget.objects.get()
        assert (row.subject_id, row.limit_usd, row.period) == (user.pk, 3, "month")
        again = site.post(reverse("admin:executions_budget_add"), sent)
        assert again.status_code == 200
        assert "already" in again.content.decode()
        assert "maria" in site.get(reverse("admin:executions_budget_changelist"), {"q": "mar"}).content.decode()

    def test_a_change_leaves_what_was_counted_and_lets_runs_go_on(self, site, user):
        row = Budget.objects.create(subject_id=user.pk, limit_usd=1, spent_usd=Decimal("0.9"))
        run = waiting(user)
        address = reverse("admin:executions_budget_change", args=[row.pk])
        assert "maria" in site.get(address).content.decode()
        assert site.post(address, {"period": "total", "limit_usd": "", "limit_tokens": ""}).status_code == 200
        assert site.post(address, {"period": "total", "limit_usd": "5", "spent_usd": "0"}).status_code == 302
        row.refresh_from_db()
        run.refresh_from_db()
        assert (row.limit_usd, row.spent_usd, run.status) == (5, Decimal("0.9"), Status.PENDING)


class TestEstimate:
    def completed(self, crew, *, cost="0.1", tokens=100, seconds=10, **fields):
        fields.setdefault("access__owner", crew.owner)
        run = ExecutionFactory(crew=crew, cost_usd=Decimal(cost), prompt_tokens=tokens, **fields)
        run.start(worker="machine", lease=LEASE)
        run.complete("Done.")
        began = timezone.now()
        run.attempts.update(started_at=began, ended_at=began + timedelta(seconds=seconds))
        # It also waited for people, for a day.
        Execution.objects.filter(pk=run.pk).update(started_at=began - timedelta(days=1))
        return run

    def test_nothing_is_known_from_fewer_than_three_runs(self, user):
        crew = runnable_crew(owner=user)
        for _ in range(2):
            self.completed(crew)
        origin = self.completed(runnable_crew(owner=user))
        self.completed(crew, forked_from=origin, forked_task="t")
        shown = as_(user).get(f"/api/crews/{crew.pk}/estimate").json()
        assert shown == {"runs": 2, "is_known": False, "cost_usd": None, "tokens": None, "seconds": None}

    def test_few_runs_give_their_middle_and_their_ends(self, user, django_assert_num_queries):
        crew = runnable_crew(owner=user)
        for n in (1, 2, 9):
            self.completed(crew, cost=f"0.0{n}", tokens=n * 100, seconds=n)
        with django_assert_num_queries(2):
            found = estimates.of(crew, user)
        assert (found.cost_usd.median, found.cost_usd.low, found.cost_usd.high) == tuple(
            map(Decimal, ("0.02", "0.01", "0.09"))
        )
        assert (found.tokens.median, found.tokens.low, found.tokens.high) == (200, 100, 900)
        assert (found.seconds.median, found.seconds.low, found.seconds.high) == (2, 1, 9)

    def test_many_runs_give_tenths_of_the_newest_and_unpriced_ones_no_cost(self, user):
        crew = runnable_crew(owner=user)
        old = timezone.now() - timedelta(days=9)
        for _ in range(5):
            self.completed(crew, tokens=10**6, created_at=old)
        for n in range(50):
            self.completed(crew, tokens=n, unpriced_calls=int(n > 1))
        found = estimates.of(crew, user)
        assert (found.runs, found.cost_usd) == (50, None)
        assert (found.tokens.low, found.tokens.median, found.tokens.high) == (5, 24, 44)

    def test_runs_of_others_on_a_shared_crew_tell_nothing(self, user, boss):
        crew = runnable_crew(owner=user)
        for _ in range(3):
            self.completed(crew, access__owner=UserFactory())
        assert not estimates.of(crew, user).is_known
        assert estimates.of(crew, boss).is_known

    def test_a_crew_of_others_is_not_there(self, user):
        crew = runnable_crew()
        assert as_(user).get(f"/api/crews/{crew.pk}/estimate").status_code == 404
