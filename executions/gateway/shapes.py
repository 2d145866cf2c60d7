"""What of a request the gateway itself reads, and the form that OpenAI's protocol gives it.

It is looked at before anything is stored. All the rest is the provider's to judge.
"""

from collections.abc import Callable
from typing import Any

from executions.gateway.faults import Refusal

MOST_ANSWERS = 128  # to one request, as OpenAI has it: what is reserved for a call is a multiple of it


def require(body: dict[str, Any]) -> None:
    """Raise `Refusal` for a request that cannot be read."""
    if not _are_messages(body.get("messages")):
        sentence = "“messages” must be a list of messages, each with a role, and with a text or parts as its content."
        raise Refusal(400, "invalid_input", sentence, param="messages")
    for name, (has_form, form) in _FORMS.items():
        if (value := body.get(name)) is not None and not has_form(value):
            raise Refusal(400, "invalid_input", f"“{name}” must be {form}.", param=name)


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_message(message) for message in value)


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("role"), str)
        and _is_content(value.get("content"))
        and isinstance(value.get("tool_call_id"), str | None)
        and _are_objects(value.get("tool_calls") or [], _is_call)
    )


def _is_content(value: Any) -> bool:
    return isinstance(value, str | None) or _are_objects(value, lambda part: isinstance(part.get("text"), str | None))


def _is_call(value: dict[str, Any]) -> bool:
    function = value.get("function")
    return isinstance(value.get("id"), str | None) and (
        function is None or (_is_named(function) and isinstance(function.get("arguments"), str | None))
    )


def _is_tool(value: dict[str, Any]) -> bool:
    function = value.get("function")
    return function is None or (
        _is_named(function)
        and isinstance(function.get("description"), str | None)
        and isinstance(function.get("parameters"), dict | None)
    )


def _is_choice(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, dict) and (value.get("function") is None or _is_named(value["function"]))
    )


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("name"), str)


def _are_objects(value: Any, has_form: Callable[[dict[str, Any]], bool]) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) and has_form(item) for item in value)


_FORMS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "stream_options": (lambda value: isinstance(value, dict), "an object"),
    "response_format": (
        lambda value: isinstance(value, dict) and isinstance(value.get("type"), str | None),
        "an object with a type",
    ),
    "tools": (lambda value: _are_objects(value, _is_tool), "a list of tools"),
    "tool_choice": (_is_choice, "a word, or an object that names a function"),
    "n": (
        lambda value: isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_ANSWERS,
        f"a number from 1 to {MOST_ANSWERS}",
    ),
}
