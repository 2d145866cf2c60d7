"""People and scripts at the gateway: with API keys and access tokens, and without a run."""

import asyncio
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from django.utils import timezone

from executions.gateway import callers, ledger, presence
from executions.gateway.slots import Slots
from executions.models import Budget, ExecutionEvent, GatewayInstance, JournalEntry, LLMCall
from portal.accounts import keys
from portal.accounts.credentials import Credential
from portal.accounts.models import Role, Scope, User
from portal.accounts.oidc import bearer
from portal.accounts.oidc.provider import provider
from tests.deadlines import DEADLINE, wait_for
from tests.factories.accounts import UserFactory
from tests.factories.crews import LLMModelFactory
from tests.fakes.gateway import HELLO, GatewayProcess, GatewayServer, ask, error_of, running, usage_of
from tests.fakes.idp import FakeIdp, Key
from tests.fakes.llm import FakeLLM

pytestmark = pytest.mark.django_db(transaction=True)


def key_of(user: User, *scopes: Scope, **options: Any) -> tuple[Any, str]:
    return keys.create(user, name="script", scopes=scopes or (Scope.RUN,), by=None, **options)


def http_of(gateway: GatewayServer | GatewayProcess, authorization: str) -> httpx.Client:
    headers = {"Authorization": authorization} if authorization else {}
    return httpx.Client(base_url=gateway.url, headers=headers, timeout=DEADLINE)


@pytest.fixture
def user() -> User:
    return UserFactory()


@pytest.fixture
def model(fake: FakeLLM) -> Any:
    return LLMModelFactory(id="ok", route="openai/ok", api_base=fake.url, price_in=1, price_out=2)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("scheme", ["Bearer", "Api-Key", "bearer"])
def test_a_key_calls_a_model_without_a_run(
    fake: FakeLLM, gateway: GatewayServer, user: User, model: Any, scheme: str, stream: bool
) -> None:
    row, text = key_of(user)
    headers = {"X-Portal-Task": "task-1", "X-Portal-Role": "agent", "X-Portal-Ordinal": "0"}
    with http_of(gateway, f"{scheme} {text}") as http:
        http.headers.update(headers)  # of engines: they say nothing here
        for _ in range(2):
            answer = ask(http, stream=stream, model="ok")
            assert answer.status_code == 200, answer.text
    assert (usage_of(answer)["prompt_tokens"], usage_of(answer)["completion_tokens"]) == (
        fake.ledger[-1].prompt_tokens,
        fake.ledger[-1].completion_tokens,
    )
    assert len(fake.ledger) == 2
    for call in LLMCall.objects.all():
        assert (call.execution_id, call.user, call.api_key, call.status) == (None, user, row, "completed")
        assert (call.task, call.role, call.model) == ("", "", "ok")
        assert call.cost_usd == (call.prompt_tokens * 1 + call.completion_tokens * 2) / Decimal(1_000_000)
    assert not JournalEntry.objects.exists()
    assert not ExecutionEvent.objects.exists()


@pytest.mark.slow
def test_the_official_client(fake: FakeLLM, tmp_path: Path, user: User, model: Any) -> None:
    _, text = key_of(user)
    LLMModelFactory(id="off", api_base=fake.url, enabled=False)
    with GatewayProcess(tmp_path / "gateway") as gateway, openai.OpenAI(api_key=text, base_url=gateway.url) as client:
        assert [listed.id for listed in client.models.list()] == ["ok"]
        whole = client.chat.completions.create(model="ok", messages=HELLO)
        assert whole.choices[0].message.content
        assert whole.usage is not None
        stream = client.chat.completions.create(
            model="ok", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert said == whole.choices[0].message.content
        assert chunks[-1].usage == whole.usage
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(model="nothing", messages=HELLO)
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as role:
            client.chat.completions.create(model="role:agent", messages=HELLO)
        assert (role.value.code, role.value.param) == ("role_without_run", "model")
        with pytest.raises(openai.AuthenticationError) as stranger:
            client.with_options(api_key="ap_00000000_x").models.list()
        assert (stranger.value.code, stranger.value.type) == ("authentication_failed", "authentication_error")
        with pytest.raises(openai.PermissionDeniedError) as reader:
            client.with_options(api_key=key_of(user, Scope.READ)[1]).chat.completions.create(model="ok", messages=HELLO)
        assert (reader.value.code, reader.value.type) == ("scope_missing", "permission_error")


def test_who_may_call_and_who_may_list(fake: FakeLLM, gateway: GatewayServer, user: User, model: Any) -> None:
    viewer, gone, admin = UserFactory(viewer=True), UserFactory(), UserFactory(admin=True)
    past, text_of_past = key_of(user)
    keys.revoke(past, by=None)
    _, of_gone = key_of(gone)
    User.objects.filter(pk=gone.pk).update(is_active=False)
    expired, text_of_expired = key_of(user)
    type(expired).objects.filter(pk=expired.pk).update(expires_at=timezone.now())
    _, run_token = running(model)
    cases = {
        "": (401, 401, 401),
        "Basic eDp5": (401, 401, 401),
        "Bearer": (401, 401, 401),
        "Bearer ap_0_unknown": (401, 401, 401),
        "Bearer eyJhbGciOiJub25lIn0.e30.": (401, 401, 401),
        "Bearer run_forged": (401, 401, 401),
        f"Bearer {text_of_past}": (401, 401, 401),
        f"Bearer {text_of_expired}": (401, 401, 401),
        f"Bearer {of_gone}": (401, 401, 401),
        f"Bearer {key_of(user, Scope.READ)[1]}": (403, 200, 403),
        f"Bearer {key_of(user, Scope.WRITE)[1]}": (403, 200, 403),
        f"Bearer {key_of(viewer, Scope.READ)[1]}": (403, 200, 403),
        f"Bearer {key_of(user, Scope.RUN)[1]}": (200, 200, 403),
        f"Bearer {key_of(admin, Scope.ADMIN)[1]}": (200, 200, 403),
        f"Api-Key {key_of(admin, Scope.RUN, Scope.READ)[1]}": (200, 200, 403),
        f"Bearer {run_token}": (200, 200, 404),
    }
    for shown, expected in cases.items():
        with http_of(gateway, shown) as http:
            answers = (
                ask(http, stream=False, model="ok"),
                http.get("/models"),
                http.post("/tools/calculator", json={"arguments": {}}),
            )
        assert tuple(answer.status_code for answer in answers) == expected, (shown, [a.text for a in answers])
        for answer in answers:
            if answer.status_code != 200:
                assert set(answer.json()["error"]) == {"message", "type", "code", "param"}
            if answer.status_code == 401:
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    with http_of(gateway, "") as http:
        assert (http.get("/nothing").json()["error"]["code"], http.get("/nothing").status_code) == (
            "no_such_route",
            404,
        )
        assert http.get("/chat/completions").status_code == 405


def test_an_access_token_of_the_identity_provider(
    fake: FakeLLM, gateway: GatewayServer, user: User, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(token: str) -> tuple[User, Credential]:
        assert token == "eyJ.some.token"
        return user, Credential("bearer", "jti", "bearer:idp")

    monkeypatch.setattr(bearer, "check", check)
    with http_of(gateway, "Bearer eyJ.some.token") as http:
        assert ask(http, stream=False, model="ok").status_code == 200
    call = LLMCall.objects.get()
    assert (call.user, call.api_key) == (user, None)


class _Waiting(list[Key]):
    """Keys of a provider that does not answer before the gate is open."""

    def __init__(self, keys: Iterable[Key], gate: threading.Event) -> None:
        super().__init__(keys)
        self._gate = gate

    def __iter__(self) -> Iterator[Key]:
        self._gate.wait(DEADLINE)
        return super().__iter__()


def test_an_identity_provider_that_hangs_keeps_nobody_else_waiting(
    fake: FakeLLM, gateway: GatewayServer, model: Any, idp: FakeIdp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody may name a key that is not known, and so have the provider asked."""
    monkeypatch.setattr("executions.gateway.keyset.PATIENCE", DEADLINE)
    monkeypatch.setattr("portal.accounts.oidc.provider.TIMEOUT", DEADLINE)
    monkeypatch.setattr("portal.accounts.oidc.provider.RETRY_SECONDS", 0)
    gate = threading.Event()
    olga = idp.person("olga", roles=["user"])
    good, strange = idp.access_token(olga), idp.sign(idp.access_claims(olga), kid="made-up")
    _, run_token = running(model)

    def status(token: str) -> int:
        with http_of(gateway, f"Bearer {token}") as http:
            return ask(http, stream=False, model="ok").status_code

    assert status(good) == 200
    idp.keys = _Waiting(idp.keys, gate)
    with ThreadPoolExecutor(4) as pool:
        strangers = [pool.submit(status, strange) for _ in range(4)]
        try:
            wait_for(lambda: idp.asked["certs"] == 2, "the provider is asked")
            assert [status(token) for token in (run_token, good, run_token)] == [200, 200, 200]
            monkeypatch.setattr(provider()._keys, "_seconds", 0)  # the known keys are old now
            assert status(good) == 200
            assert not any(stranger.done() for stranger in strangers)
        finally:
            gate.set()
        assert [stranger.result() for stranger in strangers] == [401] * 4


def test_a_token_that_nobody_can_check_is_no_bad_one(
    fake: FakeLLM, gateway: GatewayServer, model: Any, idp: FakeIdp, settings: Any
) -> None:
    settings.RATE_LIMIT_ADDRESS_PER_MINUTE = 2
    token = idp.access_token(idp.person("olga", roles=["user"]))
    idp.is_down = True
    with http_of(gateway, f"Bearer {token}") as http:
        refused = [ask(http, stream=False, model="ok") for _ in range(4)]
    for answer in refused:
        assert answer.status_code == 503
        assert (error_of(answer)["type"], error_of(answer)["code"]) == ("server_error", "provider_unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        assert "WWW-Authenticate" not in answer.headers


def test_a_body_is_not_waited_for_from_who_may_not_call(gateway: GatewayServer) -> None:
    host, port = gateway.root.removeprefix("http://").split(":")
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer ap_0_unknown\r\n"
        "Content-Type: application/json\r\nContent-Length: 30000000\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=DEADLINE) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 401")


class TestBudgets:
    def test_those_of_the_user_and_of_the_key_are_settled(
        self, fake: FakeLLM, gateway: GatewayServer, user: User, model: Any
    ) -> None:
        row, text = key_of(user)
        of_user = Budget.objects.create(subject_id=user.pk, limit_usd=1)
        of_key = Budget.objects.create(subject_kind="api_key", subject_id=row.pk, limit_tokens=10**9)
        other = Budget.objects.create(subject_kind="api_key", subject_id=key_of(user)[0].pk, limit_tokens=10**9)
        with http_of(gateway, f"Bearer {text}") as http:
            assert ask(http, stream=True, model="ok").status_code == 200
        call = LLMCall.objects.get()
        assert sorted(call.budgets) == sorted([str(of_user.pk), str(of_key.pk)])
        for budget in (of_user, of_key):
            budget.refresh_from_db()
            assert (budget.reserved_usd, budget.reserved_tokens) == (0, 0)
            assert budget.spent_usd == call.cost_usd
            assert budget.spent_tokens == call.prompt_tokens + call.completion_tokens
        other.refresh_from_db()
        assert other.spent_tokens == 0

    def test_a_call_that_would_pass_one_is_not_sent(
        self, fake: FakeLLM, gateway: GatewayServer, user: User, model: Any
    ) -> None:
        row, text = key_of(user)
        Budget.objects.create(subject_kind="api_key", subject_id=row.pk, limit_tokens=5)
        with http_of(gateway, f"Bearer {text}") as http:
            refused = ask(http, stream=False, model="ok")
        assert (refused.status_code, error_of(refused)["code"]) == (402, "budget_exceeded")
        assert "the API key's budget of 5 has 5 left" in error_of(refused)["message"]
        assert fake.ledger == []
        assert not LLMCall.objects.exists()

    def test_many_at_once_never_pass_it(self, fake: FakeLLM, gateway: GatewayServer, user: User) -> None:
        LLMModelFactory(
            id="busy", route="openai/delay-30", api_base=fake.url, price_in=1, price_out=2, max_concurrency=8
        )
        row, text = key_of(user)
        Budget.objects.create(subject_id=user.pk, limit_tokens=400)
        budget = Budget.objects.create(subject_kind="api_key", subject_id=row.pk, limit_tokens=300)

        def one(_: int) -> int:
            with http_of(gateway, f"Bearer {text}") as http:
                return ask(http, stream=False, model="busy", max_tokens=20).status_code

        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(one, range(30)))
        budget.refresh_from_db()
        assert set(statuses) == {200, 402}
        assert 0 < budget.spent_tokens <= 300
        assert budget.reserved_tokens == 0

    def test_runs_count_against_the_key_that_started_them(
        self, fake: FakeLLM, gateway: GatewayServer, user: User, model: Any
    ) -> None:
        row, _ = key_of(user)
        budget = Budget.objects.create(subject_kind="api_key", subject_id=row.pk, limit_usd=1)
        execution, token = running(model, created_by=user, api_key=row)
        with http_of(gateway, f"Bearer {token}") as http:
            assert ask(http, stream=False).status_code == 200
        budget.refresh_from_db()
        call = LLMCall.objects.get()
        assert (call.api_key, call.execution) == (row, execution)
        assert budget.spent_usd == call.cost_usd > 0

    def test_a_gateway_that_died_gives_back_what_it_held(self, user: User, model: Any) -> None:
        row, _ = key_of(user)
        budget = Budget.objects.create(
            subject_kind="api_key", subject_id=row.pk, limit_usd=1, reserved_usd="0.5", reserved_tokens=900
        )
        LLMCall.objects.create(
            user=user, api_key=row, model="ok", provider="p", gateway="dead#1", reserved_usd="0.5", reserved_tokens=900,
            budgets=[str(budget.pk)], prompt_tokens=10, opened_at=timezone.now(), text="half an answer",
        )  # fmt: skip
        GatewayInstance.objects.filter(instance="dead#1").delete()
        presence.end_orphans()
        budget.refresh_from_db()
        assert (budget.reserved_usd, budget.reserved_tokens) == (0, 0)
        assert budget.spent_tokens == 10 + ledger.estimated_tokens(len("half an answer"))
        assert LLMCall.objects.get().status == "failed"


class TestLimits:
    def test_a_key_has_a_rate(self, fake: FakeLLM, gateway: GatewayServer, user: User, model: Any) -> None:
        _, text = key_of(user, requests_per_minute=3)
        with http_of(gateway, f"Bearer {text}") as http:
            statuses = [ask(http, stream=False, model="ok").status_code for _ in range(5)]
            refused = http.get("/models")
        assert statuses == [200, 200, 200, 429, 429]
        assert (refused.status_code, error_of(refused)["type"]) == (429, "rate_limit_error")
        assert 0 < int(refused.headers["Retry-After"]) <= 60

    def test_a_person_has_a_rate_whatever_they_come_with(
        self, gateway: GatewayServer, user: User, settings: Any
    ) -> None:
        settings.RATE_LIMIT_USER_PER_MINUTE = 4
        texts = [key_of(user)[1], key_of(user)[1]]
        statuses = []
        for number in range(6):
            with http_of(gateway, f"Bearer {texts[number % 2]}") as http:
                statuses.append(http.get("/models").status_code)
        assert statuses == [200, 200, 200, 200, 429, 429]

    def test_guessing_is_slow(self, gateway: GatewayServer, settings: Any) -> None:
        settings.RATE_LIMIT_ADDRESS_PER_MINUTE = 3
        with http_of(gateway, "Bearer ap_0_guess") as http:
            assert [http.get("/models").status_code for _ in range(5)] == [401, 401, 401, 429, 429]

    def test_so_many_calls_at_once_are_enough(
        self, fake: FakeLLM, gateway: GatewayServer, user: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(callers, "MOST_AT_ONCE", 2)
        LLMModelFactory(id="slow", route="openai/delay-400", api_base=fake.url)
        _, text = key_of(user)

        def one(_: int) -> int:
            with http_of(gateway, f"Bearer {text}") as http:
                return ask(http, stream=False, model="slow").status_code

        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(one, range(4))) == [200, 200, 429, 429]
        assert one(0) == 200

    async def test_who_asks_for_much_keeps_nobody_waiting(self) -> None:
        slots, order = Slots(), []
        gate = asyncio.Event()

        async def nobody(_ahead: int) -> None:
            raise AssertionError("nobody waits so long")

        async def one(owner: str, number: int) -> None:
            async with slots.hold("m", 1, patience=60, on_wait=nobody, owner=owner):
                order.append((owner, number))
                await gate.wait()

        tasks = [asyncio.ensure_future(one("much", n)) for n in range(5)]
        await asyncio.sleep(0)
        tasks += [asyncio.ensure_future(one("little", n)) for n in range(2)]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*tasks)
        mine = [place for place, (owner, _) in enumerate(order) if owner == "little"]
        assert mine == [2, 4]
        assert [number for owner, number in order if owner == "much"] == [0, 1, 2, 3, 4]
        assert (slots.busy, slots.queued) == (0, 0)


class TestEnds:
    """What is taken away ends what is under way, within a second and in another process too."""

    @pytest.fixture
    def streaming(self, fake: FakeLLM) -> Any:
        return LLMModelFactory(id="long", route="openai/long-4000@20", api_base=fake.url)

    @pytest.mark.slow
    def test_a_call_in_another_process(self, fake: FakeLLM, tmp_path: Path, user: User, streaming: Any) -> None:
        with GatewayProcess(tmp_path / "gateway") as gateway:
            for what, stream in itertools.product(["key", "user", "role"], [True, False]):
                User.objects.filter(pk=user.pk).update(is_active=True, role=Role.USER)
                self.ends(fake, gateway, user, what, stream=stream)

    def test_a_call_under_way(self, fake: FakeLLM, gateway: GatewayServer, user: User, streaming: Any) -> None:
        self.ends(fake, gateway, user, "key", stream=True)

    @staticmethod
    def ends(fake: FakeLLM, gateway: Any, user: User, what: str, *, stream: bool) -> None:
        row, text = key_of(user)
        take_away: dict[str, Callable[[], Any]] = {
            "key": lambda: keys.revoke(row, by=None),
            "user": lambda: User.objects.filter(pk=user.pk).update(is_active=False),
            "role": lambda: User.objects.filter(pk=user.pk).update(role=Role.VIEWER),
        }
        said: list[str] = []
        body = {"model": "long", "stream": stream, "messages": HELLO}
        fake.reset()

        def read() -> None:
            with (
                http_of(gateway, f"Bearer {text}") as http,
                http.stream("POST", "/chat/completions", json=body) as response,
            ):
                said.extend(response.iter_lines())

        reader = threading.Thread(target=read)
        reader.start()
        wait_for(lambda: fake.ledger and fake.ledger[0].completion_tokens >= 5, "the answer is on its way", every=0.01)
        take_away[what]()
        began = time.monotonic()
        reader.join(DEADLINE)
        took = time.monotonic() - began
        error = json.loads([line for line in said if line][-1].removeprefix("data: "))["error"]
        wait_for(lambda: fake.ledger[0].ended_at, "the upstream request ends")
        wait_for(lambda: LLMCall.objects.latest("pk").status == "cancelled", "the row is closed")
        assert took < 1.5  # a second, and what a busy machine takes
        assert error["type"] == "authentication_error"
        assert fake.ledger[0].client_gone

    def test_a_client_that_goes_away(self, fake: FakeLLM, gateway: GatewayServer, user: User, streaming: Any) -> None:
        row, text = key_of(user)
        budget = Budget.objects.create(subject_kind="api_key", subject_id=row.pk, limit_tokens=10**9)
        with (
            http_of(gateway, f"Bearer {text}") as http,
            http.stream(
                "POST", "/chat/completions", json={"model": "long", "stream": True, "messages": HELLO}
            ) as response,
        ):
            next(response.iter_lines())
        left = time.time()
        wait_for(lambda: fake.ledger[0].ended_at, "the upstream request ends", every=0.01)
        assert fake.ledger[0].ended_at - left < 2
        wait_for(lambda: LLMCall.objects.get().status == "cancelled", "the row is closed", every=0.01)
        budget.refresh_from_db()
        assert (budget.reserved_tokens, budget.spent_tokens > 0) == (0, True)
