"""Who comes too often is told to wait, on pages and API alike; static files and health are left out."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from django.test import Client

from portal.accounts import keys, limits
from portal.accounts.models import Scope
from tests.deadlines import DEADLINE
from tests.factories.accounts import UserFactory
from tests.stack import Stack

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def no_blocks():
    limits._blocks.clear()


def statuses(client, path, times, **headers):
    return [client.get(path, headers=headers).status_code for _ in range(times)]


def test_a_person_is_counted_over_pages_and_api_and_sessions(settings):
    settings.RATE_LIMIT_USER_PER_MINUTE = 12
    ann, other = UserFactory(), UserFactory()
    first, second = Client(), Client()
    first.force_login(ann)
    second.force_login(ann)
    assert statuses(first, "/crews", 5) == [200] * 5
    assert statuses(second, "/api/crews", 7) == [200] * 7
    page = first.get("/crews")
    assert page.status_code == 429
    assert 1 <= int(page["Retry-After"]) <= 60
    assert "Too many requests" in page.text
    assert "Content-Security-Policy" in page
    answer = second.get("/api/crews")
    assert answer.status_code == 429
    assert 1 <= int(answer["Retry-After"]) <= 60
    assert answer["Content-Type"] == "application/problem+json"
    assert (answer.json()["code"], answer.json()["status"]) == ("rate_limited", 429)
    calm = Client()
    calm.force_login(other)
    assert statuses(calm, "/crews", 3) == [200] * 3


def test_keys_count_for_their_user_beside_their_own_rate(settings):
    settings.RATE_LIMIT_USER_PER_MINUTE = 6
    settings.RATE_LIMIT_ADDRESS_PER_MINUTE = 1  # no matter where it comes from
    ann = UserFactory()
    texts = [keys.create(ann, name=name, scopes=[Scope.READ], by=ann)[1] for name in ("one", "two")]
    client = Client()
    for text in texts:
        assert statuses(client, "/api/crews", 3, authorization=f"Bearer {text}") == [200] * 3
    refused = client.get("/api/crews", headers={"authorization": f"Api-Key {texts[0]}"})
    assert refused.status_code == 429
    assert int(refused["Retry-After"]) >= 1
    assert refused.json()["code"] == "rate_limited"


def test_what_a_key_may_not_do_counts_too_and_everything_once(settings):
    settings.RATE_LIMIT_USER_PER_MINUTE = 6
    settings.RATE_LIMIT_ADDRESS_PER_MINUTE = 1  # no matter where it comes from
    ann = UserFactory()
    key = {"authorization": f"Api-Key {keys.create(ann, name='k', scopes=[Scope.READ], by=ann)[1]}"}
    client = Client()
    assert client.post("/api/crews", {"name": "x"}, headers=key).status_code == 403
    assert statuses(client, "/api/admin/users", 1, **key) == [403]
    assert statuses(client, "/api/nothing-here", 1, **key) == [404]
    assert statuses(client, "/api/crews", 3, **key) == [200] * 3
    assert client.post("/api/crews", {"name": "x"}, headers=key).status_code == 429


@pytest.mark.parametrize("header", ["Bearer ap_nonsense", "x", " "])
def test_a_header_at_which_nobody_looks_counts_for_the_session(settings, header):
    settings.RATE_LIMIT_USER_PER_MINUTE = 3
    settings.RATE_LIMIT_ADDRESS_PER_MINUTE = 1
    client = Client()
    client.force_login(UserFactory())
    path = "/api/docs" if header.strip() else "/api/crews"
    assert statuses(client, path, 4, authorization=header) == [200, 200, 200, 429]


def test_strangers_are_counted_by_address_with_bad_credentials_too(settings):
    settings.RATE_LIMIT_ADDRESS_PER_MINUTE = 5
    near, far = Client(REMOTE_ADDR="192.0.2.1"), Client(REMOTE_ADDR="192.0.2.2")
    assert statuses(near, "/sign-in", 3) == [200] * 3
    assert statuses(near, "/api/crews", 2, authorization="Bearer ap_nonsense") == [401] * 2
    assert statuses(near, "/api/crews", 2, authorization="Bearer ap_nonsense") == [429] * 2
    assert statuses(near, "/sign-in", 2) == [429] * 2
    # A header does not make a page's visitor somebody else.
    assert statuses(near, "/sign-in", 1, authorization="Bearer ap_nonsense") == [429]
    assert statuses(far, "/sign-in", 1) == [200]
    # What an address claims about itself does not count either.
    assert near.get("/sign-in", headers={"x-forwarded-for": "192.0.2.9"}).status_code == 429


def test_neighbours_in_one_ipv6_network_are_one_client(settings):
    settings.RATE_LIMIT_ADDRESS_PER_MINUTE = 4
    for number in range(4):
        assert Client(REMOTE_ADDR=f"2001:db8::{number:x}").get("/sign-in").status_code == 200
    assert Client(REMOTE_ADDR="2001:db8::ffff").get("/sign-in").status_code == 429
    assert Client(REMOTE_ADDR="2001:db8:0:1::1").get("/sign-in").status_code == 200


def test_static_files_are_left_out(settings, client):
    settings.RATE_LIMIT_ADDRESS_PER_MINUTE = 1
    assert client.get("/sign-in").status_code == 200
    assert client.get("/sign-in").status_code == 429
    assert statuses(client, "/static/img/favicon.svg", 3) == [200] * 3


def test_zero_is_no_limit(settings, client, django_assert_num_queries):
    settings.RATE_LIMIT_ADDRESS_PER_MINUTE = 0
    with django_assert_num_queries(0):
        assert statuses(client, "/sign-in", 3) == [200] * 3


@pytest.mark.slow
def test_the_real_portal_counts(tmp_path):
    """A web process in SQLite, without Redis; its threads share one limit, and signed-in people have their own."""
    limit = 60
    environment = {"RATE_LIMIT_ADDRESS_PER_MINUTE": str(limit)}
    with Stack(tmp_path, llm_url="http://127.0.0.1:9/v1", processes=("web",), environment=environment) as stack:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: httpx.get(f"{stack.url}/sign-in", timeout=DEADLINE), range(limit + 40)))
        served = [answer for answer in answers if answer.status_code == 200]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(served) <= limit
        assert len(refused) >= 40
        assert len(served) + len(refused) == len(answers)
        assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)
        assert "server" not in answers[0].headers
        assert stack.client("ann").get("/crews").status_code == 200
