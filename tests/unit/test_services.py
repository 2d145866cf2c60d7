"""The throw-away services that other tests stand on."""

import psycopg
import pytest
import redis

from tests import services
from tests.deadlines import wait_for


@pytest.mark.postgres
def test_a_database_of_its_own_can_be_made_and_removed(postgres_server: str) -> None:
    url = services.create_database(postgres_server, "made_by_a_test")
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT current_database()").fetchone() == ("made_by_a_test",)
    services.drop_database(postgres_server, "made_by_a_test")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(url)


@pytest.mark.redis
def test_redis_answers(redis_server: str) -> None:
    with redis.Redis.from_url(redis_server) as client:
        assert client.ping()


def test_a_missing_service_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(services.Missing, match="redis-server"):
        services.redis_server()


def test_what_is_required_is_a_list_or_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTAL_TEST_REQUIRE", "postgres, redis")
    assert services.required("redis")
    assert not services.required("browser")
    monkeypatch.setenv("PORTAL_TEST_REQUIRE", "all")
    assert services.required("browser")


def test_waiting_ends_with_what_was_waited_for() -> None:
    with pytest.raises(AssertionError, match="not within 0 s: the sun rises"):
        wait_for(lambda: False, "the sun rises", deadline=0)
