"""Tools as a constrained decision."""

import json
from typing import Any

import pytest

from executions.gateway.tool_shim import MAX_CALLS, NoDecision, Shim, bounded


def tool(name: str, **parameters: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": parameters, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": f"{name} it", "parameters": schema}}


SEARCH, SUM = tool("search", query={"type": "string"}), tool("sum", a={"type": "integer"})


def called(name: str, arguments: dict[str, Any], number: int = 1) -> list[dict[str, Any]]:
    call = {"id": f"c{number}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
    result = {"role": "tool", "tool_call_id": f"c{number}", "content": f"result {number}"}
    return [{"role": "assistant", "content": None, "tool_calls": [call]}, result]


def body(*messages: dict[str, Any], tools: Any = (SEARCH, SUM), **more: Any) -> dict[str, Any]:
    asked = {"role": "user", "content": "Find out about rivers."}
    return {"messages": [asked, *messages], "tools": list(tools), "max_tokens": 900, **more}


def variants(shim: Shim) -> list[Any]:
    schema = shim.decision_request()["response_format"]["json_schema"]["schema"]
    found = schema.get("oneOf") or [schema]
    return [v["properties"].get("tool", {}).get("const", "answer") for v in found]


def test_each_tool_is_a_variant_and_so_is_the_answer() -> None:
    assert variants(Shim(body())) == ["search", "sum", "answer"]
    assert variants(Shim(body(tool_choice="required"))) == ["search", "sum"]
    forced = {"type": "function", "function": {"name": "sum"}}
    assert variants(Shim(body(tool_choice=forced))) == ["sum"]


def test_a_task_that_names_a_tool_begins_with_it() -> None:
    named = {"role": "user", "content": "Use sum."}
    assert variants(Shim(body(named))) == ["sum"]
    assert variants(Shim(body(named, *called("sum", {"a": 1})))) == ["search", "sum", "answer"]


def test_the_decision_asks_for_json_behind_the_unchanged_conversation() -> None:
    request = Shim(body(stop=["x"])).decision_request()
    assert request["messages"][0]["content"].startswith("Find out about rivers.")
    assert "- search(query): search it" in request["messages"][-1]["content"]
    assert request["temperature"] == 0
    assert not {"tools", "tool_choice", "stop"} & request.keys()


def test_a_decision_becomes_a_call() -> None:
    step = Shim(body()).decide('{"action": "tool", "tool": "search", "arguments": {"query": "강"}}')
    assert json.loads(step.as_call("call_1")["function"]["arguments"]) == {"query": "강"}
    assert Shim(body()).decide('{"action": "answer"}').tool == ""


@pytest.mark.parametrize(
    "text",
    ["Sure!", "[]", '{"action": "tool", "tool": "rm", "arguments": {}}', '{"action": "tool", "tool": "sum"}', "{}"],
)
def test_anything_else_is_no_decision(text: str) -> None:
    with pytest.raises(NoDecision):
        Shim(body()).decide(text)


def test_an_identical_call_is_not_made_twice() -> None:
    shim = Shim(body(*called("sum", {"a": 1})))
    assert shim.decide('{"action": "tool", "tool": "sum", "arguments": {"a": 1}}').tool == ""
    assert shim.decide('{"action": "tool", "tool": "sum", "arguments": {"a": 2}}').tool == "sum"
    twice = Shim(body(*called("sum", {"a": 1}), *called("sum", {"a": 1}, 2)))
    assert not twice.has_choice


def test_calls_have_a_limit() -> None:
    calls = [message for n in range(MAX_CALLS) for message in called("sum", {"a": n}, n)]
    assert Shim(body(*calls[:-2])).has_choice
    assert not Shim(body(*calls)).has_choice
    assert not Shim(body(tool_choice="none")).has_choice


def test_the_answer_sees_results_as_notes() -> None:
    request = Shim(body(*called("search", {"query": "Han"}))).answer_request()
    assert [message["role"] for message in request["messages"]] == ["user"]
    text = request["messages"][0]["content"]
    assert "search(Han): result 1" in text
    assert "Find out about rivers." in text
    assert request["max_tokens"] == 900
    assert "tools" not in request


def test_neighbours_of_one_role_become_one_message() -> None:
    more = [{"role": "user", "content": [{"type": "text", "text": "And lakes."}]}]
    request = Shim(body(*more, tools=())).answer_request()
    assert request["messages"] == [{"role": "user", "content": "Find out about rivers.\n\nAnd lakes."}]


def test_every_string_and_list_is_bounded_and_references_are_put_in_place() -> None:
    schema = {
        "type": "object",
        "title": "T",
        "$defs": {
            "Part": {"type": "object", "properties": {"name": {"type": "string"}, "next": {"$ref": "#/$defs/Part"}}}
        },
        "properties": {
            "parts": {"type": "array", "items": {"$ref": "#/$defs/Part"}},
            "kind": {"enum": ["a", "b"], "type": "string"},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
    }
    done = bounded(schema)
    text = json.dumps(done)
    assert "$ref" not in text
    assert "$defs" not in text
    assert done["properties"]["parts"]["maxItems"] > 0
    assert done["properties"]["parts"]["items"]["properties"]["name"]["maxLength"] > 0
    assert done["properties"]["note"]["anyOf"][0]["maxLength"] > 0
    assert "maxLength" not in done["properties"]["kind"]
    assert done["required"] == ["parts", "kind", "note"]
    assert done["additionalProperties"] is False
