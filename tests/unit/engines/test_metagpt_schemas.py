"""The shapes of structured answers: bounded, and forgiving towards what is close."""

import json
import re

import pytest

from executions.engines.metagpt import fields, schemas
from executions.engines.metagpt.schemas import Misfit, fit, parse


def bounded(schema):
    match schema.get("type"):
        case "object":
            return all(map(bounded, schema["properties"].values())) and schema["additionalProperties"] is False
        case "array":
            return "maxItems" in schema and bounded(schema["items"])
        case "integer":
            return "maximum" in schema
    return "enum" in schema or ("maxLength" in schema and schema["pattern"].startswith("^"))


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize("form", sorted(fields.FORMS))
def test_every_part_of_every_form_is_bounded(form, language):
    for key, part in fields.FORMS[form](language).items():
        assert bounded(part.schema), key


def test_a_type_that_no_form_knows_is_bounded_too():
    for kind in (str, int, list, list[list[str]], str | None, dict):
        assert bounded(fields.typed(kind, "en"))


def test_korean_fields_begin_in_korean_and_allow_latin():
    pattern = schemas.text(20, "ko")["pattern"]
    assert re.match(pattern, "할 일을 main.py 파일에 저장")
    assert not re.match(pattern, "English")


@pytest.mark.parametrize(
    "answer",
    [
        '{"a": 1}',
        '```json\n{"a": 1}\n```',
        'Here it is:\n{"a": 1}\nGood luck!',
        '[CONTENT]\n{"a": 1}\n[/CONTENT]',
    ],
)
def test_json_is_found_whatever_stands_around_it(answer):
    assert parse(answer) == {"a": 1}


@pytest.mark.parametrize("answer", ["", "no", '{"a": '])
def test_what_is_no_json_is_a_misfit(answer):
    with pytest.raises(Misfit):
        parse(answer)


SCHEMA = schemas.record(
    name=schemas.text(20),
    kind=schemas.choice("P0", "P1"),
    parts=schemas.many(schemas.record(file=schemas.text(20), does=schemas.text(20)), 1, 2),
    size=schemas.whole(0, 10),
    note=schemas.text(20, blank=True),
)


def test_what_is_close_is_turned_into_what_was_asked_for():
    given = {"Name": "x", "kind": "p1 (high)", "parts": ["main.py: starts it", ["a.py", "rest"]], "size": "99"}
    assert fit(given, SCHEMA) == {
        "name": "x",
        "kind": "P1",
        "parts": [{"file": "main.py", "does": "starts it"}, {"file": "a.py", "does": "rest"}],
        "size": 10,
        "note": "",
    }


@pytest.mark.parametrize(
    "change", [{"name": ""}, {"name": None}, {"kind": "urgent"}, {"parts": []}, {"parts": 3}, {"size": "big"}]
)
def test_what_is_missing_or_of_another_kind_is_a_misfit(change):
    whole = {"name": "x", "kind": "P0", "parts": [{"file": "a", "does": "b"}], "size": 1}
    with pytest.raises(Misfit):
        fit({**whole, **change}, SCHEMA)


def test_lists_lose_repetitions_and_what_is_too_many():
    schema = schemas.many(schemas.text(20), 1, 2)
    assert fit(["a", "a", "b", "c"], schema) == ["a", "b"]
    assert fit("- a\n- b", schema) == ["a", "b"]


def test_texts_that_hit_their_limit_end_with_a_sentence_or_a_word():
    schema = schemas.text(20)
    assert fit("A whole sentence here. And a hal", schema) == "A whole sentence here."
    assert fit("one two three four five six seven", schema) == "one two three four five six"


def test_the_shape_in_words_is_json():
    assert json.loads(schemas.shape(SCHEMA))["kind"] == "P0|P1"
