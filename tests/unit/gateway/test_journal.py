"""What makes two requests the same, and the life of an entry."""

import threading
import uuid
from dataclasses import replace
from typing import Any

import pytest
from django.db import connection, transaction
from hypothesis import given
from hypothesis import strategies as st

from executions.gateway import journal, presence
from executions.gateway.journal import Entry, Key, Record, Taken, chat_hash, tool_hash
from executions.models import GatewayInstance, JournalEntry
from tests.factories.executions import ExecutionFactory

BODY = {"model": "role:a", "messages": [{"role": "user", "content": "안녕"}], "temperature": 0.5}


def called(*ids: str) -> dict[str, Any]:
    calls = [{"id": name, "type": "function", "function": {"name": "f", "arguments": "{}"}} for name in ids]
    results = [{"role": "tool", "tool_call_id": name, "content": "1"} for name in ids]
    return {"messages": [{"role": "assistant", "content": None, "tool_calls": calls}, *results]}


# --- What makes two requests the same -----------------------------------------------------------


@pytest.mark.parametrize(
    "same",
    [
        {**BODY, "model": "another"},
        {**BODY, "stream": True, "stream_options": {"include_usage": True}},
        {**BODY, "user": "u", "metadata": {"a": "b"}, "seed": 7},
        {**BODY, "top_p": None},
        dict(reversed(BODY.items())),
        {**BODY, "messages": [{"content": "안녕", "role": "user"}]},
    ],
)
def test_what_does_not_change_the_answer_does_not_change_the_request(same: dict[str, Any]) -> None:
    assert chat_hash(same, "a") == chat_hash(BODY, "a")


@pytest.mark.parametrize(
    "other",
    [
        {**BODY, "temperature": 0.6},
        {**BODY, "messages": [{"role": "user", "content": "안녕!"}]},
        {**BODY, "messages": [{"role": "system", "content": "안녕"}]},
        {**BODY, "tools": []},
    ],
)
def test_what_changes_the_answer_changes_the_request(other: dict[str, Any]) -> None:
    assert chat_hash(other, "a") != chat_hash(BODY, "a")


def test_another_agent_asks_another_request() -> None:
    assert chat_hash(BODY, "a") != chat_hash(BODY, "b")
    assert tool_hash("f", {"x": 1}, "a") != tool_hash("f", {"x": 1}, "b")
    assert tool_hash("f", {"x": 1, "y": 2}, "a") == tool_hash("f", {"y": 2, "x": 1}, "a")


def test_ids_of_calls_count_by_their_order() -> None:
    assert chat_hash(called("x", "y"), "a") == chat_hash(called("p", "q"), "a")
    swapped = called("x", "y")
    swapped["messages"][1:] = reversed(swapped["messages"][1:])
    assert chat_hash(swapped, "a") != chat_hash(called("x", "y"), "a")


def test_a_request_is_not_changed_by_its_hash() -> None:
    body = called("x")
    chat_hash(body, "a")
    assert body == called("x")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(), json_values)
def test_whatever_is_asked_has_a_hash(text: str, value: Any) -> None:
    body = {"messages": [{"role": "user", "content": text + "\ud83d"}], "extra": value}
    assert chat_hash(body, "a") == chat_hash(dict(reversed(body.items())), "a")


# --- The life of an entry -----------------------------------------------------------------------


@pytest.fixture
def entry(db: None) -> Entry:
    key = Key(ExecutionFactory().pk, "llm", "task", "0" * 64, 0)
    return Entry(key, "here#1", 1, "agent", uuid.uuid4())


def another(entry: Entry, holder: str = "there#1", attempt: int = 2) -> Entry:
    return replace(entry, holder=holder, attempt=attempt, call_id=uuid.uuid4(), pk=None)


def state(entry: Entry) -> str:
    found = journal.find(entry.key)
    return found.state if found else ""


def test_an_entry_is_taken_once(entry: Entry) -> None:
    journal.take(entry)
    with pytest.raises(Taken):
        journal.take(another(entry))
    assert JournalEntry.objects.get().holder == "here#1"


def test_an_answer_is_recorded_by_who_took_the_entry_last(entry: Entry) -> None:
    journal.take(entry)
    journal.let_go(entry)
    assert state(entry) == "lost"
    later = another(entry)
    journal.take(later)
    assert not journal.record(Record(entry, "m", "the first one's"))
    journal.let_go(entry)
    assert state(entry) == "open"
    assert journal.record(Record(later, "m", {"b": 1, "a": "\0"}))
    journal.let_go(later)
    found = journal.find(entry.key)
    assert found is not None
    assert (found.is_done, found.call_id, found.model, found.attempt) == (True, later.call_id, "m", 2)
    assert list(found.answer.items()) == [("b", 1), ("a", "\0")]
    with pytest.raises(Taken):
        journal.take(another(entry))


def test_a_holder_may_take_up_again_what_it_left_open(entry: Entry) -> None:
    journal.take(entry)
    again = another(entry, holder="here#1")
    journal.take(again)
    assert journal.record(Record(again, "m", 1))


def test_what_must_not_come_twice_is_not_taken_when_it_was_lost(entry: Entry) -> None:
    journal.take(entry, again=False)
    journal.let_go(entry)
    with pytest.raises(Taken):
        journal.take(another(entry), again=False)
    assert state(entry) == "lost"


def test_a_part_is_recorded_beside_its_request(entry: Entry) -> None:
    journal.take(entry)
    assert journal.record(Record(entry, "m", "decided", part="decision"))
    assert not journal.record(Record(entry, "m", "decided otherwise", part="decision"))
    part = journal.find(entry.key.part("decision"))
    assert part is not None
    assert part.answer == "decided"
    assert state(entry) == "open"


def test_what_a_transaction_did_not_store_was_not_taken(entry: Entry) -> None:
    with transaction.atomic():
        journal.take(entry)
        transaction.set_rollback(True)
    assert state(entry) == ""
    journal.let_go(entry)  # changes nothing
    journal.take(another(entry))
    assert state(entry) == "open"


def test_what_no_living_gateway_holds_is_lost(entry: Entry) -> None:
    living = presence.register("here")
    held = another(replace(entry, key=replace(entry.key, ordinal=1)), holder=living)
    for each in (entry, held):
        journal.take(each)
    assert journal.lose_orphans() == 1
    assert (state(entry), state(held)) == ("lost", "open")


@pytest.mark.django_db(transaction=True)
def test_of_many_at_once_one_takes_the_entry() -> None:
    key = Key(ExecutionFactory().pk, "llm", "task", "0" * 64, 0)
    outcomes: list[bool] = []

    def take(number: int) -> None:
        try:
            with transaction.atomic():
                journal.take(Entry(key, f"gateway#{number}", 1, "agent", uuid.uuid4()))
            outcomes.append(True)
        except Taken:
            outcomes.append(False)
        finally:
            connection.close()

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False] * 7 + [True]


# --- Who lives ----------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_new_life_ends_the_earlier_ones_of_the_same_name() -> None:
    first, elsewhere = presence.register("here"), presence.register("there")
    second = presence.register("here")
    assert set(GatewayInstance.objects.values_list("pk", flat=True)) == {second, elsewhere}
    assert not presence.renew(first)
    assert presence.renew(second)


@pytest.mark.django_db
def test_a_life_ends_when_its_lease_runs_out(settings: Any) -> None:
    settings.GATEWAY_LEASE_SECONDS = -1
    expired = presence.register("here")
    settings.GATEWAY_LEASE_SECONDS = 60
    living = presence.register("there")
    presence.end_expired()
    assert list(GatewayInstance.objects.values_list("pk", flat=True)) == [living]
    assert not presence.renew(expired)
