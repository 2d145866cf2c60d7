import re

import pytest

from executions.engines.samples import example, matching


@pytest.mark.parametrize(
    ("pattern", "least"),
    [
        ("^[ !#-Z^-~À-ɏ–—‘’“”…]{3,90}$", 3),
        ("^[가-힣][a-z가-힣·]{4,60}$", 10),
        (r"^[a-z][a-z0-9_]{0,30}(/[a-z0-9_]+)*\.(py|md)$", 1),
        (r"^\d{4}-\d\d?$", 1),
        (r"^[^a-z\s]+?x*$", 5),
        (r"^(?:yes|no)\w?.$", 1),
        ("^$", 1),
    ],
)
def test_a_text_matches_its_pattern(pattern, least):
    text = matching(pattern, least)
    assert re.fullmatch(pattern, text)
    assert len(text) >= least or pattern == "^$"
    assert len(text) <= 2 * least + 12
    assert text == matching(pattern, least)


def test_a_value_obeys_its_schema():
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "pattern": "^[a-z]{2,9}$", "minLength": 2},
            "kind": {"enum": ["x", "y"]},
            "parts": {"type": "array", "items": {"$ref": "#/$defs/part"}, "minItems": 2},
            "left_out": {"type": "string"},
        },
        "required": ["name", "kind", "parts"],
        "$defs": {"part": {"type": "integer", "minimum": 3}},
    }
    assert example(schema) == {"name": "aa", "kind": "x", "parts": [3, 3]}
