"""Answers as they arrive: cut anywhere, merged to what a client would have got in one piece."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executions.errors import ErrorCode
from executions.gateway.answers import DONE, Answer, EventParser, Piece, event, is_json, pieces_of

USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


CHUNKS = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "안녕 "}),
    chunk({"content": "world 🙂"}),
    chunk({}, "stop"),
    {"id": "c", "model": "m", "choices": [], "usage": USAGE},
]
STREAM = b"".join(event(c) for c in CHUNKS) + DONE


def parse(parts: list[bytes]) -> tuple[EventParser, list[Piece]]:
    parser = EventParser()
    return parser, [piece for part in parts for piece in parser.feed(part)]


@given(st.lists(st.integers(1, len(STREAM) - 1), max_size=8), st.booleans())
def test_a_stream_may_be_cut_anywhere(cuts: list[int], crlf: bool) -> None:
    stream = STREAM.replace(b"\n", b"\r\n") if crlf else STREAM
    edges = [0, *sorted(cuts), len(stream)]
    parser, pieces = parse([stream[a:b] for a, b in pairwise(edges)])
    assert parser.done
    assert parser.fault is None
    assert [piece.chunk for piece in pieces] == CHUNKS


def test_nothing_passes_before_the_first_token_or_after_the_end() -> None:
    _, pieces = parse([STREAM])
    answer = Answer()
    assert answer.take(pieces[:1]) == (b"", "")
    passed, text = answer.take(pieces[1:2])
    assert passed == pieces[0].raw + pieces[1].raw
    assert text == "안녕 "
    assert answer.take(pieces[2:]) == (pieces[2].raw, "world 🙂")
    ending = answer.ending(USAGE)
    assert ending.startswith(pieces[3].raw)
    assert ending.endswith(DONE)
    assert ending.count(b'"usage"') == 1


def test_an_answer_without_a_token_passes_nothing_on() -> None:
    answer = Answer()
    assert answer.take([Piece(event(c), c) for c in (CHUNKS[0], CHUNKS[3])]) == (b"", "")
    assert answer.is_empty


def test_pieces_make_the_completion_that_they_were_cut_from() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    message = {"role": "assistant", "content": "text", "reasoning_content": "hm", "tool_calls": [call]}
    whole = {
        "id": "c",
        "created": 5,
        "model": "m",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
        "usage": USAGE,
    }
    answer = Answer()
    answer.take(pieces_of(whole))
    assert answer.completion(USAGE) == whole
    assert answer.usage == USAGE


def test_tool_calls_that_come_in_parts_are_put_together() -> None:
    parts = [
        {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"x":'}},
        {"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}},
        {"index": 0, "function": {"arguments": " 1}"}},
    ]
    answer = Answer()
    answer.take([Piece(b"", chunk({"tool_calls": [part]})) for part in parts])
    calls = [(c["id"], c["type"], c["function"]) for c in answer.tool_calls]
    assert calls == [
        ("a", "function", {"name": "f", "arguments": '{"x": 1}'}),
        ("b", "function", {"name": "g", "arguments": "{}"}),
    ]
    assert not answer.is_empty


def test_thoughts_alone_are_no_answer() -> None:
    answer = Answer()
    answer.take([Piece(b"", chunk({"reasoning_content": "hm"})), Piece(b"", chunk({}, "stop"))])
    assert answer.started
    assert answer.is_empty


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"data: {broken\n\n", ErrorCode.LLM_UNAVAILABLE),
        (b"data: [1]\n\n", ErrorCode.LLM_UNAVAILABLE),
        (b'data: {"error": {"message": "slow down", "code": 429}}\n\n', ErrorCode.LLM_RATE_LIMITED),
        (b'data: {"error": {"message": "x", "code": "context_length_exceeded"}}\n\n', ErrorCode.CONTEXT_TOO_LONG),
    ],
)
def test_what_is_no_chunk_is_a_fault_after_what_came_before(raw: bytes, code: ErrorCode) -> None:
    parser, pieces = parse([event(CHUNKS[1]) + raw])
    assert len(pieces) == 1
    assert parser.fault is not None
    assert parser.fault.code == code


def test_comments_and_other_fields_are_left_out() -> None:
    parser, pieces = parse([b": ping\n\n", b"event: x\nid: 1\ndata: " + json.dumps(CHUNKS[1]).encode() + b"\n\n"])
    assert [piece.chunk for piece in pieces] == [CHUNKS[1]]
    assert parser.fault is None


def test_halves_of_surrogate_pairs_do_no_harm() -> None:
    _, pieces = parse([b'data: {"choices": [{"delta": {"content": "\\ud83d"}}]}\n\n'])
    assert len(pieces) == 1


@pytest.mark.parametrize(
    ("text", "good"),
    [('{"a": 1}', True), ("```json\n[1]\n```", True), (" 3 ", True), ("Sure!", False), ('{"a": ', False), ("", False)],
)
def test_json_is_told_from_prose(text: str, good: bool) -> None:
    assert is_json(text) is good
