"""Which other sites' pages may call the API."""

import runpy

import pytest

import portal.settings as settings_module
from portal.accounts import keys
from portal.accounts.models import Scope
from portal.lib.env import ConfigError
from tests.factories.accounts import UserFactory

pytestmark = pytest.mark.django_db
OURS, THEIRS = "https://app.example.com", "https://elsewhere.example"


@pytest.fixture
def key():
    user = UserFactory()
    return keys.create(user, name="page", scopes=[Scope.READ], by=user)[1]


def test_a_page_of_a_named_origin_may_call_with_a_key_and_never_with_cookies(client, key, settings):
    settings.CORS_ALLOWED_ORIGINS = [OURS]
    preflight = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
    asked = client.options("/api/crews", headers={"Origin": OURS, **preflight})
    assert asked.headers["Access-Control-Allow-Origin"] == OURS
    assert "authorization" in asked.headers["Access-Control-Allow-Headers"]
    answer = client.get("/api/crews", headers={"Origin": OURS, "Authorization": f"Bearer {key}"})
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (200, OURS)
    assert "Access-Control-Allow-Credentials" not in answer.headers
    assert "Access-Control-Allow-Origin" not in client.get("/sign-in", headers={"Origin": OURS}).headers


def test_such_a_page_may_guard_its_writes_and_read_what_is_told_in_headers(client, key, settings):
    settings.CORS_ALLOWED_ORIGINS = [OURS]
    wanted = "authorization,content-type,idempotency-key,if-match"
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": wanted}
    asked = client.options("/api/executions", headers={"Origin": OURS, **preflight})
    assert set(wanted.split(",")) <= set(asked.headers["Access-Control-Allow-Headers"].split(", "))
    answer = client.get("/api/crews", headers={"Origin": OURS, "Authorization": f"Bearer {key}"})
    assert {"ETag", "Location"} <= set(answer.headers["Access-Control-Expose-Headers"].split(", "))


def test_nobody_else_may(client, key, settings):
    for allowed in ([], [OURS]):
        settings.CORS_ALLOWED_ORIGINS = allowed
        answer = client.get("/api/crews", headers={"Origin": THEIRS, "Authorization": f"Bearer {key}"})
        assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("value", ["*", "app.example.com", "https://app.example.com/path", "ftp://app.example.com"])
def test_what_is_no_origin_stops_the_start(value, monkeypatch):
    monkeypatch.setenv("CORS_ALLOWED_ORIGINS", value)
    with pytest.raises(ConfigError, match="CORS_ALLOWED_ORIGINS"):
        runpy.run_path(settings_module.__file__)
