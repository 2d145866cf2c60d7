"""Budgets as the gateway keeps them: real HTTP, a fake provider, and many calls at once that never pass a limit."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings as portal
from django.db import connection

from crews.models.catalog import LLMFallback
from executions import budgets
from executions.gateway import ledger, tokens
from executions.gateway.catalog import FRESH_SECONDS, Caller, read_run
from executions.models import Budget, Execution, ExecutionEvent, LLMCall, RoleModel
from portal.lib.processes import spawn, terminate
from tests.deadlines import DEADLINE, wait_for
from tests.factories.accounts import AccessListFactory, UserFactory
from tests.factories.crews import LLMModelFactory
from tests.factories.executions import LEASE, ExecutionFactory
from tests.fakes.gateway import HELLO, GatewayServer, ask, client, error_of, running
from tests.fakes.llm import FakeLLM
from tests.services import free_port
from tests.stack import ROOT, Stack

pytestmark = pytest.mark.django_db(transaction=True)
# PostgreSQL is where it matters and where it belongs to the suite; elsewhere it takes too long for the quick one.
ON_POSTGRES = os.environ.get("DATABASE_URL", "").startswith("postgres")
slow_elsewhere = pytest.mark.usefixtures() if ON_POSTGRES else pytest.mark.slow
CENT_A_TOKEN = {"price_in": Decimal(0), "price_out": Decimal(10_000)}  # US$ 0.01 for each token written


@pytest.fixture
def fake() -> Iterator[FakeLLM]:
    with FakeLLM() as server:
        yield server


@pytest.fixture
def gateway() -> Iterator[GatewayServer]:
    with GatewayServer() as server:
        yield server


def limit(execution: Execution, **fields: Any) -> Budget:
    return Budget.objects.create(subject_id=execution.created_by_id, **fields)


def of_type(execution: Execution, kind: str) -> list[ExecutionEvent]:
    return list(ExecutionEvent.objects.filter(stream_id=execution.stream_id, type=kind).order_by("seq"))


def assert_nothing_is_held(*rows: Execution | Budget) -> None:
    for row in rows:
        row.refresh_from_db()
        assert (row.reserved_usd, row.reserved_tokens) == (0, 0)


# --- What goes out -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "defaults", "window", "sent"),
    [
        ({}, {}, 100_000, {"max_tokens": 4096}),
        ({"max_tokens": 70}, {}, 100_000, {"max_tokens": 70}),
        ({"max_tokens": 70_000}, {}, 2000, {"max_tokens": 2000 - 12}),
        ({}, {"max_tokens": 90}, 100_000, {"max_tokens": 90}),
        ({"max_completion_tokens": 80}, {}, 100_000, {"max_completion_tokens": 80}),
        ({"max_tokens": -1}, {}, 1000, {"max_tokens": 1000 - 12}),
    ],
)
def test_under_a_limit_every_answer_is_given_an_end_that_is_reserved(
    fake: FakeLLM, gateway: GatewayServer, asked: Any, defaults: Any, window: int, sent: dict[str, int]
) -> None:
    model = LLMModelFactory(route="openai/ok", api_base=fake.url, defaults=defaults, context_window=window)
    execution, token = running(model, budget_tokens=1_000_000)
    with client(gateway, token) as http:
        assert ask(http, stream=True, **asked).status_code == 200
    body = fake.ledger[0].body
    assert {name: body[name] for name in ("max_tokens", "max_completion_tokens") if name in body} == sent
    row = LLMCall.objects.get()
    assert row.reserved_tokens == 12 + max(sent.values())  # “hello there” is 4 tokens at most, and 8 for its frame
    assert row.prompt_tokens + row.completion_tokens < row.reserved_tokens
    assert_nothing_is_held(execution)


def test_without_a_limit_a_request_goes_out_as_it_came_and_nothing_is_reserved(
    fake: FakeLLM, gateway: GatewayServer
) -> None:
    execution, token = running(LLMModelFactory(route="openai/ok", api_base=fake.url, **CENT_A_TOKEN))
    with client(gateway, token) as http:
        ask(http, stream=True)
    assert "max_tokens" not in fake.ledger[0].body
    assert LLMCall.objects.get().reserved_usd == 0
    assert_nothing_is_held(execution)


def test_a_call_costs_no_query_more_while_its_user_has_no_budget(django_assert_num_queries: Any) -> None:
    execution, _token = running(LLMModelFactory())
    caller = Caller(execution.pk, execution.attempt)
    with django_assert_num_queries(2):
        run = read_run(caller)
    row = LLMCall(execution=execution, model="m", provider="p", opened_at=execution.created_at, attempt=1)
    with django_assert_num_queries(6):  # begin, count, row, number, event, commit
        ledger.open_call(row, caller, run)


# --- Limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("whose", ["run", "user"])
def test_what_would_pass_a_limit_is_refused_and_the_log_says_what_it_needs(
    fake: FakeLLM, gateway: GatewayServer, whose: str
) -> None:
    model = LLMModelFactory(route="openai/ok", api_base=fake.url, **CENT_A_TOKEN)
    execution, token = running(model, **({"budget_usd": Decimal(1)} if whose == "run" else {}))
    if whose == "user":
        limit(execution, limit_usd=Decimal(1), period="month")
    with client(gateway, token) as http:
        response = ask(http, stream=False, max_tokens=101)
        assert ask(http, stream=False, max_tokens=100).status_code == 200
    assert response.status_code == 402
    assert error_of(response)["code"] == "budget_exceeded"
    (failed,) = of_type(execution, "llm.failed")
    assert failed.data["limit"] == "usd"
    assert Decimal(failed.data["needs_usd"]) == Decimal("1.01")
    assert failed.data["needs_tokens"] == 101 + 12
    assert "US$ 1.01" in failed.data["error_message"]
    assert whose in failed.data["error_message"]
    assert len(fake.ledger) == 1
    assert_nothing_is_held(execution)


def test_a_limit_of_tokens_counts_what_was_read_too(fake: FakeLLM, gateway: GatewayServer) -> None:
    execution, token = running(LLMModelFactory(route="openai/ok", api_base=fake.url), budget_tokens=50)
    with client(gateway, token) as http:
        assert ask(http, stream=False, max_tokens=38).status_code == 200
        assert ask(http, stream=False, max_tokens=38).status_code == 402
    assert of_type(execution, "llm.failed")[0].data["limit"] == "tokens"
    with client(gateway, token) as http:
        Execution.objects.update(budget_tokens=None, max_llm_calls=1)
        assert ask(http, stream=False).status_code == 402
    assert of_type(execution, "llm.failed")[1].data["limit"] == "calls"


def test_a_limit_that_comes_while_the_run_is_on_holds_for_the_very_next_call(
    fake: FakeLLM, gateway: GatewayServer
) -> None:
    execution, token = running(LLMModelFactory(route="openai/ok", api_base=fake.url, **CENT_A_TOKEN))
    with client(gateway, token) as http:
        assert ask(http, stream=False).status_code == 200
        Execution.objects.update(budget_usd=Decimal(2))
        assert ask(http, stream=False).status_code == 402
    assert len(of_type(execution, "llm.started")) == 1


def test_a_local_model_costs_nothing_whatever_its_price_and_runs_where_the_money_is_gone(
    fake: FakeLLM, gateway: GatewayServer
) -> None:
    model = LLMModelFactory(route="openai/ok", api_base=fake.url, is_local=True, **CENT_A_TOKEN)
    execution, token = running(model, budget_usd=Decimal(0))
    with client(gateway, token) as http:
        assert ask(http, stream=True).status_code == 200
    execution.refresh_from_db()
    assert LLMCall.objects.get().cost_usd == 0
    assert (execution.cost_usd, execution.unpriced_calls) == (0, 0)


def test_a_model_without_a_price_is_passed_over_under_a_budget_of_money(fake: FakeLLM, gateway: GatewayServer) -> None:
    unpriced = LLMModelFactory(route="openai/ok", api_base=fake.url)
    execution, token = running(unpriced, budget_usd=Decimal(100))
    with client(gateway, token) as http:
        response = ask(http, stream=True)
        assert (response.status_code, error_of(response)["code"]) == (402, "budget_exceeded")
        priced = LLMModelFactory(provider=unpriced.provider, route="openai/ok", **CENT_A_TOKEN)
        LLMFallback.objects.create(model=unpriced, fallback=priced)
        wait_for(lambda: ask(http, stream=True).status_code == 200, "the gateway knows of the fallback")
    assert of_type(execution, "llm.failed")[0].data["limit"] == "price"
    assert {row.model for row in LLMCall.objects.all()} == {priced.pk}


# --- Calls under way --------------------------------------------------------------------------------


def test_a_call_waits_while_others_hold_what_it_needs_and_says_so_once(fake: FakeLLM, gateway: GatewayServer) -> None:
    fake.modes["m"] = "long-40@40"
    model = LLMModelFactory(route="openai/m", api_base=fake.url, max_concurrency=1, **CENT_A_TOKEN)
    other = LLMModelFactory(provider=model.provider, route="openai/m", **CENT_A_TOKEN)
    first, token = running(model)
    second = ExecutionFactory(created_by=first.created_by)
    second.start(worker="machine", lease=LEASE)
    RoleModel.objects.create(execution=second, key="agent", role="Writer", llm_model=other)
    budget = limit(first, limit_usd=Decimal(1))
    with ThreadPoolExecutor(1) as pool, client(gateway, token) as http, client(gateway, tokens.issue(second)) as late:
        early = pool.submit(ask, http, stream=True, max_tokens=50)
        wait_for(lambda: fake.ledger, "the first call is under way")
        response = ask(late, stream=True, max_tokens=55)
        assert early.result().status_code == 200
    assert response.status_code == 200
    assert [event.data["kind"] for event in of_type(second, "log")] == ["budget_queue"]
    assert LLMCall.objects.get(execution=second).queue_ms > 0
    budget.refresh_from_db()
    assert (budget.spent_usd, budget.reserved_usd) == (Decimal("0.80"), 0)


def test_who_goes_while_waiting_for_room_leaves_nothing_behind(fake: FakeLLM, gateway: GatewayServer) -> None:
    fake.modes["m"] = "long-40@20"
    model = LLMModelFactory(route="openai/m", api_base=fake.url, max_concurrency=1, **CENT_A_TOKEN)
    execution, token = running(model, budget_usd=Decimal(1))
    with ThreadPoolExecutor(1) as pool, client(gateway, token) as http:
        early = pool.submit(ask, http, stream=True, max_tokens=60)
        wait_for(lambda: fake.ledger, "the first call is under way")
        with pytest.raises(httpx.ReadTimeout):
            http.post("/chat/completions", json={"model": model.pk, "messages": HELLO, "max_tokens": 60}, timeout=0.2)
        assert early.result().status_code == 200
        assert ask(http, stream=True, max_tokens=60).status_code == 200
    assert len(fake.ledger) == 2
    assert_nothing_is_held(execution)


def test_a_cancelled_stream_is_settled_by_what_was_counted(fake: FakeLLM, gateway: GatewayServer) -> None:
    fake.modes["m"] = "long-80@30"
    execution, token = running(LLMModelFactory(route="openai/m", api_base=fake.url, **CENT_A_TOKEN))
    budget = limit(execution, limit_usd=Decimal(1))
    body = {"model": "role:agent", "stream": True, "messages": HELLO, "max_tokens": 100}
    with client(gateway, token) as http, http.stream("POST", "/chat/completions", json=body) as response:
        lines = response.iter_lines()
        while '"content":"' not in next(lines).replace('"content":""', ""):
            pass
        budget.refresh_from_db()
        assert budget.reserved_usd == 1
    row = wait_for(lambda: LLMCall.objects.exclude(status="open").first(), "the call is closed")
    assert (row.status, row.is_estimated) == ("cancelled", True)
    assert 1 <= row.completion_tokens < 80
    assert_nothing_is_held(execution, budget)
    assert budget.spent_usd == execution.cost_usd == row.cost_usd == Decimal("0.01") * row.completion_tokens


def test_what_a_dead_gateway_held_is_given_back(fake: FakeLLM) -> None:
    model = LLMModelFactory(api_base=fake.url, **CENT_A_TOKEN)
    execution, _token = running(model)
    budget = limit(execution, limit_usd=Decimal(1))
    caller = Caller(execution.pk, execution.attempt)
    row = LLMCall(
        execution=execution, model=model.pk, provider="p", opened_at=execution.created_at, attempt=1,
        gateway="gone#1", prompt_tokens=3, reserved_usd=Decimal("0.9"), reserved_tokens=100, budgets=[str(budget.pk)],
    )  # fmt: skip
    ledger.open_call(row, caller, read_run(caller))
    ledger.save_text(row.pk, "x" * 40)
    budget.refresh_from_db()
    assert budget.reserved_usd == Decimal("0.9")
    assert ledger.close_orphans() == 1
    assert_nothing_is_held(execution, budget)
    assert (budget.spent_usd, budget.spent_tokens) == (Decimal("0.10"), 13)
    assert LLMCall.objects.get().is_estimated


# --- Fifty at once ----------------------------------------------------------------------------------


class Watch:
    """Looks at a budget all the time, on a connection of its own; `worst` is the most that was spent and reserved."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.worst_usd, self.worst_tokens, self.looks = Decimal(0), 0, 0

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(DEADLINE)

    def _look(self) -> None:
        try:
            while not self._end.wait(0.01):
                row = Budget.objects.get(pk=self._budget.pk)
                self.worst_usd = max(self.worst_usd, row.spent_usd + row.reserved_usd)
                self.worst_tokens = max(self.worst_tokens, row.spent_tokens + row.reserved_tokens)
                self.looks += 1
        finally:
            connection.close()


@contextlib.contextmanager
def gateways(folder: Path) -> Iterator[list[str]]:
    """The addresses (/v1) of two gateway processes beside each other; on SQLite of one, in this process."""
    if connection.vendor == "sqlite":
        with GatewayServer() as server:
            yield [server.url]
        return
    values = connection.settings_dict
    host = f"{values['HOST']}:{values['PORT']}" if values["PORT"] else values["HOST"]
    user = f"{values['USER']}:{values['PASSWORD']}" if values["PASSWORD"] else values["USER"]
    urls, processes = [], []
    try:
        for number in range(2):
            port, own = free_port(), folder / f"gateway-{number}"
            own.mkdir()
            environment = {
                **os.environ,
                "PORTAL_DATA_DIR": str(own),
                "PORTAL_GATEWAY_PORT": str(port),
                "SECRET_KEY": portal.SECRET_KEY,
                "DATABASE_URL": f"postgres://{user}@{host}/{values['NAME']}",
            }
            with (own / "out").open("wb") as out:
                command = [sys.executable, "manage.py", "gateway"]
                processes.append(spawn(command, env=environment, cwd=ROOT, stdout=out, stderr=out))
            urls.append(f"http://127.0.0.1:{port}/v1")
        for number, url in enumerate(urls):
            wait_for(
                lambda url=url: _answers(url), "the gateway answers",
                on_timeout=lambda number=number: (folder / f"gateway-{number}" / "out").read_text(),
            )  # fmt: skip
        yield urls
    finally:
        for process in processes:
            terminate(process, grace_seconds=DEADLINE / 10)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/models", timeout=10).status_code == 401
    except httpx.TransportError:
        return False


# --- One budget over the runs of a project --------------------------------------------------------


def test_two_runs_of_one_access_list_share_its_budget(fake: FakeLLM, gateway: GatewayServer) -> None:
    fake.modes["m"] = "long-40"  # US$ 0.40 an answer, and 0.50 reserved for it
    model = LLMModelFactory(route="openai/m", api_base=fake.url, **CENT_A_TOKEN)
    access = AccessListFactory()
    runs = [running(model, access=access) for _ in range(2)]
    stranger = running(model)
    budgets.set_for_access(access.pk, limit_usd=Decimal(1), by=access.owner)
    answers = []
    for _execution, token in (*runs, *runs, stranger):
        with client(gateway, token) as http:
            answers.append(ask(http, stream=True, max_tokens=50))
    assert [answer.status_code for answer in answers] == [200, 200, 402, 402, 200]
    assert "the project's budget of US$ 1 has 0.2 left" in error_of(answers[2])["message"]
    budget = Budget.objects.get()
    assert budget.spent_usd == Decimal("0.80")
    assert_nothing_is_held(budget, *(execution for execution, _token in (*runs, stranger)))
    budgets.set_for_access(access.pk, limit_usd=Decimal(2), by=access.owner)
    with client(gateway, runs[0][1]) as http:
        assert ask(http, stream=True, max_tokens=50).status_code == 200
    budget.refresh_from_db()
    assert budget.spent_usd == Decimal("1.20")


def test_a_budget_that_an_access_list_is_given_in_the_middle_of_a_run_holds_from_then_on(
    fake: FakeLLM, gateway: GatewayServer
) -> None:
    fake.modes["m"] = "long-40"
    execution, token = running(LLMModelFactory(route="openai/m", api_base=fake.url, **CENT_A_TOKEN))
    with client(gateway, token) as http:
        assert ask(http, stream=True).status_code == 200
        budgets.set_for_access(execution.access_id, limit_usd=Decimal("0.5"), by=None)
        assert Budget.objects.get().spent_usd == Decimal("0.40")
        time.sleep(FRESH_SECONDS)
        assert ask(http, stream=True, max_tokens=50).status_code == 402


@contextlib.contextmanager
def the_database_forbids_more(kind: str) -> Iterator[None]:
    """PostgreSQL itself refuses any moment in which more than the limit is spent and reserved."""
    if connection.vendor != "postgresql":
        yield
        return
    rule = f"CHECK (spent_{kind} + reserved_{kind} <= limit_{kind})"
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE executions_budget ADD CONSTRAINT never_passed {rule}")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE executions_budget DROP CONSTRAINT never_passed")


@slow_elsewhere
@pytest.mark.parametrize("kind", ["usd", "tokens"])
def test_fifty_runs_on_one_budget_never_pass_it_and_use_most_of_it(fake: FakeLLM, tmp_path: Path, kind: str) -> None:
    fake.modes["m"] = "long-40@3"  # 40 tokens; each run asks for at most 50 until it is refused
    price = {"price_in": Decimal(0), "price_out": Decimal(500)}  # US$ 0.02 an answer, 0.025 reserved
    model = LLMModelFactory(route="openai/m", api_base=fake.url, max_concurrency=100, **price)
    user = UserFactory()
    runs = [ExecutionFactory(created_by=user) for _ in range(50)]
    for run in runs:
        run.start(worker="machine", lease=LEASE)
        RoleModel.objects.create(execution=run, key="agent", role="Writer", llm_model=model)
    most = {"limit_usd": Decimal(1)} if kind == "usd" else {"limit_tokens": 2200}
    budget = Budget.objects.create(subject_id=user.pk, **most)

    def use_up(run: Execution, url: str) -> int:
        """Ask until the answer is no; how often it was yes."""
        headers = {"Authorization": f"Bearer {tokens.issue(run)}", "X-Portal-Role": "agent", "X-Portal-Task": "t"}
        with httpx.Client(base_url=url, headers=headers, timeout=DEADLINE) as http:
            for answered in range(1000):
                response = ask(http, stream=True, max_tokens=50)
                if response.status_code == 402:
                    return answered
                assert response.status_code == 200, response.text
        raise AssertionError("the budget never ends")

    began = time.monotonic()
    with (
        gateways(tmp_path) as urls,
        the_database_forbids_more(kind),
        Watch(budget) as watch,
        ThreadPoolExecutor(len(runs)) as pool,
    ):
        answered = sum(pool.map(use_up, runs, [urls[n % len(urls)] for n in range(len(runs))]))
    took = time.monotonic() - began
    assert_nothing_is_held(budget, *runs)
    calls = LLMCall.objects.all()
    cost = sum((call.cost_usd for call in calls), Decimal(0))
    used = sum(call.prompt_tokens + call.completion_tokens for call in calls)
    print(f"{answered} answers, US$ {cost}, {used} tokens in {took:.1f} s; {watch.looks} looks")
    assert answered == len(fake.ledger) == LLMCall.objects.filter(status="completed").count()
    assert watch.looks
    if kind == "usd":
        assert budget.spent_usd == cost <= 1
        assert watch.worst_usd <= 1
        assert cost + Decimal("0.025") > 1  # not even one more would have fitted
    else:
        assert budget.spent_tokens == used <= 2200
        assert watch.worst_tokens <= 2200
        assert used + 62 > 2200


# --- Real runs --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.redis
def test_runs_that_meet_a_limit_wait_and_go_on_from_there_once_it_is_raised(
    team_stack: Stack, fake_llm: FakeLLM
) -> None:
    crew = team_stack.make_crews({"paid": {"mode": "long-45@5", "tasks": 3, "llm": {"max_tokens": 50}, "price": 100}})[
        "paid"
    ]
    admin = team_stack.client("root")
    me = admin.get(f"/api/crews/{crew}").json()["owner_id"]
    made = admin.post("/api/budgets", json={"user_id": me, "limit_usd": "0.03"})
    assert made.status_code == 201, made.text
    budget = f"/api/budgets/{made.json()['id']}"
    fake_llm.reset()
    try:
        # Nine calls of US$ 0.0045, of which six fit.
        runs = [team_stack.kickoff(crew) for _ in range(3)]
        found = [team_stack.wait_for_status(run, "waiting", "completed") for run in runs]
        assert {run["waiting_for"] for run in found if run["status"] == "waiting"} == {"budget"}
        assert len(fake_llm.ledger) == 6
        shown = admin.get(budget).json()
        assert (Decimal(shown["spent_usd"]), Decimal(shown["reserved_usd"])) == (Decimal("0.027"), 0)
        assert team_stack.client("ann").get("/api/budgets/mine").json()[0]["spent_usd"] == shown["spent_usd"]

        assert admin.patch(budget, json={"limit_usd": "1"}).status_code == 200
        for run in runs:
            team_stack.wait_for_status(run, "completed")
        assert len(fake_llm.ledger) == 9
        assert Decimal(admin.get(budget).json()["spent_usd"]) == Decimal("0.0405")
        estimate = team_stack.client("ann").get(f"/api/crews/{crew}/estimate").json()
        assert (estimate["runs"], Decimal(estimate["cost_usd"]["median"])) == (3, Decimal("0.0135"))
    finally:
        admin.delete(budget)
