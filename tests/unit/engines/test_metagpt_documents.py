"""Deliverables as Markdown, and what is read out of Markdown that people may have edited."""

import pytest

from executions.engines.metagpt import brief, diagrams, documents, fields, schemas

PLAN = {
    "Required packages": [],
    "Logic Analysis": [
        {"file": "main.py", "does": "Starts it", "uses": ["store.py", "ghost.py"]},
        {"file": "store.py", "does": "Keeps | items", "uses": ["item.py"]},
        {"file": "item.py", "does": "One item", "uses": ["main.py"]},
    ],
    "Full API spec": [],
    "Shared Knowledge": "Items are JSON.",
    "Anything UNCLEAR": "Nothing.",
}


def test_a_plan_lists_files_after_those_that_they_use_even_in_a_circle():
    circle = [task["file"] for task in documents.in_order(PLAN["Logic Analysis"])]
    assert sorted(circle) == ["item.py", "main.py", "store.py"]
    straight = [{**PLAN["Logic Analysis"][0]}, PLAN["Logic Analysis"][1], {**PLAN["Logic Analysis"][2], "uses": []}]
    assert [task["file"] for task in documents.in_order(straight)] == ["item.py", "store.py", "main.py"]


def test_what_starts_the_program_is_planned_last_even_in_a_circle():
    assert [task["file"] for task in documents.in_order(PLAN["Logic Analysis"])][-1] == "main.py"


def test_a_plan_tells_of_each_file_of_the_design_once_and_of_no_other():
    schema = fields.plan("en", ["store.py", "main.py"])["Logic Analysis"].schema
    answer = {"main.py": {"does": "Starts it.", "uses": ["store.py"]}, "store.py": {"does": "Keeps.", "uses": []}}
    told = fields.tasks(schemas.fit(answer, schema))
    assert {task["file"]: task["uses"] for task in told} == {"main.py": ["store.py"], "store.py": []}
    with pytest.raises(schemas.Misfit):
        schemas.fit({"main.py": answer["main.py"], "ghost.py": answer["store.py"]}, schema)
    alone = fields.plan("en", ["main.py"])["Logic Analysis"].schema
    assert fields.tasks(schemas.fit({"main.py": {"does": "All.", "uses": []}}, alone))[0]["file"] == "main.py"


@pytest.mark.parametrize(
    ("asked", "kind", "speaks"),
    [
        ("A to-do list in the terminal; the rest is up to you", "", False),
        ("A REST service for notes", "", True),
        ("서버에 기록을 저장한다", "", True),
        ("A list", "web_app", True),
        ("A list", "desktop", False),
    ],
)
def test_endpoints_are_planned_where_somebody_speaks_of_them(asked, kind, speaks):
    spec = {"materials": [], "tasks": [], "project": {"requirement": asked, "technical": {}, "type": kind}}
    assert brief.speaks_of_http(spec) is speaks


@pytest.mark.parametrize("language", ["en", "ko"])
def test_the_files_of_a_plan_are_found_in_its_markdown(language):
    markdown = documents.plan("Plan", PLAN, language)
    assert documents.planned_files(markdown) == [task["file"] for task in documents.in_order(PLAN["Logic Analysis"])]


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        (
            "# Plan\n## Task list\n\n- **store.py** keeps items, see `main.py`\n- src/main.py\n",
            ["store.py", "src/main.py"],
        ),
        ("## Files\n| File | Purpose |\n| --- | --- |\n| `app/a.js` | x |\n", ["app/a.js"]),
        ("## 작업 목록\n1. `할일` 저장: `todo.py`\n", ["todo.py"]),
        ("Write `one.py`, then two.py. Version 1.2 of data.json is read.", ["one.py", "two.py"]),
        ("```python\nopen('x.py')\n```\nno file here", []),
        ("## Files\n- `main.py`\n- `notes.txt`\n- `requirements.txt`\n", ["main.py", "requirements.txt"]),
    ],
)
def test_files_are_found_in_whatever_form_people_write_them(markdown, expected):
    assert documents.planned_files(markdown) == expected


def test_listed_files_are_read_back():
    files = [{"path": "a/b.py", "content": "x = 1\n"}, {"path": "c.md", "content": "# Hi\n\ntext\n"}]
    assert documents.listed("# Code\n\n" + documents.listing(files)) == {f["path"]: f["content"] for f in files}


def test_tables_keep_their_columns():
    markdown = documents.plan(
        "Plan", {**PLAN, "Full API spec": [{"method": "GET", "path": "/a|b", "does": "x\ny"}]}, "en"
    )
    assert r"| GET | `/a\|b` | x y |" in markdown


def test_empty_sections_are_left_out():
    assert documents.assembled("T", [("A", ""), ("B", "text")]) == "# T\n\n## B\n\ntext\n"


def test_diagrams_are_valid_whatever_the_names_are():
    found = [
        {"name": "Item{}", "attributes": ["a: int"], "methods": ["run(self, x: Store) -> None"]},
        {"name": "Store", "attributes": [], "methods": ["all() -> list<Item>"]},
    ]
    text = diagrams.classes(found)
    assert text.count("{") == text.count("}") == 2
    assert "+run(x: Store) -  None" in text or "+run(x: Store)" in text
    assert "Item --> Store" in text
    assert diagrams.calls([{"from": "User", "to": "end", "call": "a; b"}]).endswith("User->>end_: a  b")
    chart = {"x_low": 'a"', "x_high": "b", "y_low": "c", "y_high": "d", "points": [{"name": "P", "x": 10, "y": 0}]}
    assert '"P": [0.95, 0.05]' in diagrams.quadrant(chart, "T")
