"""Limits hold exactly, for any number of threads and processes; the cheap way of counting asks the database rarely."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import time_machine
from django.db import connection

from portal.accounts import limits
from portal.accounts.models import RateWindow
from tests.deadlines import DEADLINE

ROOT = Path(__file__).resolve().parents[3]
COUNTERS = {"exact": limits.hit, "in blocks": limits.take}


@pytest.fixture(autouse=True)
def no_blocks():
    limits._blocks.clear()


def passed(counter, key, tries, **window):
    """How many of `tries` went through."""
    count = 0
    for _ in range(tries):
        try:
            counter(key, **window)
        except limits.TooMany:
            continue
        count += 1
    return count


@pytest.mark.django_db
@pytest.mark.parametrize("name", COUNTERS)
def test_as_many_as_the_limit_go_through_and_then_none_until_the_window_ends(name):
    counter = COUNTERS[name]
    with time_machine.travel(datetime(2026, 5, 1, tzinfo=UTC), tick=False) as clock:
        assert passed(counter, "a", 70, limit=50, seconds=60) == 50
        assert passed(counter, "b", 5, limit=50, seconds=60) == 5  # each key for itself
        clock.shift(timedelta(seconds=59))
        assert passed(counter, "a", 5, limit=50, seconds=60) == 0
        with pytest.raises(limits.TooMany) as refused:
            counter("a", limit=50, seconds=60)
        assert refused.value.wait == 1
        clock.shift(timedelta(seconds=1))
        limits._blocks.pop("a", None)  # what is remembered is good for a second of the real clock
        assert passed(counter, "a", 70, limit=50, seconds=60) == 50


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", COUNTERS)
def test_threads_share_one_limit(name):
    counter = COUNTERS[name]

    def work(_):
        try:
            return passed(counter, "shared", 60, limit=200, seconds=60)
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) == 200


@pytest.mark.django_db
def test_in_blocks_the_database_is_asked_rarely(django_assert_max_num_queries):
    # 1, 2, 4 … 60 at once, a twentieth of the limit: 7 queries to get there, then one for each 60.
    with django_assert_max_num_queries(30):
        assert passed(limits.take, "busy", 600, limit=1200, seconds=60) == 600
    with django_assert_max_num_queries(25):
        passed(limits.take, "flood", 3000, limit=20, seconds=60)  # a refusal is remembered too
    assert RateWindow.objects.get(key="busy").count <= 660


@pytest.mark.django_db
def test_what_lies_unused_is_taken_on_in_the_same_window_and_no_other(monkeypatch):
    monkeypatch.setattr(limits, "BLOCK_SECONDS", 0.0)  # every block is old at once
    with time_machine.travel(datetime(2026, 5, 1, tzinfo=UTC), tick=False) as clock:
        assert passed(limits.take, "a", 300, limit=100, seconds=60) == 100
        clock.shift(timedelta(seconds=60))
        assert passed(limits.take, "a", 300, limit=100, seconds=60) == 100


@pytest.mark.django_db
def test_many_keys_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(limits, "MAX_BLOCKS", 10)
    for number in range(30):
        limits.take(f"k{number}", limit=5, seconds=60)
    assert len(limits._blocks) <= 10
    assert passed(limits.take, "k29", 10, limit=5, seconds=60) == 4


@pytest.mark.django_db
def test_old_counters_are_removed():
    with time_machine.travel(datetime.now(UTC) - timedelta(days=3)):
        limits.hit("old", limit=5, seconds=60)
    limits.hit("new", limit=5, seconds=60)
    assert limits.clean() == 1
    assert list(RateWindow.objects.values_list("key", flat=True)) == ["new"]


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        (None, "unknown"),
    ],
)
def test_an_ipv6_client_is_counted_by_its_network(address, counted):
    assert limits.network_of(address) == counted


CHILD = """
import json, sys, django
django.setup()
from portal.accounts import limits
name, tries = sys.argv[1], int(sys.argv[2])
counter = {"exact": limits.hit, "in blocks": limits.take}[name]
print("ready", flush=True); sys.stdin.readline()
passed = 0
for _ in range(tries):
    try:
        counter("two-processes", limit=500, seconds=600)
        passed += 1
    except limits.TooMany:
        pass
print(json.dumps(passed))
"""


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", COUNTERS)
def test_two_processes_share_one_limit(name):
    database = connection.settings_dict
    if connection.vendor == "sqlite":
        url = f"sqlite:///{database['NAME']}"
    else:
        host = f"{database['USER']}:{database['PASSWORD']}@{database['HOST']}:{database['PORT']}"
        url = f"postgres://{host}/{database['NAME']}"
    environment = {**os.environ, "DATABASE_URL": url}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, name, "2000"],
            cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    try:
        for child in children:
            assert child.stdout.readline() == "ready\n"
        counts = [json.loads(child.communicate("\n", timeout=DEADLINE)[0]) for child in children]
    finally:
        for child in children:
            child.kill()
    if name == "exact":
        assert sum(counts) == 500
    else:
        # Never more; what the other one had taken and did not use is lost, a twentieth at most.
        assert 500 - 500 // limits.BLOCK_SHARE * 2 <= sum(counts) <= 500
