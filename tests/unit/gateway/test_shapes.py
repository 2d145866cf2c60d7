"""Which requests the gateway takes for OpenAI's, and which it refuses before anything is stored."""

from typing import Any

import pytest

from executions.gateway import shapes
from executions.gateway.accounts import characters_of, verdict_on
from executions.gateway.answers import Answer, Piece
from executions.gateway.bounds import prompt_bound
from executions.gateway.faults import Refusal
from executions.gateway.tool_shim import Shim

HELLO = {"role": "user", "content": "hello"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "look", **function}}


def said(**message: Any) -> dict[str, Any]:
    return {"messages": [HELLO, {"role": "assistant", **message}]}


BAD = [
    ("messages", {}),
    ("messages", {"messages": "hello"}),
    ("messages", {"messages": []}),
    ("messages", {"messages": ["hello"]}),
    ("messages", {"messages": [{"content": "hello"}]}),
    ("messages", said(content=5)),
    ("messages", said(content={"text": "hello"})),
    ("messages", said(content=["hello"])),
    ("messages", said(content=[{"type": "text", "text": 5}])),
    ("messages", said(tool_calls=5)),
    ("messages", said(tool_calls={"id": "call_1"})),
    ("messages", said(tool_calls=["look"])),
    ("messages", said(tool_calls=[{**CALL, "id": ["call_1"]}])),
    ("messages", said(tool_calls=[{**CALL, "function": "look"}])),
    ("messages", said(tool_calls=[{**CALL, "function": {"arguments": "{}"}}])),
    ("messages", said(tool_calls=[{**CALL, "function": {"name": "look", "arguments": {}}}])),
    ("messages", {"messages": [{"role": "tool", "tool_call_id": {}, "content": "found"}]}),
    ("stream_options", {"stream_options": "x"}),
    ("stream_options", {"stream_options": [1]}),
    ("response_format", {"response_format": "json_object"}),
    ("response_format", {"response_format": {"type": ["json_object"]}}),
    ("tools", {"tools": "look"}),
    ("tools", {"tools": ["look"]}),
    ("tools", {"tools": [{"type": "function", "function": "look"}]}),
    ("tools", {"tools": [{"type": "function", "function": {"description": "Looks."}}]}),
    ("tools", {"tools": [tool(description=5)]}),
    ("tools", {"tools": [tool(parameters=[])]}),
    ("tool_choice", {"tool_choice": 5}),
    ("tool_choice", {"tool_choice": {"type": "function", "function": "look"}}),
    ("tool_choice", {"tool_choice": {"type": "function", "function": {}}}),
    ("n", {"n": 0}),
    ("n", {"n": True}),
    ("n", {"n": 2**63}),
]
GOOD: list[dict[str, Any]] = [
    {},
    said(content=None, tool_calls=[CALL]),
    said(content=None, tool_calls=[{"id": None, "type": "custom", "custom": {"name": "look", "input": "here"}}]),
    said(content="", tool_calls=None),
    said(
        content=[{"type": "text", "text": None}, {"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]
    ),
    {"messages": [HELLO, {"role": "tool", "tool_call_id": "call_1", "content": "found"}]},
    {"stream_options": None, "response_format": None, "tools": None, "tool_choice": None, "n": None},
    {"stream_options": {}, "response_format": {"type": "text"}, "n": 2},
    {"tools": [{"type": "custom", "custom": {"name": "look"}}], "tool_choice": {"type": "custom"}},
    {"tools": [tool(description=None, parameters=None)], "tool_choice": "auto"},
    {"tools": [tool(parameters={"type": "object", "properties": 5, "anyOf": 5, "$ref": 5})]},
    {"tools": [tool()], "tool_choice": {"type": "function", "function": {"name": "look"}}},
]


@pytest.mark.parametrize(("param", "body"), BAD)
def test_what_cannot_be_read_is_refused_and_named(param: str, body: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as refused:
        shapes.require({"messages": [HELLO], **body} if body else {})
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, "invalid_input", param)


@pytest.mark.parametrize("body", GOOD)
def test_all_that_is_taken_can_be_read(body: dict[str, Any]) -> None:
    body = {"messages": [HELLO], **body}
    shapes.require(body)
    assert characters_of(body) <= prompt_bound(body)
    answer = Answer()
    chunk = {"choices": [{"index": 0, "delta": {"content": "hi"}}], "usage": "no object"}
    answer.take([Piece(b"", chunk)])
    assert (verdict_on(body, answer), answer.usage) == (None, None)
    shim = Shim(body)
    assert shim.answer_request()["messages"]
    if shim.has_choice:
        assert shim.decision_request()["messages"]
