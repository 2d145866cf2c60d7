"""`{field_name}` in texts."""

import pytest

from crews.placeholders import fill, names_in, unknown_names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Write about {topic} for {target_audience}, and {topic} again", ["topic", "target_audience"]),
        ('{"key": "value"} { topic } {} {1} {a-b} {a.b}', []),
        ("{{topic}}", ["topic"]),
        ("{주제}", []),
    ],
)
def test_only_braces_around_a_name_count(text, names):
    assert names_in(text) == names


@pytest.mark.parametrize(("value", "shown"), [("tea", "tea"), (3, "3"), (2.5, "2.5"), (True, "yes"), (None, "")])
def test_values_are_put_in(value, shown):
    assert fill("[{x}] {y}", {"x": value}) == f"[{shown}] {{y}}"


def test_a_value_is_not_searched_again():
    assert fill("{a} {b}", {"a": "{b}", "b": "{a}"}) == "{b} {a}"


def test_unknown_names_are_told_by_field():
    errors = unknown_names({"goal": "{a} {b}", "role": "{b} {c}"}, {"a", "b"}, whose="Cook")
    assert [(error.field, error.code) for error in errors] == [("role", "unknown_placeholder")]
    assert errors[0].detail.startswith("Cook: {c}")
