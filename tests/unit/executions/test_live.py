"""Watching: whatever is lost on the way, a watcher sees every event once, in order, and text without holes."""

import asyncio
import json
import random
import uuid
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer

from executions import events, live
from executions.events import NewEvent, append
from executions.models import LLMCall
from tests.deadlines import DEADLINE, wait_for_async
from tests.factories.executions import ExecutionFactory, LLMCallFactory, StreamFactory

pytestmark = pytest.mark.django_db(transaction=True)
NEVER = DEADLINE * 10  # a poll that does not come: only news can move the watcher


@pytest.fixture(autouse=True)
def silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """News moves only when a test says so."""
    monkeypatch.setattr(live, "publish", lambda *_: None)


@sync_to_async
def new_stream() -> uuid.UUID:
    return StreamFactory().id


@sync_to_async
def write(stream_id: uuid.UUID, *types: str) -> list[dict[str, Any]]:
    last = append(stream_id, [NewEvent(name) for name in types])
    return events.read(stream_id, last - len(types))


async def tell(stream_id: uuid.UUID, rows: list[dict[str, Any]], *, with_events: bool = True) -> None:
    """News of stored events, as it arrives at the web process."""
    message: dict[str, Any] = {"type": "stream.news", "stream": str(stream_id), "last": rows[-1]["seq"]}
    if with_events:
        message["events"] = rows
    await get_channel_layer().group_send(live.group_name(stream_id), message)


async def tell_delta(stream_id: uuid.UUID, call: object, offset: int, text: str) -> None:
    delta = {"call": str(call), "offset": offset, "text": text, "task": "t1", "role": "Writer"}
    message = {"type": "stream.news", "stream": str(stream_id), "delta": delta}
    await get_channel_layer().group_send(live.group_name(stream_id), message)


class Watcher:
    """Collects what one `follow` yields, until it ends or is cut."""

    def __init__(self, source: AsyncIterator[dict[str, Any]]) -> None:
        self.seen: list[dict[str, Any]] = []
        self._task = asyncio.create_task(self._run(source))

    async def _run(self, source: AsyncIterator[dict[str, Any]]) -> None:
        async for item in source:
            self.seen.append(item)

    @property
    def seqs(self) -> list[int]:
        return [item["seq"] for item in self.seen if "seq" in item]

    @property
    def text(self) -> str:
        return "".join(item["data"]["text"] for item in self.seen if item["type"] == "llm.delta")

    async def has(self, seqs: Iterable[int]) -> None:
        wanted = list(seqs)
        await wait_for_async(lambda: self.seqs == wanted, f"events {wanted}", on_timeout=lambda: str(self.seen))

    async def ended(self) -> None:
        await asyncio.wait_for(self._task, DEADLINE)

    async def cut(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_history_then_live_then_the_end() -> None:
    stream = await new_stream()
    await write(stream, "execution.queued", "execution.started")
    watcher = Watcher(live.follow(stream, poll_seconds=NEVER))
    await watcher.has([1, 2])
    await tell(stream, await write(stream, "task.started"))
    await watcher.has([1, 2, 3])
    await tell(stream, await write(stream, "task.completed", "execution.completed"))
    await watcher.ended()
    assert watcher.seqs == [1, 2, 3, 4, 5]


async def test_the_history_of_an_ended_run_ends_by_itself() -> None:
    stream = await new_stream()
    await write(stream, "execution.queued", "execution.stopped")
    watcher = Watcher(live.follow(stream, poll_seconds=NEVER))
    await watcher.ended()
    assert watcher.seqs == [1, 2]


async def test_a_retried_run_goes_on_after_its_first_end() -> None:
    stream = await new_stream()
    await write(stream, "execution.queued", "execution.failed", "execution.started")
    watcher = Watcher(live.follow(stream, poll_seconds=NEVER))
    await watcher.has([1, 2, 3])
    await tell(stream, await write(stream, "execution.completed"))
    await watcher.ended()


async def test_a_project_is_followed_to_its_end_and_beyond_a_restart() -> None:
    @sync_to_async
    def write_status(*statuses: str) -> None:
        append(stream, [NewEvent("status", data={"status": status}) for status in statuses])

    stream = await new_stream()
    await write(stream, "stage_started", "stage_completed")
    await write_status("review", "completed")
    watcher = Watcher(live.follow(stream, poll_seconds=NEVER))
    await watcher.ended()
    assert [row["type"] for row in watcher.seen] == ["stage_started", "stage_completed", "status", "status"]
    await write_status("in_progress", "cancelled")
    again = Watcher(live.follow(stream, after=4, poll_seconds=NEVER))
    await again.ended()
    assert [row["data"]["status"] for row in again.seen] == ["in_progress", "cancelled"]


async def test_a_history_longer_than_one_read_comes_whole() -> None:
    stream = await new_stream()
    await write(stream, *["log"] * 1205, "execution.completed")
    watcher = Watcher(live.follow(stream, poll_seconds=NEVER))
    await watcher.ended()
    assert watcher.seqs == list(range(1, 1207))


async def test_lost_news_is_read_from_the_log_at_the_next_news() -> None:
    stream = await new_stream()
    watcher = Watcher(live.follow(stream, poll_seconds=NEVER))
    await tell(stream, await write(stream, "execution.started"))
    await watcher.has([1])
    await write(stream, "task.started")  # nobody tells
    await tell(stream, await write(stream, "task.completed"))
    await watcher.has([1, 2, 3])
    await watcher.cut()


async def test_news_too_large_to_carry_its_events_is_read_from_the_log() -> None:
    stream = await new_stream()
    await write(stream, "execution.queued")
    watcher = Watcher(live.follow(stream, poll_seconds=NEVER))
    await watcher.has([1])
    await tell(stream, await write(stream, "log", "log"), with_events=False)
    await watcher.has([1, 2, 3])
    await watcher.cut()


async def test_without_any_news_the_log_is_looked_at_in_time() -> None:
    stream = await new_stream()
    watcher = Watcher(live.follow(stream, poll_seconds=0.05))
    await write(stream, "execution.started", "execution.completed")
    await watcher.ended()
    assert watcher.seqs == [1, 2]


async def test_news_twice_or_late_is_seen_once() -> None:
    stream = await new_stream()
    rows = await write(stream, "execution.queued", "execution.started", "task.started")
    watcher = Watcher(live.follow(stream, poll_seconds=NEVER))
    await watcher.has([1, 2, 3])
    await tell(stream, rows)
    await tell(stream, rows[1:])
    last = await write(stream, "execution.completed")
    await tell(stream, rows + last)
    await watcher.ended()
    assert watcher.seqs == [1, 2, 3, 4]


async def test_news_of_two_writers_in_the_wrong_order_is_put_right() -> None:
    stream = await new_stream()
    await write(stream, "execution.queued")
    watcher = Watcher(live.follow(stream, poll_seconds=NEVER))
    await watcher.has([1])
    earlier, later = await write(stream, "task.started"), await write(stream, "task.completed")
    await tell(stream, later)
    await tell(stream, earlier)
    await watcher.has([1, 2, 3])
    await watcher.cut()


async def test_a_watcher_that_comes_back_misses_nothing_and_sees_nothing_twice() -> None:
    """Cut again and again, each time after a few events, while a writer goes on; some of its news gets lost."""
    chance = random.Random(20)
    stream, seen, total, cuts = await new_stream(), [], 200, 0

    async def go_on() -> None:
        written = 0
        while written < total - 1:
            count = min(chance.randint(1, 4), total - 1 - written)
            written += count
            rows = await write(stream, *["log"] * count)
            if chance.random() < 0.7:
                await tell(stream, rows, with_events=chance.random() < 0.8)
        await write(stream, "execution.completed")

    writing = asyncio.create_task(go_on())
    while len(seen) < total:
        watcher = Watcher(live.follow(stream, seen[-1] if seen else 0, poll_seconds=0.02))
        wanted = min(chance.randint(1, 5), total - len(seen))
        await wait_for_async(lambda w=watcher, n=wanted: len(w.seqs) >= n, f"{wanted} more events", every=0.001)
        await watcher.cut()
        seen += watcher.seqs
        cuts += 1
    await writing
    assert seen == list(range(1, total + 1))
    assert cuts > 1


async def test_a_cut_watcher_leaves_its_group(settings: Any) -> None:
    if settings.REDIS_URL:
        pytest.skip("the layer in Redis keeps its groups to itself")
    stream = await new_stream()
    watcher = Watcher(live.follow(stream, poll_seconds=NEVER))
    await tell(stream, await write(stream, "execution.started"))
    await watcher.has([1])
    layer = get_channel_layer()
    assert layer.groups[live.group_name(stream)]
    await watcher.cut()
    assert live.group_name(stream) not in layer.groups


# --- Text as it streams -----------------------------------------------------------------------------


@sync_to_async
def open_call(text: str) -> LLMCall:
    return LLMCallFactory(execution=ExecutionFactory(), text=text, task="t1", role="Writer")


@sync_to_async
def save_text(call: LLMCall, text: str) -> None:
    LLMCall.objects.filter(pk=call.pk).update(text=text)


async def test_a_new_watcher_first_gets_the_text_so_far() -> None:
    call = await open_call("Once upon")
    watcher = Watcher(live.follow(call.execution_id, poll_seconds=NEVER))
    await wait_for_async(lambda: watcher.text == "Once upon", "the text so far")
    assert watcher.seen[0] == {
        "type": "llm.delta", "task": "t1", "role": "Writer",
        "data": {"call": str(call.call_id), "offset": 0, "text": "Once upon"},
    }  # fmt: skip
    await tell_delta(call.execution_id, call.call_id, 9, " a time")
    await wait_for_async(lambda: watcher.text == "Once upon a time", "the rest")
    await watcher.cut()


async def test_text_that_overlaps_is_cut_and_text_known_is_dropped() -> None:
    call = await open_call("Once upon")
    watcher = Watcher(live.follow(call.execution_id, poll_seconds=NEVER))
    await wait_for_async(lambda: watcher.text == "Once upon", "the text so far")
    await tell_delta(call.execution_id, call.call_id, 4, " upon")
    await tell_delta(call.execution_id, call.call_id, 5, "upon a")
    await tell_delta(call.execution_id, call.call_id, 11, " time")
    await wait_for_async(lambda: watcher.text == "Once upon a time", "the rest, without repetition")
    await watcher.cut()


async def test_a_hole_is_filled_from_the_ledger() -> None:
    call = await open_call("Once ")
    watcher = Watcher(live.follow(call.execution_id, poll_seconds=NEVER))
    await wait_for_async(lambda: watcher.text == "Once ", "the text so far")
    await tell_delta(call.execution_id, call.call_id, 10, "a")  # not saved yet: nothing can be shown
    await save_text(call, "Once upon a time")
    await tell_delta(call.execution_id, call.call_id, 11, " time")
    await wait_for_async(lambda: watcher.text == "Once upon a time", "the text without a hole")
    await watcher.cut()


async def test_whoever_wants_events_only_gets_no_text() -> None:
    call = await open_call("Once upon")
    watcher = Watcher(live.follow(call.execution_id, deltas=False, poll_seconds=NEVER))
    await tell_delta(call.execution_id, call.call_id, 9, " a time")
    await tell(call.execution_id, await write(call.execution_id, "execution.completed"))
    await watcher.ended()
    assert [item["type"] for item in watcher.seen] == ["execution.completed"]


# --- Without Redis: through the web process's socket -------------------------------------------------


async def test_news_travels_through_the_socket(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    if settings.REDIS_URL:
        pytest.skip("with Redis there is no socket")
    monkeypatch.undo()  # news goes out as in production
    server = await live.serve_socket()
    try:
        assert live.socket_path().stat().st_mode & 0o777 == 0o600
        stream = await new_stream()
        watcher = Watcher(live.follow(stream, poll_seconds=NEVER))
        await asyncio.sleep(0)
        await write(stream, "execution.started")
        await wait_for_async(lambda: watcher.seqs == [1], "the first event")
        live.publish_delta(stream, {"call": "c", "offset": 0, "text": "Once", "task": "", "role": ""})
        await wait_for_async(lambda: watcher.text == "Once", "the text")
        await write(stream, "execution.completed")
        await watcher.ended()
    finally:
        server.close()


async def test_what_is_not_news_does_not_end_the_socket(settings: Any) -> None:
    if settings.REDIS_URL:
        pytest.skip("with Redis there is no socket")
    server = await live.serve_socket()
    try:
        reader, writer = await asyncio.open_unix_connection(str(live.socket_path()))
        writer.write(b"no JSON\n")
        await asyncio.wait_for(reader.read(), DEADLINE)  # that connection is closed
        stream = await new_stream()
        watcher = Watcher(live.follow(stream, poll_seconds=NEVER))
        await watcher.has([])
        rows = await write(stream, "execution.completed")
        _, writer = await asyncio.open_unix_connection(str(live.socket_path()))
        writer.write(json.dumps({"stream": str(stream), "last": 1, "events": rows}).encode() + b"\n")
        await watcher.ended()
        writer.close()
    finally:
        server.close()
