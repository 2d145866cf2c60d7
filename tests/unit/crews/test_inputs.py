"""What a person fills in before a run."""

import base64

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from crews.inputs import MAX_FILE, InputFile, InvalidInputs, clean_inputs
from tests.factories.crews import CrewFactory, CrewInputFactory

pytestmark = pytest.mark.django_db


def crew_with(**fields):
    crew = CrewFactory()
    CrewInputFactory(crew=crew, field_name="x", **fields)
    return crew


def code_of(crew, raw):
    with pytest.raises(InvalidInputs) as refused:
        clean_inputs(crew, raw)
    assert (refused.value.status, refused.value.code) == (400, "invalid_input")
    [error] = refused.value.errors
    return error.field, error.code


@pytest.mark.parametrize(
    ("kind", "given", "value"),
    [
        ("text", " tea ", "tea"),
        ("text", 3, "3"),
        ("text", "one\r\nline", "one line"),
        ("textarea", "two\r\nlines", "two\nlines"),
        ("number", "3", 3),
        ("number", "-2.5", -2.5),
        ("number", 4, 4),
        ("boolean", "yes", True),
        ("boolean", False, False),
        ("boolean", None, False),
        ("boolean", "off", False),
        ("select", "a", "a"),
    ],
)
def test_values_by_type(kind, given, value):
    crew = crew_with(field_type=kind, options=["a", "b"] if kind == "select" else [])
    found = clean_inputs(crew, {"x": given}).values["x"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("kind", "given", "code"),
    [
        ("text", ["tea"], "not_text"),
        ("text", True, "not_text"),
        ("text", "a\x00b", "not_text"),
        ("text", "x" * 1001, "too_long"),
        ("textarea", "x" * 100_001, "too_long"),
        ("number", "many", "not_a_number"),
        ("number", "nan", "not_a_number"),
        ("number", float("inf"), "not_a_number"),
        ("number", 10**400, "not_a_number"),
        ("number", True, "not_a_number"),
        ("number", [], "not_a_number"),
        ("boolean", "perhaps", "not_a_boolean"),
        ("select", "c", "not_an_option"),
        ("file", "text", "not_a_file"),
        ("file", {"name": "a"}, "not_a_file"),
        ("file", {"name": "a", "content": "x", "content_base64": "eA=="}, "not_a_file"),
        ("file", {"name": "a", "content_base64": "%%%"}, "not_a_file"),
        ("file", {"name": "..", "content": "x"}, "bad_file_name"),
        ("file", {"name": "/", "content": "x"}, "bad_file_name"),
        ("file", {"name": "a" * 201, "content": "x"}, "bad_file_name"),
        ("file", {"name": "a", "content": "x" * (MAX_FILE + 1)}, "too_large"),
    ],
)
def test_what_cannot_be_used_is_named(kind, given, code):
    crew = crew_with(field_type=kind, options=["a"] if kind == "select" else [])
    assert code_of(crew, {"x": given}) == ("inputs.x", code)


@pytest.mark.parametrize("empty", [None, "", "  "])
def test_what_is_missing_takes_the_default_or_is_asked_for(empty):
    assert clean_inputs(crew_with(field_type="number", default="7"), {"x": empty}).values == {"x": 7}
    assert code_of(crew_with(), {"x": empty}) == ("inputs.x", "required")
    assert clean_inputs(crew_with(is_required=False), {"x": empty}).values == {"x": ""}
    assert clean_inputs(crew_with(is_required=False, field_type="number"), {}).values == {"x": None}
    assert code_of(crew_with(field_type="file"), {}) == ("inputs.x", "required")


def test_zero_is_a_value():
    assert clean_inputs(crew_with(field_type="number", default="7"), {"x": 0}).values == {"x": 0}


@pytest.mark.parametrize(
    "given",
    [
        {"name": "C:\\notes\\tea.txt", "content": "grün"},
        {"name": "../../tea.txt", "content_base64": base64.b64encode("grün".encode()).decode()},
        SimpleUploadedFile("tea.txt", "grün".encode()),
        InputFile("tea.txt", "grün".encode()),
    ],
)
def test_files_come_by_name_and_content(given):
    cleaned = clean_inputs(crew_with(field_type="file"), {"x": given})
    assert cleaned.files == {"x": InputFile("tea.txt", "grün".encode())}
    assert cleaned.values == {"x": "tea.txt"}


def test_every_fault_is_listed_and_unknown_names_are_faults():
    crew = crew_with(field_type="number")
    CrewInputFactory(crew=crew, field_name="y")
    with pytest.raises(InvalidInputs) as refused:
        clean_inputs(crew, {"x": "many", "z": 1})
    assert [(error.field, error.code) for error in refused.value.errors] == [
        ("inputs.z", "unknown_input"),
        ("inputs.x", "not_a_number"),
        ("inputs.y", "required"),
    ]


@pytest.mark.parametrize("raw", [None, [], "x=1"])
def test_inputs_are_a_mapping(raw):
    assert code_of(crew_with(), raw) == ("inputs", "invalid")
