"""The tools that come along, and what they refuse."""

from pathlib import Path

import pytest

from crews.builtin_tools import BUILTIN, MAX_TEXT, ToolError

HERE = Path()


def calculate(expression: str) -> str:
    return BUILTIN["calculator"].run({"expression": expression}, HERE)


def read(name: str, folder: Path) -> str:
    return BUILTIN["read_input_file"].run({"name": name}, folder)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 + 3 * 4", "14"),
        ("(1 + 2) ^ 2", "9"),
        ("7 / 2", "3.5"),
        ("6 ÷ 2 × 3", "9"),
        ("-3 % 5", "2"),
        ("sqrt(2) ** 2 - 2", "4.440892098500626e-16"),
        ("round(10 / 3, 2)", "3.33"),
        ("max(1, 2, 3) * pi", str(3 * 3.141592653589793)),
        ("10 ** 20", "100000000000000000000"),
    ],
)
def test_arithmetic_is_computed(expression: str, value: str) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "1 / 0",
        "9 ** 9 ** 9",
        "10 ** 400",
        "2 ** 5000",
        "(-1) ** 0.5",
        "__import__('os')",
        "(1).__class__",
        "'a' * 9",
        "[1] * 9",
        "True + 1",
        "1 if 1 else 2",
        "x",
        "1 +",
        "sqrt(-1)",
        "round(1, ndigits=2)",
        "(" * 300 + ")" * 300,
        "1" * 600,
        "1\0",
        "lambda: 1",
        "factorial(9)",
    ],
)
def test_anything_else_is_refused_with_a_sentence(expression: str) -> None:
    with pytest.raises(ToolError, match=r"\w+ .*\."):
        calculate(expression)


def test_a_file_is_read_by_its_name_or_its_field(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("강은 흐른다", encoding="utf-8")
    (tmp_path / "notes" / "b.txt").write_bytes("강은 흐른다".encode("cp949"))
    assert read("a.txt", tmp_path) == read("notes/a.txt", tmp_path) == read("b.txt", tmp_path) == "강은 흐른다"


def test_a_long_file_is_cut_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("가" * 600_000, encoding="utf-8")
    text = read("long.txt", tmp_path)
    assert text.startswith("가" * MAX_TEXT)
    assert "goes on" in text
    assert len(text) < MAX_TEXT + 100


def test_no_path_leads_out(tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    (inputs / "mine.txt").write_text("mine")
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    (inputs / "link.txt").symlink_to(secret)
    for name in ("../secret.txt", str(secret), "link.txt", "..", "", ".", "inputs/../../secret.txt", "mine.txt/../x"):
        with pytest.raises(ToolError, match=r"mine\.txt"):
            read(name, inputs)


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="no input files"):
        read("a.txt", tmp_path / "nothing")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\0\0\0")
    with pytest.raises(ToolError, match="not a text file"):
        read("image.png", tmp_path)
