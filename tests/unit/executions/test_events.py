"""The event log: numbered from 1 without gaps, in the order of commits, whoever writes at once."""

import threading
import uuid
from datetime import UTC, datetime

import pytest
from django.db import IntegrityError, connection, transaction

from executions import events, live
from executions.events import NewEvent, append, read
from executions.models import EventStream, ExecutionEvent
from tests.deadlines import DEADLINE
from tests.factories.executions import StreamFactory

AT = datetime(2026, 7, 1, 12, 0, 0, 123456, tzinfo=UTC)


def seqs(stream_id: uuid.UUID) -> list[int]:
    return list(ExecutionEvent.objects.filter(stream=stream_id).order_by("id").values_list("seq", flat=True))


@pytest.mark.django_db
def test_events_are_numbered_from_one_across_calls() -> None:
    stream = StreamFactory()
    append(stream.id, [NewEvent("execution.queued")])
    assert append(stream.id, [NewEvent("task.started", task="t", role="Writer", data={"n": 1}), NewEvent("log")]) == 3
    assert seqs(stream.id) == [1, 2, 3]
    assert EventStream.objects.get(pk=stream.pk).last_seq == 3


@pytest.mark.django_db
def test_streams_count_for_themselves() -> None:
    one, other = StreamFactory(), StreamFactory()
    append(one.id, [NewEvent("log"), NewEvent("log")])
    append(other.id, [NewEvent("log")])
    assert (seqs(one.id), seqs(other.id)) == ([1, 2], [1])


@pytest.mark.django_db
def test_an_event_leaves_in_its_one_shape() -> None:
    stream = StreamFactory()
    append(stream.id, [NewEvent("task.completed", task="t1", role="Writer", data={"output": "x"}), NewEvent("log")])
    first, second = read(stream.id)
    assert first == {
        "seq": 1, "type": "task.completed", "at": first["at"], "task": "t1", "role": "Writer", "data": {"output": "x"},
    }  # fmt: skip
    assert second.keys() == {"seq", "type", "at", "data"}


@pytest.mark.django_db
def test_reading_goes_on_after_what_was_seen() -> None:
    stream = StreamFactory()
    append(stream.id, [NewEvent("log", data={"n": n}) for n in range(5)])
    assert [event["seq"] for event in read(stream.id, after=3)] == [4, 5]
    assert [event["seq"] for event in read(stream.id, after=1, limit=2)] == [2, 3]
    assert read(stream.id, after=5) == []


@pytest.mark.django_db
def test_appending_nothing_asks_nothing(django_assert_num_queries: object) -> None:
    stream = StreamFactory()
    with django_assert_num_queries(0):  # type: ignore[operator]
        assert append(stream.id, []) == 0


@pytest.mark.django_db
def test_appending_takes_two_queries_however_many_events(django_assert_num_queries: object) -> None:
    stream = StreamFactory()
    with transaction.atomic(), django_assert_num_queries(2):  # type: ignore[operator]
        append(stream.id, [NewEvent("log")] * 50)  # number, insert


@pytest.mark.django_db
@pytest.mark.parametrize("count", [1, 2, 3000])
def test_one_event_or_many_are_stored_alike(count: int) -> None:
    stream = StreamFactory()
    data = {"text": "a\tb\nc\\ “d” 한", "n": 1.5, "big": 2**62, "none": None, "list": [{}, [True]], "\\N": "\\u0000"}
    append(stream.id, [NewEvent("log", data, task="\\t", role="Wri\tter\\", attempt=7, at=AT)] * count)
    wanted = {"type": "log", "at": AT.isoformat(), "task": "\\t", "role": "Wri\tter\\", "data": data}
    assert read(stream.id, limit=5000) == [{"seq": seq, **wanted} for seq in range(1, count + 1)]
    assert set(ExecutionEvent.objects.filter(stream=stream).values_list("attempt", flat=True)) == {7}


@pytest.mark.django_db
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("said", "stored"),
    [
        ("a\0b", "ab"),
        ("a\ud83db", "a?b"),
        (float("nan"), None),
        (["\0"], [""]),
        ({"a\0": 1}, {"a": 1}),
        (2**70, str(2**70)),
    ],
)
def test_what_has_no_place_in_a_database_costs_no_run_its_events(said: object, stored: object, count: int) -> None:
    stream = StreamFactory()
    append(stream.id, [NewEvent("log", {"said": said})] * count)
    assert [event["data"] for event in read(stream.id)] == [{"said": stored}] * count


@pytest.mark.django_db
def test_lists_in_lists_in_lists_are_cut_off() -> None:
    deep: list[object] = []
    for _ in range(900):
        deep = [deep]
    stream = StreamFactory()
    append(stream.id, [NewEvent("log", {"said": deep})])
    found, levels = read(stream.id)[0]["data"]["said"], 0
    while isinstance(found, list):
        (found,), levels = found, levels + 1
    assert (found, levels) == ("…", events.MAX_LEVELS - 1)


@pytest.mark.django_db
def test_there_is_no_stream_by_accident() -> None:
    with pytest.raises(EventStream.DoesNotExist):
        append(uuid.uuid4(), [NewEvent("log")])


@pytest.mark.parametrize("name", ["llm.delta", "task.begun", ""])
def test_only_known_types_are_stored(name: str) -> None:
    with pytest.raises(ValueError, match="not an event type"):
        NewEvent(name)


@pytest.mark.django_db
def test_what_is_rolled_back_leaves_no_gap_and_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(live, "publish", lambda *news: told.append(news))
    stream = StreamFactory()
    with transaction.atomic():
        append(stream.id, [NewEvent("log"), NewEvent("log")])
        transaction.set_rollback(True)
    append(stream.id, [NewEvent("log")])
    assert seqs(stream.id) == [1]
    assert told == []  # the test's own transaction has not committed either


@pytest.mark.django_db(transaction=True)
def test_news_goes_out_after_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[object, ...]] = []
    monkeypatch.setattr(live, "publish", lambda *news: told.append(news))
    stream = StreamFactory()
    with transaction.atomic():
        append(stream.id, [NewEvent("log", data={"n": 1}), NewEvent("log", task="t", role="Writer", at=AT)])
        assert told == []
    assert told == [(stream.id, 2, read(stream.id))]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("batch", [[{"text": "x" * 80_000}], [{}] * 500])
def test_news_that_is_large_goes_out_without_its_events(
    batch: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[object, ...]] = []
    monkeypatch.setattr(live, "publish", lambda *news: told.append(news))
    stream = StreamFactory()
    append(stream.id, [NewEvent("log", data) for data in batch])
    assert told == [(stream.id, len(batch), [])]


@pytest.mark.django_db
def test_a_number_is_given_once() -> None:
    stream = StreamFactory()
    append(stream.id, [NewEvent("log")])
    with pytest.raises(IntegrityError), transaction.atomic():
        ExecutionEvent.objects.create(stream=stream, seq=1, type="log", at=AT)
    with pytest.raises(IntegrityError), transaction.atomic():
        ExecutionEvent.objects.create(stream=stream, seq=0, type="log", at=AT)


@pytest.mark.django_db(transaction=True)
def test_writers_at_once_leave_no_gap_and_commit_in_order() -> None:
    """Readers beside them never see a number before the ones below it."""
    writers, batches = 6, 12
    stream = StreamFactory()
    ready, holes, failed = threading.Barrier(writers + 1), [], []
    done = threading.Event()

    def write(writer: int) -> None:
        try:
            ready.wait(DEADLINE)
            for batch in range(batches):
                append(
                    stream.id, [NewEvent("log", data={"w": writer, "b": batch, "i": i}) for i in range(1 + batch % 3)]
                )
        except Exception as exc:  # noqa: BLE001 - whatever it is, the test must hear of it
            failed.append(exc)
        finally:
            connection.close()

    def watch() -> None:
        ready.wait(DEADLINE)
        while not done.wait(0.002):
            seen = sorted(ExecutionEvent.objects.filter(stream=stream).values_list("seq", flat=True))
            if seen != list(range(1, len(seen) + 1)):
                holes.append(seen)
        connection.close()

    threads = [threading.Thread(target=write, args=(n,)) for n in range(writers)]
    watcher = threading.Thread(target=watch)
    for thread in (*threads, watcher):
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    done.set()
    watcher.join(DEADLINE)
    assert failed == []
    assert holes == []
    total = writers * sum(1 + batch % 3 for batch in range(batches))
    stored = events.read(stream.id)
    assert [event["seq"] for event in stored] == list(range(1, total + 1))
    for writer in range(writers):  # each writer's own events stand in its order
        mine = [(event["data"]["b"], event["data"]["i"]) for event in stored if event["data"]["w"] == writer]
        assert mine == sorted(mine)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("type_", "data", "is_last"),
    [
        ("execution.completed", {}, True),
        ("execution.failed", {}, True),
        ("execution.stopped", {}, True),
        ("execution.paused", {}, False),
        ("stage_completed", {}, False),
        ("progress", {"status": "completed"}, False),
        ("status", {"status": "completed"}, True),
        ("status", {"status": "cancelled"}, True),
        ("status", {"status": "failed"}, False),
        ("status", {}, False),
    ],
)
def test_a_stream_rests_after_the_end_of_its_run_or_project(type_: str, data: dict[str, str], is_last: bool) -> None:
    stream = StreamFactory()
    append(stream.id, [NewEvent(type_, data=data)])
    (event,) = events.read(stream.id)
    assert events.is_last(event) is is_last
