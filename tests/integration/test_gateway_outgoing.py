"""Requests to providers' addresses, from every place where one can be given: none gets inside."""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import httpx
import pytest
from django.apps import apps
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from rest_framework.test import APIClient

from crews import providers
from crews.models import LLMModel, LLMProvider
from crews.seed import seed_catalog
from executions.gateway import faults
from executions.gateway.catalog import Target
from executions.gateway.translated import Litellm
from executions.models import LLMCall
from portal.accounts import keys
from portal.accounts.models import Scope
from portal.lib.outgoing import requests, streams
from tests.deadlines import DEADLINE
from tests.factories.accounts import UserFactory
from tests.factories.crews import LLMModelFactory, LLMProviderFactory
from tests.fakes.gateway import HELLO, GatewayServer, ask, error_of, running
from tests.fakes.gateway import client as client_of
from tests.fakes.llm import FakeLLM
from tests.ssrf import Canary, Payload, payloads

pytestmark = pytest.mark.django_db(transaction=True)
PRIVATE = "is in a private network. An admin can allow it on the provider."


@pytest.fixture
def canary() -> Iterator[Canary]:
    with Canary() as listening:
        yield listening


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], list[str]]], None]:
    """Have names answered by a function, in this process and so in the gateway that it serves."""

    def use(answer: Callable[[str], list[str]]) -> None:
        async def look_up(host: str, port: int, family: int = 0) -> list[tuple[int, str]]:
            return [(socket.AF_INET6 if ":" in found else socket.AF_INET, found) for found in answer(host)]

        monkeypatch.setattr(requests, "look_up", lambda host, port, *, seconds: answer(host))
        monkeypatch.setattr(streams, "look_up", look_up)

    return use


def by_form(http: Client, payload: Payload) -> bool:
    sent = {"name": payload.name, "kind": "openai_compatible", "api_base": payload.url, "enabled": "on"}
    return http.post("/settings/providers/new", sent).status_code == 302


def by_api(http: Client, payload: Payload) -> bool:
    body = {"name": payload.name, "kind": "openai_compatible", "api_base": payload.url, "needs_key": False}
    answer = http.post("/api/llm/providers", json.dumps(body), content_type="application/json")
    if answer.status_code != 201:
        assert answer.status_code == 400, answer.content
        assert {error["field"] for error in answer.json()["errors"]} == {"api_base"}
    return answer.status_code == 201


def by_admin(http: Client, payload: Payload) -> bool:
    sent = {"name": payload.name, "kind": "openai_compatible", "api_base": payload.url, "enabled": "on"}
    return http.post(reverse("admin:crews_llmprovider_add"), sent).status_code == 302


@pytest.mark.slow
@pytest.mark.parametrize("give", [by_form, by_api, by_admin])
def test_no_address_that_can_be_stored_leads_inside(
    client: Client, canary: Canary, resolve: Any, settings: Any, give: Callable[[Client, Payload], bool]
) -> None:
    settings.RATE_LIMIT_USER_PER_MINUTE = 0
    client.force_login(UserFactory(admin=True))
    current: list[Payload] = []
    resolve(lambda host: current[0].look_up(host))
    stored = 0
    for payload in payloads(canary.port):
        current[:] = [payload]
        if not give(client, payload):
            continue
        stored += 1
        assert payload.name.startswith("dns"), f"{payload.name} was taken"
        provider = LLMProvider.objects.get(name=payload.name)
        answer = client.post(f"/api/llm/providers/{provider.pk}/test")
        assert (answer.json()["ok"], PRIVATE in answer.json()["detail"] or "no request" in answer.json()["detail"]) == (
            False,
            True,
        )
    assert stored > 10
    assert canary.visits == []


@pytest.mark.slow
def test_no_address_that_is_stored_already_leads_inside(
    fake: FakeLLM, gateway: GatewayServer, canary: Canary, resolve: Any, settings: Any
) -> None:
    """Whatever is in the database, from before it was checked or by another way: the gateway dials nothing inside."""
    settings.RATE_LIMIT_USER_PER_MINUTE = 0
    current: list[Payload] = []
    resolve(lambda host: current[0].look_up(host))
    user = UserFactory()
    _, text = keys.create(user, name="x", scopes=[Scope.RUN], by=None, requests_per_minute=60_000)
    known = {f"m{number}": payload for number, payload in enumerate(payloads(canary.port)) if "\0" not in payload.url}
    for name, payload in known.items():
        kind = LLMProvider.Kind.OPENAI_COMPATIBLE
        stored = LLMProvider.objects.create(name=name, kind=kind, api_base=payload.url[:500], needs_key=False)
        LLMModelFactory(id=name, provider=stored)
    with httpx.Client(base_url=gateway.url, headers={"Authorization": f"Bearer {text}"}, timeout=DEADLINE) as http:
        for name, payload in known.items():
            current[:] = [payload]
            answer = ask(http, stream=False, model=name)
            assert (answer.status_code, error_of(answer)["code"]) == (502, "llm_unavailable"), payload.name
    assert canary.visits == []
    assert LLMCall.objects.filter(error_code="llm_unavailable").count() == len(known) > 200


def test_a_run_hears_in_a_sentence_why(gateway: GatewayServer, canary: Canary, resolve: Any) -> None:
    resolve(lambda host: ["10.1.2.3"])
    provider = LLMProviderFactory(api_base=f"http://models.example.com:{canary.port}/v1", allow_private=False)
    _, token = running(LLMModelFactory(provider=provider))
    with client_of(gateway, token) as http:
        error = error_of(ask(http, stream=True))
    assert (error["code"], error["message"]) == ("llm_unavailable", f"models.example.com {PRIVATE}")


def test_a_name_server_that_changes_its_mind_between_save_and_calls(
    gateway: GatewayServer, canary: Canary, resolve: Any
) -> None:
    resolve(lambda host: ["93.184.215.14"])
    provider = LLMProviderFactory(api_base=f"http://models.example.com:{canary.port}/v1", allow_private=False)
    _, token = running(LLMModelFactory(provider=provider))
    resolve(lambda host: ["127.0.0.1"])
    with client_of(gateway, token) as http:
        for stream in (True, False):
            assert PRIVATE in error_of(ask(http, stream=stream))["message"]
    assert providers.test(provider).detail == f"models.example.com {PRIVATE}"
    assert canary.visits == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_takes_no_key_along(gateway: GatewayServer, canary: Canary, status: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        head = f"HTTP/1.1 {status} X\r\nLocation: http://127.0.0.1:{canary.port}/v1\r\nContent-Length: 0\r\n\r\n"
        provider = LLMProviderFactory(api_base=f"http://127.0.0.1:{port}/v1", api_key="sk-secret", needs_key=True)
        _, token = running(LLMModelFactory(provider=provider))
        with client_of(gateway, token) as http:
            answer: list[httpx.Response] = []
            asking = threading.Thread(target=lambda: answer.append(ask(http, stream=False)))
            asking.start()
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(head.encode())
                asking.join(DEADLINE)
    assert error_of(answer[0])["code"] == "llm_unavailable"
    assert str(status) in error_of(answer[0])["message"]
    assert canary.visits == []


# --- litellm --------------------------------------------------------------------------------------


def target(route: str, api_base: str, **fields: Any) -> Target:
    provider = LLMProvider(name="p", kind=LLMProvider.Kind.LITELLM, api_base=api_base, api_key="sk-x")
    model = Target.of(LLMModel(id="m", provider=provider, route=route, created_at=timezone.now()))
    return Target(**{**vars(model), "api_key": "sk-x", **fields})


async def translate(litellm: Litellm, way: Target, **body: Any) -> str:
    """What comes of a call: its text, or the sentence of its fault."""
    said = ""
    await litellm.load()
    try:
        async with asyncio.timeout(20):
            async for batch in litellm.stream(way, {"messages": HELLO, **body}):
                said += "".join(c["delta"].get("content") or "" for p in batch for c in p.chunk.get("choices") or ())
    except faults.Fault as fault:
        return fault.message
    except TimeoutError:
        return "timeout"
    return said


@pytest.mark.slow
def test_no_provider_of_litellm_leads_inside(
    canary: Canary, resolve: Any, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    """Each of them, whatever way it reaches out, also by clients that know nothing of the guard."""
    settings.LLM_TOTAL_TIMEOUT = 5
    resolve(lambda host: ["127.0.0.1"])
    right = socket.getaddrinfo

    def everybody_is_here(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        return right("127.0.0.1", port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", everybody_is_here)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_REGION_NAME", "us-east-1")
    said: dict[str, str] = {}
    inside: list[str] = []

    async def all_of_them() -> None:
        litellm = Litellm()
        module = await litellm.load()
        for prefix in sorted(str(getattr(kind, "value", kind)) for kind in module.provider_list):
            for api_base in (f"http://inner.example.com:{canary.port}/v1", f"http://127.0.0.1:{canary.port}/v1"):
                said[prefix] = await translate(litellm, target(f"{prefix}/gpt-4o", api_base))
                if canary.visits:
                    inside.append(prefix)
                    canary.visits.clear()

    asyncio.run(all_of_them())
    assert inside == [], said
    others = {prefix: words for prefix, words in said.items() if PRIVATE not in words}
    assert len(said) > 80
    # Some have no use for an address, or want more than a key: those come to nothing by themselves.
    assert len(others) < len(said) / 2, others


@pytest.mark.slow
def test_what_litellm_would_obey_in_a_request_is_left_out(fake: FakeLLM, canary: Canary) -> None:
    inner = f"http://127.0.0.1:{canary.port}/v1"
    commands = {
        "api_base": inner, "base_url": inner, "api_key": "sk-other", "custom_llm_provider": "ollama",
        "extra_headers": {"Host": "x"}, "headers": {"Authorization": "Bearer x"}, "mock_response": "mocked",
        "fallbacks": [{"model": "openai/x", "api_base": inner}], "model_list": [{"model_name": "m"}],
        "organization": "x", "api_version": "x", "proxy": inner, "aws_bedrock_runtime_endpoint": inner,
    }  # fmt: skip
    way = target("openai/ok", fake.url, allow_private=True)

    async def both() -> tuple[str, str]:
        litellm = Litellm()
        return await translate(litellm, way), await translate(litellm, way, **commands)

    plain, commanded = asyncio.run(both())
    assert plain == commanded
    assert [request.authorization for request in fake.ledger] == ["Bearer sk-x"] * 2
    assert canary.visits == []


@pytest.mark.slow
@pytest.mark.parametrize("route", ["openai/gpt-4o", "anthropic/claude-3", "gemini/gemini-pro", "ollama/llava"])
def test_litellm_fetches_no_pictures(fake: FakeLLM, canary: Canary, route: str) -> None:
    inner = f"http://127.0.0.1:{canary.port}/picture.png"
    for part in (
        {"type": "image_url", "image_url": {"url": inner}},
        {"type": "image_url", "image_url": inner},
        {"type": "file", "file": {"file_id": inner}},
        {"type": "document", "source": {"type": "url", "url": inner}},
    ):
        messages = [{"role": "user", "content": [{"type": "text", "text": "see https://example.com"}, part]}]
        sentence = asyncio.run(translate(Litellm(), target(route, fake.url, allow_private=True), messages=messages))
        assert "as “data:” and not as an address" in sentence
    assert canary.visits == []
    assert fake.ledger == []


# --- What an admin allows -------------------------------------------------------------------------


class TestLeave:
    @pytest.fixture
    def api(self) -> APIClient:
        http = APIClient()
        http.force_authenticate(UserFactory(admin=True))
        return http

    def test_it_is_given_with_the_address_and_does_not_follow_to_another(self, api: APIClient) -> None:
        body = {"name": "Mine", "kind": "openai_compatible", "api_base": "http://ollama:11434/v1"}
        refused = api.post("/api/llm/providers", body, format="json").json()
        assert [(e["field"], e["code"], e["detail"]) for e in refused["errors"]] == [
            ("api_base", "private_address", f"ollama {PRIVATE}")
        ]
        made = api.post("/api/llm/providers", {**body, "allow_private": True}, format="json").json()
        path = f"/api/llm/providers/{made['id']}"
        same = api.patch(path, {"api_base": "http://OLLAMA:11434/v2"}, format="json").json()
        assert (same["allow_private"], same["notice"]) == (True, "")
        moved = api.patch(path, {"api_base": "https://api.example.com/v1"}, format="json").json()
        assert moved["allow_private"] is False
        assert "not for this one" in moved["notice"]
        api.patch(path, {"allow_private": True}, format="json")
        elsewhere = api.patch(path, {"api_base": "http://10.0.0.1/v1"}, format="json")
        assert (elsewhere.status_code, elsewhere.json()["errors"][0]["code"]) == (400, "private_address")
        again = api.patch(path, {"api_base": "http://10.0.0.1/v1", "allow_private": True}, format="json").json()
        assert (again["allow_private"], again["notice"]) == (True, "")
        never = api.patch(path, {"api_base": "http://169.254.169.254/v1", "allow_private": True}, format="json")
        assert "no request goes" in never.json()["errors"][0]["detail"]

    @pytest.mark.parametrize("where", ["page", "admin"])
    def test_a_form_asks_for_it_again_when_the_address_has_changed(self, client: Client, where: str) -> None:
        client.force_login(UserFactory(admin=True))
        provider = LLMProviderFactory(api_base="http://10.0.0.1/v1", allow_private=True)
        address = {
            "page": f"/settings/providers/{provider.pk}",
            "admin": reverse("admin:crews_llmprovider_change", args=[provider.pk]),
        }[where]
        sent = {
            "name": provider.name, "kind": "openai_compatible", "api_base": "http://10.0.0.2/v1", "enabled": "on",
            "allow_private": "on", "private_for": provider.origin,
        }  # fmt: skip

        def form_of(answer: Any) -> Any:
            return answer.context["form"] if where == "page" else answer.context["adminform"].form

        form = form_of(client.post(address, sent))
        assert "Tick this again" in str(form.errors["allow_private"])
        shown = {"private_for": form["private_for"].value(), "allow_private": form["allow_private"].value()}
        assert shown == {"private_for": "http://10.0.0.2:80", "allow_private": False}
        provider.refresh_from_db()
        assert (provider.api_base, provider.allow_private) == ("http://10.0.0.1/v1", True)
        assert client.post(address, {**sent, "private_for": shown["private_for"]}).status_code == 302
        provider.refresh_from_db()
        assert (provider.api_base, provider.allow_private) == ("http://10.0.0.2/v1", True)

    def test_the_embedded_model_needs_none_and_ollama_has_it(self) -> None:
        seed_catalog()
        assert LLMProvider.objects.get(name="Ollama").allow_private
        assert LLMProvider.objects.get(kind=LLMProvider.Kind.EMBEDDED).may_go_private
        assert not LLMProvider.objects.exclude(name="Ollama").filter(allow_private=True).exists()

    def test_what_was_reached_in_private_networks_before_still_is(self) -> None:
        allow = import_module("crews.migrations.0003_private_providers").allow_what_was_used
        wanted = {
            "http://127.0.0.1:11434/v1": True, "http://localhost:1/v1": True, "http://ollama:11434/v1": True,
            "http://192.168.1.5/v1": True, "http://[::1]:80/v1": True, "http://nas.local/v1": True,
            "https://api.openai.com/v1": False, "https://8.8.8.8/v1": False, "http://[half/v1": False,
        }  # fmt: skip
        for address in wanted:
            LLMProviderFactory(name=address, api_base=address, allow_private=False)
        local = LLMProviderFactory(name="local", kind="litellm", api_base="", allow_private=False)
        LLMModelFactory(provider=local, route="ollama/llama3")
        far = LLMProviderFactory(name="far", kind="litellm", api_base="", allow_private=False)
        LLMModelFactory(provider=far, route="anthropic/claude")
        allow(apps, None)
        found = dict(LLMProvider.objects.filter(name__in=wanted).values_list("name", "allow_private"))
        assert found == wanted
        local.refresh_from_db()
        far.refresh_from_db()
        assert (local.allow_private, far.allow_private) == (True, False)
