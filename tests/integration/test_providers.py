"""Trying a provider, over real HTTP."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from rest_framework.test import APIClient

from crews.models import LLMModel
from tests.factories.accounts import UserFactory
from tests.factories.crews import LLMModelFactory, LLMProviderFactory

pytestmark = pytest.mark.django_db


class Server(ThreadingHTTPServer):
    """Answers every request alike and remembers what was asked."""

    status = 200
    body = b'{"data": [{"id": "tea"}, {"id": "coffee"}]}'

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        if self.server.status == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def api():
    client = APIClient()
    client.force_authenticate(UserFactory(admin=True))
    return client


def tried(api, provider):
    answer = api.post(f"/api/llm/providers/{provider.pk}/test")
    assert answer.status_code == 200
    return answer.json()


def test_what_it_serves_is_told_and_its_models_are_healthy(api, server):
    provider = LLMProviderFactory(api_base=server.url, api_key="sk-secret", needs_key=True)
    known = LLMModelFactory(provider=provider, route="openai/tea")
    unknown = LLMModelFactory(provider=provider, route="openai/cocoa")
    report = tried(api, provider)
    assert (report["ok"], report["models"]) == (True, ["coffee", "tea"])
    assert server.asked == [("/v1/models", "Bearer sk-secret")]
    assert LLMModel.objects.get(pk=known.pk).health == "ok"
    assert LLMModel.objects.get(pk=known.pk).health_checked_at
    assert LLMModel.objects.get(pk=unknown.pk).health == "unknown"


@pytest.mark.parametrize(
    ("status", "body", "word"),
    [
        (401, b"{}", "key"),
        (404, b"{}", "address"),
        (500, b"{}", "500"),
        (302, b"", "302"),
        (200, b"<html>", "no model provider"),
        (200, b"[]", "no model provider"),
        (200, json.dumps({"data": ["x"]}).encode(), "no model provider"),
        (200, b"x" * (5 * 1024 * 1024), "too long"),
    ],
)
def test_what_is_wrong_is_said_plainly(api, server, status, body, word):
    server.status, server.body = status, body
    provider = LLMProviderFactory(api_base=server.url)
    model = LLMModelFactory(provider=provider)
    report = tried(api, provider)
    assert report["ok"] is False
    assert word in report["detail"]
    assert LLMModel.objects.get(pk=model.pk).health == "down"
    assert len(server.asked) == 1


def test_an_address_where_nobody_answers(api, server):
    server.server_close()
    assert tried(api, LLMProviderFactory(api_base=server.url))["ok"] is False


def test_without_its_key_nothing_is_asked(api, server):
    provider = LLMProviderFactory(api_base=server.url, needs_key=True)
    report = tried(api, provider)
    assert (report["ok"], server.asked) == (False, [])
    assert "key" in report["detail"]


@pytest.fixture
def unreadable(settings, server):
    """A model whose provider's key was stored under a key of encryption that is gone."""
    settings.ENCRYPTION_KEYS = ["lost"]
    model = LLMModelFactory(
        id="locked", provider=LLMProviderFactory(api_base=server.url, api_key="sk-old", needs_key=True)
    )
    settings.ENCRYPTION_KEYS = ["new"]
    return model


def test_a_key_that_cannot_be_opened_keeps_its_own_models_alone_from_running(api, server, unreadable):
    LLMModelFactory(id="fine")
    listed = {model["id"]: model["why_not_runnable"] for model in api.get("/api/llm/models").json()["results"]}
    assert listed["fine"] == ""
    assert "cannot be opened" in listed["locked"]
    tried(api, unreadable.provider)
    assert server.asked == []
    path = f"/api/llm/providers/{unreadable.provider_id}"
    assert api.patch(path, {"name": "Renamed"}).json()["has_key"] is False
    assert api.patch(path, {"api_key": "sk-fresh"}).json()["has_key"] is True
    assert LLMModel.objects.get(pk="locked").is_runnable
    assert tried(api, unreadable.provider)["ok"] is True
    assert server.asked == [("/v1/models", "Bearer sk-fresh")]


@pytest.mark.parametrize("page", ["/models", "/settings/providers", "/settings/models/locked"])
def test_pages_show_it_all_the_same(client, unreadable, page):
    client.force_login(UserFactory(admin=True))
    answer = client.get(page)
    assert answer.status_code == 200
    assert page != "/models" or "cannot be opened" in answer.content.decode()


def test_one_that_cannot_be_asked_says_so(api):
    provider = LLMProviderFactory(kind="litellm", api_base="", needs_key=False)
    model = LLMModelFactory(provider=provider, route="bedrock/tea")
    assert tried(api, provider)["ok"] is None
    assert LLMModel.objects.get(pk=model.pk).health == "unknown"


def test_the_embedded_model_is_asked_where_it_runs(api, server, settings):
    settings.MODEL_URL = server.url.removesuffix("/v1")
    provider = LLMProviderFactory(kind="embedded", api_base="")
    LLMModelFactory(id="embedded", provider=provider, is_local=True)
    assert tried(api, provider)["ok"] is True
    assert LLMModel.objects.get(pk="embedded").health == "ok"


def test_only_admins_try_providers(server):
    client = APIClient()
    client.force_authenticate(UserFactory())
    provider = LLMProviderFactory(api_base=server.url)
    assert client.post(f"/api/llm/providers/{provider.pk}/test").status_code == 403
    assert server.asked == []
