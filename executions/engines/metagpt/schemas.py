"""The shapes of structured answers: JSON schemas in which everything is bounded, and fitting what came back to them.

Small models obey a schema but fill whatever is unbounded without end, so every text and every list has a limit. A
text's limit is a hard one half above what is asked for, with the characters that it may have: a limit alone makes
them end in stray characters. What hits the limit is cut back to its last sentence.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

Schema = dict[str, Any]

SLACK = 1.5  # the hard limit of a text, in lengths that are asked for
MIN_SENTENCE = 0.4  # a cut text keeps its last sentence when that is at least this much of it
# Printable, without what JSON would have to escape and without brackets, in which small models nest lists.
_LATIN = " !#-Z^-~À-ɏ–—‘’“”…"
_LETTERS = {"en": f"[{_LATIN}]", "ko": f"[{_LATIN}가-힣·]"}
_FENCE = re.compile(r"^```\w*\s*|\s*```$")
_TAG = re.compile(r"\[/?CONTENT\]")


class Misfit(ValueError):
    """An answer that does not have the form that was asked for; str() says what is wrong, to the model too."""


def text(length: int, language: str = "en", *, least: int = 1, blank: bool = False) -> Schema:
    """A line of about `length` characters in a language; `blank`: nothing is an answer, too."""
    most = int(length * SLACK)
    if blank:
        least = 0
    first = "[가-힣]" if language == "ko" and not blank else ""  # keeps the field in Korean
    low = max(0, least - len(first[:1]))
    letters = _LETTERS.get(language, _LETTERS["en"])
    return {"type": "string", "pattern": f"^{first}{letters}{{{low},{most}}}$", "maxLength": most, "minLength": least}


def word(pattern: str, length: int = 40) -> Schema:
    """A name: something that matches `pattern`, a set of characters, up to `length` of them."""
    return {"type": "string", "pattern": f"^{pattern}$", "maxLength": length, "minLength": 1}


def choice(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def whole(low: int, high: int) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def many(item: Schema, least: int, most: int) -> Schema:
    return {"type": "array", "items": item, "minItems": least, "maxItems": most}


def record(**properties: Schema) -> Schema:
    return of(properties)


def of(properties: dict[str, Schema]) -> Schema:
    """An object with these properties and no others, in this order."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def shape(schema: Schema) -> str:
    """The schema as a short example in JSON, for models that are told the form in words alone."""
    return json.dumps(_shape(schema), ensure_ascii=False)


def _shape(schema: Schema) -> Any:
    if "enum" in schema:
        return "|".join(map(str, schema["enum"]))
    match schema.get("type"):
        case "object":
            return {key: _shape(value) for key, value in schema["properties"].items()}
        case "array":
            return [_shape(schema["items"]), "…"]
        case "integer":
            return schema.get("minimum", 0)
    return "text"


def parse(answer: str) -> Any:
    """The JSON in an answer, whatever stands around it. Raises Misfit."""
    bare = _FENCE.sub("", _TAG.sub("", answer).strip()).strip()
    start = bare.find("{")
    if start < 0:
        raise Misfit("there is no JSON object in the answer")
    try:
        return json.JSONDecoder(strict=False).raw_decode(bare, start)[0]
    except ValueError as exc:
        raise Misfit(f"the JSON cannot be read: {exc}") from exc


def fit(value: Any, schema: Schema, path: str = "the answer") -> Any:
    """`value` within the schema's bounds: cut where it is longer, turned where a form is close. Raises Misfit."""
    match schema.get("type"):
        case "object":
            return _object(value, schema, path)
        case "array":
            return _array(value, schema, path)
        case "integer":
            return _integer(value, schema, path)
    return _text(value, schema, path)


def _object(value: Any, schema: Schema, path: str) -> dict[str, Any]:
    properties = schema["properties"]
    if isinstance(value, str) and len(properties) > 1:  # "name: what it does", where a record was asked for
        first, found, rest = value.partition(":")
        if found and len(properties) == len(schema["required"]) == 2:
            value = dict(zip(properties, (first.strip(), rest.strip()), strict=True))
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == len(properties):
        value = dict(zip(properties, value, strict=True))
    if not isinstance(value, dict):
        raise Misfit(f"{path} is not an object")
    known = {_plain(key): item for key, item in value.items()}
    found_items: dict[str, Any] = {}
    for key, inner in properties.items():
        given = known.get(_plain(key))
        if given is None:
            given = _nothing(inner)
        if given is None:
            raise Misfit(f"“{key}” is missing")
        found_items[key] = fit(given, inner, f"“{key}”")
    return found_items


def _array(value: Any, schema: Schema, path: str) -> list[Any]:
    if isinstance(value, str):
        value = [line.strip(" -*•\t") for line in value.splitlines() if line.strip(" -*•\t")]
    elif isinstance(value, dict):
        value = [value] if set(map(_plain, value)) & set(map(_plain, schema["items"].get("properties", ()))) else [
            f"{key}: {item}" for key, item in value.items()
        ]  # fmt: skip
    if not isinstance(value, list):
        raise Misfit(f"{path} is not a list")
    items, trouble = [], ""
    for item in value:
        try:
            fitted = fit(item, schema["items"], f"an item of {path}")
        except Misfit as exc:
            trouble = str(exc)
            continue
        if fitted not in items:  # small models repeat themselves
            items.append(fitted)
    if len(items) < min(1, schema["minItems"]):
        raise Misfit(trouble or f"{path} is empty")
    return items[: schema["maxItems"]]


def _integer(value: Any, schema: Schema, path: str) -> int:
    try:
        number = int(float(value))
    except (TypeError, ValueError, OverflowError):
        raise Misfit(f"{path} is not a number") from None
    return min(max(number, schema["minimum"]), schema["maximum"])


def _text(value: Any, schema: Schema, path: str) -> str:
    if isinstance(value, list):
        value = " ".join(map(str, value))
    if isinstance(value, dict):
        value = "; ".join(f"{key}: {item}" for key, item in value.items())
    found = str(value).strip()
    if "enum" in schema:
        for allowed in schema["enum"]:
            if _plain(found) == _plain(allowed) or _plain(found).startswith(_plain(allowed)):
                return str(allowed)
        raise Misfit(f"{path} must be one of {', '.join(schema['enum'])}")
    if not found and schema.get("minLength", 0):
        raise Misfit(f"{path} is empty")
    most = schema.get("maxLength", len(found))
    return cut(found, most) if len(found) >= most - 1 else found


def cut(found: str, most: int) -> str:
    """A text of at most `most` characters that ends with a sentence, or at least with a word."""
    found = found[:most]
    ends = [match.end() for match in re.finditer(r"[.!?](?=\s|$)", found)]
    if ends and ends[-1] > len(found) * MIN_SENTENCE:
        return found[: ends[-1]]
    return re.sub(r"[\s,;:(-]+\S*$", "", found) or found


def _plain(key: Any) -> str:
    return re.sub(r"[\W_]+", "", str(key)).lower()


def _nothing(schema: Schema) -> Any:
    """What stands for a property that was left out; None where it must not be."""
    if schema.get("type") == "array" and not schema["minItems"]:
        return []
    if schema.get("type") == "string" and "enum" not in schema and not schema.get("minLength", 0):
        return ""
    return None


def compact(values: Mapping[str, Any]) -> str:
    """Values in few words, for a model to read."""
    return "\n".join(f"{key}: {_flat(value)}" for key, value in values.items())


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "; ".join(map(_flat, value))
    return str(value)
