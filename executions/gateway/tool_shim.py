"""Tools for models without native tool calls: a constrained decision, then a free answer.

One request with tools becomes at most two upstream. The first asks, over the conversation's own
prefix (so the model's cache holds), for the next step as JSON under a `oneOf` schema: one variant a
tool, and `answer`. A tool's variant goes back to the client as a native tool call. `answer` leads to
the second request, in plain text: long Markdown is not squeezed into JSON, and it streams.

Small models loop, so an identical call is not made twice, and after `MAX_CALLS` results only the
answer is left. Every string and list of a tool's schema is bounded, else they fill it without end.
"""

import json
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]

MAX_CALLS = 4
MAX_RESULT = 2500  # characters of a tool's result that the model is shown
MAX_DESCRIPTION = 300
DECISION_TOKENS = 400
_MAX_STRING = 200
_MAX_ITEMS = 8
_MAX_DEPTH = 6  # of references within each other
_WITHOUT_MEANING = {"title", "default", "description", "$schema", "examples", "$defs", "definitions"}
# Tools and what belongs to the client's own form of the request.
_OWN = {"tools", "tool_choice", "parallel_tool_calls", "functions", "function_call", "messages"}


class NoDecision(ValueError):
    """What the model wrote is no step that it was offered."""


@dataclass(frozen=True)
class Step:
    """The model's decision: a call of a tool, or to answer (`tool` is empty)."""

    tool: str
    arguments: dict[str, Any]

    def as_call(self, call_id: str) -> dict[str, Any]:
        """As a native tool call of OpenAI's form."""
        arguments = json.dumps(self.arguments, ensure_ascii=False)
        return {"id": call_id, "type": "function", "function": {"name": self.tool, "arguments": arguments}}


class Shim:
    """One request with tools, for a model that has none."""

    def __init__(self, body: dict[str, Any]) -> None:
        self._body = body
        self._rest = {key: value for key, value in body.items() if key not in _OWN}
        self._messages, self._done = _flattened(body["messages"])
        choice = body.get("tool_choice") or "auto"
        tools = body.get("tools") or []
        self._functions = [] if choice == "none" else [tool["function"] for tool in tools if tool.get("function")]
        self._forced = choice["function"]["name"] if isinstance(choice, dict) and choice.get("function") else ""
        self._required = choice == "required"

    @property
    def has_choice(self) -> bool:
        """Whether a decision is to be asked for, and not just an answer."""
        return bool(self._functions) and len(self._done) < MAX_CALLS and len(set(self._done)) == len(self._done)

    def decision_request(self) -> dict[str, Any]:
        """The upstream request for the next step."""
        variants = [_variant(function) for function in self._offered()]
        if not (self._required or self._forced or self._must_call()):
            variants.append(_object({"action": {"const": "answer"}}))
        schema = variants[0] if len(variants) == 1 else {"type": "object", "oneOf": variants}
        messages = [dict(message) for message in self._messages]
        messages[-1]["content"] += self._instruction()
        rest = {key: value for key, value in self._rest.items() if key not in {"stop", "n", "stream_options"}}
        return {
            **rest,
            "messages": messages,
            "temperature": 0,
            "max_tokens": DECISION_TOKENS,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "step", "strict": True, "schema": schema},
            },
        }

    def decide(self, text: str) -> Step:
        """What the model decided. A call that was made before means: answer. Raises `NoDecision`."""
        try:
            data = json.loads(text, strict=False)
        except ValueError as exc:
            raise NoDecision("not JSON") from exc
        if not isinstance(data, dict) or data.get("action") not in {"tool", "answer"}:
            raise NoDecision("no step")
        if data["action"] == "answer":
            return Step("", {})
        name, arguments = str(data.get("tool")), data.get("arguments")
        if name not in {function["name"] for function in self._functions} or not isinstance(arguments, dict):
            raise NoDecision("no tool that was offered")
        if (name, _canonical(arguments)) in self._done:
            return Step("", {})
        return Step(name, arguments)

    def answer_request(self) -> dict[str, Any]:
        """The upstream request for the answer. Results stand in it as notes: after turns of JSON, models write JSON."""
        if not self._done:
            return {**self._rest, "messages": self._messages}
        return {**self._rest, "messages": _with_notes(self._body["messages"])}

    def _offered(self) -> list[dict[str, Any]]:
        if self._forced:
            return [function for function in self._functions if function["name"] == self._forced] or self._functions
        return self._named() if self._must_call() else self._functions

    def _named(self) -> list[dict[str, Any]]:
        asked = "\n".join(message["content"] for message in self._messages if message["role"] != "assistant")
        return [function for function in self._functions if function["name"] in asked]

    def _must_call(self) -> bool:
        """A task that names a tool begins with it: small models are too eager to answer."""
        return not self._done and bool(self._named())

    def _instruction(self) -> str:
        lines = []
        for function in self._functions:
            names = ", ".join(_properties(function.get("parameters") or {}))
            described = " ".join((function.get("description") or "").split())[:MAX_DESCRIPTION]
            lines.append(f"- {function['name']}({names}): {described}")
        return (
            "\n\nTools:\n" + "\n".join(lines) + "\nDo not answer yet. Decide the next step as JSON. "
            "If the task asks for a tool call that was not made yet: "
            '{"action":"tool","tool":name,"arguments":{...}}. '
            'If all results the task asks for are above: {"action":"answer"}.'
        )


def bounded(schema: Any, root: Any = None, depth: int = 0) -> Any:
    """A tool's schema with a limit on every string and list, without keywords that mean nothing to a grammar.

    References are put in place, since the schema becomes a part of another; what refers to itself is cut off.
    """
    if not isinstance(schema, dict):
        return schema
    root = root or schema
    if isinstance(schema.get("$ref"), str):
        return bounded(_referred(schema["$ref"], root), root, depth + 1) if depth < _MAX_DEPTH else {"type": "string"}
    out = {key: value for key, value in schema.items() if key not in _WITHOUT_MEANING}
    for key in ("anyOf", "oneOf", "allOf"):
        if isinstance(out.get(key), list):
            out[key] = [bounded(part, root, depth) for part in out[key]]
    kind = out.get("type")
    if kind == "string" and not {"enum", "const"} & out.keys():
        out.setdefault("maxLength", _MAX_STRING)
    elif kind == "array":
        out["items"] = bounded(out.get("items") or {"type": "string"}, root, depth)
        out.setdefault("maxItems", _MAX_ITEMS)
    elif kind == "object" or "properties" in out:
        properties = {name: bounded(part, root, depth) for name, part in _properties(out).items()}
        out |= {"type": "object", "properties": properties, "additionalProperties": False}
        out.setdefault("required", list(properties))
    return out


def _properties(schema: dict[str, Any]) -> dict[str, Any]:
    found = schema.get("properties")
    return found if isinstance(found, dict) else {}


def _referred(reference: str, root: Any) -> Any:
    found = root
    for step in reference.removeprefix("#/").split("/"):
        found = found.get(step) if isinstance(found, dict) else None
    return found or {"type": "string"}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _variant(function: dict[str, Any]) -> dict[str, Any]:
    arguments = bounded(function.get("parameters") or {"type": "object"})
    return _object({"action": {"const": "tool"}, "tool": {"const": function["name"]}, "arguments": arguments})


def _text(message: Message) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(part.get("text") or "" for part in content if isinstance(part, dict))
    return content or ""


def _calls(message: Message) -> list[dict[str, Any]]:
    """The calls of functions that the model made; those of other kinds have no place in a schema."""
    made = message.get("tool_calls") if message["role"] == "assistant" else None
    return [call for call in made or () if call.get("function")]


def _arguments(call: dict[str, Any]) -> dict[str, Any]:
    try:
        parsed = json.loads(call["function"].get("arguments") or "{}")
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _canonical(arguments: dict[str, Any]) -> str:
    return json.dumps(arguments, sort_keys=True)


def _merged(messages: list[Message]) -> list[Message]:
    """Neighbours of one role as one message: chat templates want the roles to take turns."""
    out: list[Message] = []
    for message in messages:
        if out and out[-1]["role"] == message["role"]:
            out[-1]["content"] += "\n\n" + message["content"]
        else:
            out.append(dict(message))
    return out


def _flattened(messages: list[Message]) -> tuple[list[Message], list[tuple[str, str]]]:
    """The conversation without tool roles, and the calls that were made in it."""
    out: list[Message] = []
    done: list[tuple[str, str]] = []
    names: dict[str, str] = {}
    for message in messages:
        calls = _calls(message)
        for call in calls:
            name, arguments = call["function"]["name"], _arguments(call)
            names[call.get("id", "")] = name
            done.append((name, _canonical(arguments)))
            step = {"action": "tool", "tool": name, "arguments": arguments}
            out.append({"role": "assistant", "content": json.dumps(step, ensure_ascii=False)})
        if message["role"] == "tool":
            name = names.get(message.get("tool_call_id", ""), "the tool")
            out.append({"role": "user", "content": f"Result of {name}:\n{_text(message)[:MAX_RESULT]}"})
        elif not calls:
            out.append({"role": message["role"], "content": _text(message)})
    return _merged(out), done


def _with_notes(messages: list[Message]) -> list[Message]:
    """The conversation with the tools' results as notes in the last message of the user."""
    names: dict[str, str] = {}
    notes: list[str] = []
    out: list[Message] = []
    for message in messages:
        calls = _calls(message)
        for call in calls:
            values = ", ".join(str(value) for value in _arguments(call).values())
            names[call.get("id", "")] = f"{call['function']['name']}({values})"
        if message["role"] == "tool":
            name = names.get(message.get("tool_call_id", ""), "tool")
            notes.append(f"{name}: {_text(message)[:MAX_RESULT]}")
        elif not calls:
            out.append({"role": message["role"], "content": _text(message)})
    note = "Notes already collected with the tools (do not call tools any more):\n" + "\n".join(notes)
    last = next((message for message in reversed(out) if message["role"] == "user"), None)
    if last is None:
        out.append({"role": "user", "content": note})
    else:
        last["content"] = f"{note}\n\n{last['content']}\n\nWrite the final answer now, as plain Markdown text."
    return _merged(out)
