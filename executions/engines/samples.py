"""Values that obey a JSON schema: what a rehearsal's model answers, and that of the tests."""

import importlib
from typing import Any

_PREFERRED = "a2A가 "  # of the characters that a pattern allows
_MANY = 1 << 16


def example(schema: Any, root: Any = None) -> Any:
    """About the smallest value that obeys a JSON schema; always the same for the same schema."""
    root = root or schema
    if not isinstance(schema, dict):
        return "2"
    if "$ref" in schema:
        found: Any = root
        for step in schema["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        return example(found, root)
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    for key in ("enum", "examples"):
        if schema.get(key):
            return schema[key][0]
    for key in ("oneOf", "anyOf", "allOf"):
        if schema.get(key):
            return example(schema[key][0], root)
    kind = schema.get("type") or ("object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        properties = schema.get("properties") or {}
        names = properties if schema.get("required") is None else schema["required"]
        return {name: example(properties.get(name), root) for name in names}
    if kind == "array":
        return [example(schema.get("items"), root)] * max(1, schema.get("minItems", 1))
    if kind == "string" and "pattern" in schema:
        return matching(schema["pattern"], schema.get("minLength", 1))
    simple = {"integer": schema.get("minimum", 1), "number": schema.get("minimum", 1), "boolean": True, "null": None}
    return simple.get(kind, "2" * max(1, schema.get("minLength", 1)))


def matching(pattern: str, least: int = 1) -> str:
    """A short text that matches a regular expression, of at least `least` characters where it allows that."""
    parser: Any = importlib.import_module("re._parser")  # Python's own, which has no public name
    tree = parser.parse(pattern)
    for more in range(max(1, least) + 1):  # repetitions above their lowest number, until it is long enough
        text = "".join(_of(str(kind), value, more) for kind, value in tree)
        if len(text) >= least:
            return text
    return text


def _of(kind: str, value: Any, more: int) -> str:
    if kind == "LITERAL":
        return chr(value)
    if kind in {"IN", "ANY", "NOT_LITERAL", "CATEGORY"}:
        return _letter(kind, value)
    if kind in {"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"}:
        low, high, inner = value
        return "".join(_of(str(k), v, more) for k, v in inner) * min(low + more, int(high), _MANY)
    if kind == "SUBPATTERN":
        return "".join(_of(str(k), v, more) for k, v in value[-1])
    if kind == "BRANCH":
        return "".join(_of(str(k), v, more) for k, v in value[1][0])
    return ""  # a position


def _letter(kind: str, value: Any) -> str:
    if kind != "IN":
        return "a" if kind != "NOT_LITERAL" or value != ord("a") else "b"
    tests = [(str(name), what) for name, what in value]
    allowed = not any(name == "NEGATE" for name, _ in tests)

    def is_in(letter: str) -> bool:
        code = ord(letter)
        found = any(
            (name == "LITERAL" and code == what)
            or (name == "RANGE" and what[0] <= code <= what[1])
            or (name == "CATEGORY" and _is_of(str(what), letter))
            for name, what in tests
        )
        return found == allowed

    every = (chr(code) for code in (*map(ord, _PREFERRED), *range(33, _MANY)))
    return next((letter for letter in every if is_in(letter)), "a")


def _is_of(category: str, letter: str) -> bool:
    name = category.removeprefix("CATEGORY_")
    is_positive = not name.startswith("NOT_")
    known = {
        "DIGIT": letter.isdigit(),
        "WORD": letter.isalnum() or letter == "_",
        "SPACE": letter.isspace(),
    }
    return known.get(name.removeprefix("NOT_"), False) == is_positive
